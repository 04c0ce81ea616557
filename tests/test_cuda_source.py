"""The CUDA kernels without a GPU: compiled by NVRTC, and run on an emulated device.

All that the suite asks of a backend it asks of the emulated one as well (`cupy-emulated` of the fixture `ops`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import charlstm_command, make_ops
from emulated_cuda import SIGNATURE, emulated_ops
from numpy.testing import assert_allclose

import charlstm
from charlstm.backends import Ops, cupy_device
from charlstm.backends.cublas import COMPUTE_TYPES
from charlstm.backends.cuda_kernels import REALS, cuda_source
from charlstm.backends.precision import on_device
from charlstm.data import coffee
from charlstm.training import Reporter, StopSignals, prepare
from charlstm.verification import CASES, agreement_error, results


@pytest.fixture(scope="module", params=["forwards", "backwards"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ops:
    return emulated_ops(tmp_path_factory.mktemp("cuda"), request.param == "backwards")


def test_the_order_of_threads_does_not_matter(device: Ops) -> None:
    """A barrier that is missing, or a sum whose order is not fixed, would show."""
    case = next(case for case in CASES if case.name == "AWD-LSTM")
    reference = make_ops("numpy")
    for dtype, allowed in (("float64", 1e-12), ("float32", 1e-4)):
        found = results(case, device, dtype)
        assert agreement_error(found, results(case, reference, "float64")) < allowed
    again = results(case, device, "float32")
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_every_kernel_is_launched(device: Ops, rng: np.random.Generator, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(coffee.text(400))
    for name in ("adam", "sgd", "adagrad", "rmsprop"):
        config = charlstm.Config(
            charlstm.ModelConfig(hidden_size=6, num_layers=1, dropout=0.0),
            charlstm.DataConfig(batch_size=2, seq_len=5),
            charlstm.TrainingConfig(optimizer=name, max_steps=2, averaging="ema", learning_rate=0.01),
        )
        trainer = prepare(text, config, tmp_path / name, device, None, Reporter())
        with StopSignals(trainer.reporter) as stop:
            trainer.train(stop)
    logits, targets, weights = rng.standard_normal((3, 5)), np.array([4, 0, 2]), np.array([1.0, 0.0, 2.0])
    exact = make_ops("numpy")
    assert_allclose(device.softmax(logits), exact.softmax(logits))
    for ours, expected in zip(
        device.softmax_cross_entropy(logits, targets, 0.1, weights),
        exact.softmax_cross_entropy(logits, targets, 0.1, weights),
        strict=True,
    ):
        assert_allclose(ours, expected)
    assert device.xp.launched == {name for name, _ in SIGNATURE.findall(cuda_source())}


@pytest.mark.parametrize(
    ("V", "N", "D"), [(1, 1, 1), (5, 40, 7), (3, 3000, 2), (70, 5000, 3), (2000, 900, 2)]
)
def test_segment_sums(device: Ops, V: int, N: int, D: int, rng: np.random.Generator) -> None:
    """Segments of one place, of none, and of many chunks and pieces; the same to the bit each time."""
    ids = np.minimum(rng.geometric(0.2, N) - 1, V - 1) if V > 5 else rng.integers(0, max(1, V - 1), N)
    rows, d = rng.standard_normal((N, D)).astype(np.float32), rng.standard_normal((V, D)).astype(np.float32)
    expected = d.astype(np.float64)
    np.add.at(expected, ids, rows)
    sums = []
    for _ in range(2):
        total = d.copy()
        device.scatter_add_rows(total, ids, rows)
        sums.append(total)
    assert_allclose(sums[0], expected, rtol=0, atol=1e-4)
    assert np.array_equal(*sums)


def test_what_lies_outside_is_no_number(device: Ops) -> None:
    """Ids are not checked on the device: what is outside of a table shows in the result, and breaks nothing."""
    table = np.ones((3, 2))
    found = device.gather_rows(table, np.array([0, 3, -1, 2]))
    assert np.isnan(found[1:3]).all()
    assert (found[[0, 3]] == 1).all()
    loss, _ = device.softmax_cross_entropy(np.zeros((2, 4)), np.array([1, 9]))
    assert np.isnan(loss)


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "auto"])
def test_precisions_are_cublas_own(precision: str) -> None:
    assert on_device(precision) in COMPUTE_TYPES  # type: ignore[arg-type]


# ---- where there is no GPU, or not a good one ------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    pass


def cupy_with(monkeypatch: pytest.MonkeyPatch, **runtime: Any) -> str | None:
    """Why CuPy cannot compute, with a runtime of these functions."""
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError, **runtime))  # type: ignore[attr-defined]
    module.float32 = np.float32  # type: ignore[attr-defined]
    module.arange = runtime.pop("arange", np.arange)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    return cupy_device.cupy_unavailable.__wrapped__()


def test_devices_and_drivers_that_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise CUDARuntimeError(text)

        return call

    def out_of_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    assert cupy_with(monkeypatch, getDeviceCount=lambda: 0) == "no CUDA device"
    versions = {"driverGetVersion": lambda: 11080, "runtimeGetVersion": lambda: 12090}
    reason = cupy_with(monkeypatch, getDeviceCount=fails("cudaErrorInsufficientDriver"), **versions)
    assert "driver is too old: it knows CUDA 11.8, and this CuPy is built for 12.9" in str(reason)
    versions = {"driverGetVersion": lambda: 0, "runtimeGetVersion": lambda: 12090}
    reason = cupy_with(monkeypatch, getDeviceCount=fails("cudaErrorNoDevice"), **versions)
    assert "no NVIDIA driver" in str(reason)
    reason = cupy_with(monkeypatch, getDeviceCount=lambda: 1, arange=out_of_memory)
    assert "no memory left" in str(reason)
    monkeypatch.setattr(cupy_device, "load_library", fails("libcublas.so.12: no such file"))
    assert "cuBLAS cannot be loaded: libcublas" in str(cupy_with(monkeypatch, getDeviceCount=lambda: 1))
    monkeypatch.setattr(cupy_device, "load_library", lambda: None)
    assert cupy_with(monkeypatch, getDeviceCount=lambda: 1) is None
    wrong = cupy_with(monkeypatch, getDeviceCount=lambda: 1, arange=lambda *_, **__: np.zeros(4))
    assert "computes wrongly" in str(wrong)


def test_without_a_gpu_the_command_says_so() -> None:
    if cupy_device.cupy_unavailable() is None:
        pytest.skip("there is a GPU")
    done = charlstm_command("train", "--backend", "cupy", "--max-steps", 1)
    assert done.returncode == 5
    assert "the cupy backend cannot run here" in done.stderr


# ---- NVRTC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_nvrtc_compiles_the_source(architecture: str, dtype: str) -> None:
    pytest.importorskip("cupy", reason="CuPy, and with it nvrtc, is not installed")
    from cupy_backends.cuda.libs import nvrtc

    try:
        version = nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"nvrtc cannot be loaded: {error}")
    if architecture in ("sm_100", "sm_120") and version < (12, 8):
        pytest.skip(f"nvrtc {version} does not know {architecture}")
    options = f"-DREAL={REALS[dtype]}", "--std=c++17", f"--gpu-architecture={architecture}"
    program = nvrtc.createProgram(cuda_source(), "charlstm.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        binary = nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)
    assert all(name.encode() in binary for name, _ in SIGNATURE.findall(cuda_source()))


@pytest.mark.gpu
def test_products_on_the_device() -> None:
    """Every precision, views that transpose, sums onto what is there: cuBLAS as it is called."""
    make_ops("cupy")
    rng = np.random.default_rng(0)
    for precision, allowed in (("highest", 1e-5), ("high", 2e-2), ("medium", 1e-1)):
        ops = charlstm.get_ops("cupy", matmul_precision=precision)  # type: ignore[arg-type]
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((65, 130), (130, 70)))
        for left in (ops.asarray(a), ops.asarray(np.ascontiguousarray(a.T)).T):
            for right in (ops.asarray(b), ops.asarray(np.ascontiguousarray(b.T)).T):
                assert_allclose(ops.to_numpy(ops.matmul(left, right)), a @ b, rtol=0, atol=10 * allowed)
