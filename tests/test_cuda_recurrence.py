"""The persistent recurrence on the emulated GPU, against the reference with the same roundings."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
from conftest import make_ops
from cuda_emulator import Function, RawModule, rounded
from numpy.testing import assert_allclose
from test_cuda_source import compile_for

from charlstm.backends.cuda_kernels import cuda_source
from charlstm.backends.numpy_ops import NumPyOps
from charlstm.backends.persistent import PersistentRecurrence, Plan, plan_for

TOLERANCE = 2e-5  # of sums in another order


class BfloatOps(NumPyOps):
    """The reference, whose float32 products round their factors to bfloat16."""

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        return super().matmul(rounded(a, 8), rounded(b, 8), out)


def compared(cuda: str, T: int, B: int, H: int, plan: Plan | None = None) -> None:
    """Forward and backward, the states' gradients too."""
    rng = np.random.default_rng([T, B, H])
    wx = rng.standard_normal((T, B, 3 * H)).astype(np.float32)
    R = (rng.standard_normal((H, 3 * H)) / np.sqrt(H)).astype(np.float32)
    h0, c0, dc = (rng.uniform(-1, 1, (B, H)).astype(np.float32) for _ in range(3))
    dh = rng.standard_normal((T, B, H)).astype(np.float32)
    ops, reference = make_ops(cuda), BfloatOps()
    ops.matmul_precision = "medium"
    if plan is not None:
        ops._persistent.plan = lambda H, B: plan  # type: ignore[method-assign]
    expected = reference.cifg_forward(wx, R, h0, c0)
    tape = ops.cifg_forward(*(ops.asarray(x) for x in (wx, R, h0, c0)))
    for ours, theirs in zip(tape, expected, strict=True):
        # now and then a sum lies between two bfloat16 numbers and goes the other way
        assert_allclose(ops.to_numpy(ours), theirs, rtol=0, atol=2e-3)
        assert np.median(np.abs(ops.to_numpy(ours) - theirs)) < TOLERANCE
    back = ops.cifg_backward(ops.asarray(dh), ops.asarray(dc), ops.asarray(R), tape)
    wanted = reference.cifg_backward(dh, dc, R, type(tape)(*(ops.to_numpy(x) for x in tape)))
    for ours, theirs in zip(back, wanted, strict=True):
        assert_allclose(ops.to_numpy(ours), theirs, rtol=0, atol=1e-2 * np.abs(theirs).max())
        assert np.median(np.abs(ops.to_numpy(ours) - theirs)) < TOLERANCE
    assert {name for _, names, _ in ops._table if names for name in names} == {"cluster", "recurrence"}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("T", "B", "H"), [(1, 1, 1), (2, 3, 17), (4, 9, 64), (3, 17, 100), (3, 5, 130)])
def test_sizes_that_nothing_divides(
    cuda: str, T: int, B: int, H: int, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawModule, "backwards", backwards)
    compared(cuda, T, B, H)


def test_the_largest_cluster(cuda: str) -> None:
    compared(cuda, 2, 3, 500)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(40, 1, 48, 8, 4),  # warps that no tile is left for
        Plan(40, 4, 16, 16, 2),  # tiles of 16 rows, more blocks than needed
        Plan(60, 2, 32, 24, 3),
    ],
)
def test_other_plans(cuda: str, plan: Plan) -> None:
    compared(cuda, 3, 19, plan.HIDDEN, plan)


def test_plans() -> None:
    assert plan_for(128, 64, 132) == Plan(128, 2, 64, 8)
    assert plan_for(512, 64, 132) == Plan(512, 8, 64, 8)
    assert plan_for(256, 512, 132) == Plan(256, 4, 64, 16)
    assert plan_for(513, 8, 132) is None
    for H in range(1, 513):
        for B in (1, 1000):
            plan = plan_for(H, B, 132)
            assert plan is not None
            assert plan.CLUSTER * plan.UNITS >= H
            assert max(plan.shared(False), plan.shared(True)) <= 99 << 10  # of an sm_120


def test_what_does_not_fit_runs_step_by_step(caplog: pytest.LogCaptureFixture) -> None:
    ops = make_ops("cupy-emulated")
    ops.matmul_precision = "medium"
    with caplog.at_level(logging.INFO):
        assert ops._plan(3, 2, 520, np.dtype(np.float32)) is None
        assert ops._plan(3, 2, 520, np.dtype(np.float32)) is None
    assert [record.message for record in caplog.records] == [
        "the recurrence takes a product and a kernel for each step: 520 units are more than 512"
    ]
    ops._persistent._clusters = False
    with caplog.at_level(logging.INFO):
        assert ops._plan(3, 2, 64, np.dtype(np.float32)) is None
    assert "no thread-block clusters" in caplog.records[-1].message
    assert isinstance(ops._persistent, PersistentRecurrence)


def test_a_device_that_does_not_take_the_launch_goes_step_by_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ops = make_ops("cupy-emulated")
    ops.matmul_precision = "medium"
    wx, R, state = (ops.asarray(np.full(shape, 0.1, np.float32)) for shape in ((4, 3, 48), (16, 48), (3, 16)))
    expected = ops.cifg_forward(wx, R, state, state)
    dh, launch = ops.asarray(np.ones((4, 3, 16), np.float32)), Function.__call__

    def refuse(self: Function, *given: Any, **named: Any) -> None:
        if self._name.startswith("recurrence"):
            raise RuntimeError("cudaErrorLaunchOutOfResources")
        launch(self, *given, **named)

    back = ops.cifg_backward(dh, state, R, expected)
    monkeypatch.setattr(Function, "__call__", refuse)
    found = ops.cifg_forward(wx, R, state, state)
    again = ops.cifg_backward(dh, state, R, found)
    for ours, theirs in zip((*found, *again), (*expected, *back), strict=True):
        assert_allclose(ops.to_numpy(ours), ops.to_numpy(theirs), rtol=0, atol=2e-3)
    assert [record.message for record in caplog.records] == [
        "the recurrence takes a product and a kernel for each step: cudaErrorLaunchOutOfResources"
    ]


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("plan", [plan_for(100, 8, 132), plan_for(256, 512, 132), plan_for(512, 64, 132)])
def test_nvrtc_compiles_it_and_r_stays_in_registers(architecture: str, plan: Plan) -> None:
    code, log = compile_for(
        architecture, cuda_source("cluster", "recurrence"), REAL="float", **plan._asdict()
    )
    assert b"recurrence_backward" in code
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", log)]
    assert len(spills) == 4, log
    assert max(spills) <= 128, log  # of 512 bytes of registers; R takes up to 384
