"""The CUDA sources without a GPU: compiled by NVRTC, and run on the CPU (tests/cuda_emulator.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from conftest import make_ops
from cuda_emulator import KERNEL, RawModule, emulated, rounded
from numpy.testing import assert_allclose

from charlstm.backends import Ops
from charlstm.backends.capture import Captured
from charlstm.backends.cublas import COMPUTE_TYPES
from charlstm.backends.cuda_kernels import REALS, Kernels, cuda_source
from charlstm.backends.precision import on_device
from charlstm.verification import CASES, agreement_error, captured_error, check_backend, drawn_error, results

ARCHITECTURES = ["sm_80", "sm_90", "sm_100", "sm_120"]


@pytest.fixture(params=[False, True], ids=["threads in order", "threads in reverse"])
def device(request: pytest.FixtureRequest) -> Iterator[Ops]:
    """The emulated device; a barrier that is missing shows in one of the two orders."""
    ops = make_ops("cupy-emulated")
    RawModule.backwards = request.param
    yield ops
    RawModule.backwards = False


@pytest.mark.parametrize("V", [1, 5, 70, 1100])
def test_segment_sum_of_many_chunks(device: Ops, dtype: str, V: int, rng: np.random.Generator) -> None:
    """More ids than a chunk, symbols of more places than a piece and of none, ids that do not exist."""
    N, D = 2500, 3
    ids = np.minimum(rng.integers(0, V, N), rng.integers(0, V, N))
    ids[7], ids[2000] = -1, V
    rows, d = rng.standard_normal((N, D)).astype(dtype), rng.standard_normal((V, D)).astype(dtype)
    expected, known = d.astype(np.float64), (ids >= 0) & (ids < V)
    np.add.at(expected, ids[known], rows[known])
    there = device.asarray(d)
    device.scatter_add_rows(there, device.asarray(ids), device.asarray(rows))
    assert_allclose(device.to_numpy(there), expected, rtol=0, atol=2e-4 if dtype == "float32" else 1e-11)


def test_rows_that_do_not_exist_are_no_numbers(device: Ops) -> None:
    table = np.arange(6.0).reshape(3, 2)
    found = device.to_numpy(
        device.gather_rows(device.asarray(table), device.asarray(np.array([2, 3, -1, 0])))
    )
    assert np.array_equal(found[[0, 3]], table[[2, 0]])
    assert np.isnan(found[1:3]).all()
    eye, bias = device.asarray(np.eye(2)), device.asarray(np.zeros(2))
    loss, _ = device.head_loss(device.asarray(table), eye, bias, device.asarray(np.array([0, 1, 2])))
    assert np.isnan(loss)


@pytest.mark.parametrize("V", [1, 31, 33, 100])
def test_cross_entropy_of_any_width(device: Ops, dtype: str, V: int, rng: np.random.Generator) -> None:
    reference = make_ops("numpy")
    logits, targets = rng.standard_normal((9, V)).astype(dtype), rng.integers(0, V, 9)
    weights, eye, bias = (x.astype(dtype) for x in (rng.uniform(0, 2, 9), np.eye(V), rng.standard_normal(V)))
    there = [device.asarray(x) for x in (logits, eye, bias, targets)]
    dweight, dbias = device.asarray(eye), device.asarray(bias)
    for given in (None, weights):
        counts = None if given is None else device.asarray(given)
        ours, ours_gradient = device.head_gradients(*there, dweight, dbias, 0.1, row_weights=counts)
        loss, gradient = reference.softmax_cross_entropy(logits + bias, targets, 0.1, given)
        assert ours == pytest.approx(loss, rel=1e-5, abs=1e-6)
        assert_allclose(device.to_numpy(ours_gradient), gradient, rtol=0, atol=1e-6)


def test_precision_of_products(dtype: str, rng: np.random.Generator) -> None:
    """Sums stay float32, and float64 is never rounded."""
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((20, 30), (30, 10)))
    ops = make_ops("cupy-emulated")
    assert ops.matmul_precision == "highest"
    for precision, bits in (("highest", 24), ("high", 11), ("medium", 8)):
        ops.matmul_precision = precision
        expected = rounded(a, bits) @ rounded(b, bits) if dtype == "float32" else a @ b
        for factors in (
            (a, b),
            (np.asfortranarray(a), np.asfortranarray(b)),
            (a[:, ::1], np.repeat(b, 2, 0)[::2]),
        ):
            found = ops.to_numpy(ops.matmul(*(ops.asarray(x) for x in factors)))
            assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


def test_parts_of_matrices(rng: np.random.Generator) -> None:
    """Rows, columns and transposes that lie in larger matrices are not copied; what is turned around is."""
    ops = make_ops("cupy-emulated")
    wide = rng.standard_normal((12, 12))
    there = ops.asarray(wide)
    parts = (
        np.s_[2:5, 1:7],
        np.s_[2:3, 1:7],
        np.s_[:6, 3:4],
        np.s_[::-1, :6],
        np.s_[::2, ::2],
        np.s_[3:4, 3:4],
    )
    for part in parts:
        for a, b in ((wide[part], there[part]), (wide[part].T, there[part].T)):
            assert_allclose(ops.to_numpy(ops.matmul(b, b.T)), a @ a.T, rtol=0, atol=1e-13)
            out = ops.asarray(np.ones((2 * len(a), len(a))))[::2]
            assert ops._product(b, b.T, out, accumulate=True) is out
            assert_allclose(ops.to_numpy(out), 1 + a @ a.T, rtol=0, atol=1e-13)


def test_the_order_of_threads_does_not_matter(device: Ops) -> None:
    """A barrier that is missing, or a sum whose order is not fixed, would show."""
    case = next(case for case in CASES if case.name == "AWD-LSTM")
    expected = results(case, make_ops("numpy"), "float64")
    for dtype, allowed in (("float64", 1e-12), ("float32", 1e-4)):
        found = results(case, device, dtype)
        assert agreement_error(found, expected) < allowed
        again = results(case, device, dtype)
        assert all(np.array_equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "auto"])
def test_precisions_are_those_of_cublas(precision: str) -> None:
    assert on_device(precision) in COMPUTE_TYPES  # type: ignore[arg-type]


def test_what_checks_replay_and_draw() -> None:
    """Neither is taken for right where nothing is captured, or other tokens are drawn."""
    ops = make_ops("cupy-emulated")
    assert captured_error(ops) < 1e-12
    assert drawn_error(ops) == 0

    def waiting(function: Any) -> Any:
        """As the function, but it reads a number, which cannot be captured."""
        return Captured(ops.xp, lambda *x: (float(function(*x)[0]), *function(*x)[1:]), nullcontext)

    ops.captured = waiting  # type: ignore[method-assign]
    assert captured_error(ops) == math.inf
    ops = make_ops("cupy-emulated")
    generate = ops.generate
    ops.generate = lambda weights, logits, *given: generate(weights, 2 * logits, *given)  # type: ignore[method-assign]
    assert 0 < drawn_error(ops) < 1


@pytest.mark.slow
def test_every_check_of_the_command_line() -> None:
    with emulated():
        figures = check_backend("cupy")
    assert {
        "training steps, as graphs where there are any",
        "agreement with NumPy float64, products in medium",
    } < {figure.check for figure in figures}
    assert all(figure.passed for figure in figures), [figure for figure in figures if not figure.passed]


def test_the_device_and_its_source_are_taken_at_their_word() -> None:
    """The emulator refuses what a GPU would not notice, or not say."""
    ops = make_ops("cupy-emulated")
    array = ops.asarray(np.ones((4, 4)))
    with pytest.raises(TypeError, match="Unsupported"):
        array + np.ones((4, 4))
    with pytest.raises(TypeError, match="Implicit"):
        np.asarray(array)
    kernels = Kernels(ops.xp, "float64")
    size = np.int64(16)
    with pytest.raises(AssertionError, match="move_towards"):
        kernels.launch("move_towards", 1, array, array.T, size, np.float64(1))
    with pytest.raises(AssertionError, match="move_towards"):
        kernels.launch("move_towards", 1, array, array, np.int32(16), np.float64(1))


def nvrtc_version() -> tuple[int, int]:
    """Skips where NVRTC cannot be loaded."""
    pytest.importorskip("cupy", reason="CuPy, and with it nvrtc, is not installed")
    from cupy_backends.cuda.libs import nvrtc

    try:
        return tuple(nvrtc.getVersion())  # type: ignore[return-value]
    except Exception as error:
        pytest.skip(f"nvrtc cannot be loaded: {error}")


def compile_for(architecture: str, source: str, **macros: object) -> tuple[bytes, str]:
    """The code for an architecture, and what the compiler said; skips where this NVRTC does not know it."""
    version = nvrtc_version()
    from cupy_backends.cuda.libs import nvrtc

    if architecture in ("sm_100", "sm_120") and version < (12, 8):
        pytest.skip(f"nvrtc {version} does not know {architecture}")
    program = nvrtc.createProgram(source, "charlstm.cu", (), ())
    options = ["--std=c++17", f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    try:
        nvrtc.compileProgram(program, (*options, *(f"-D{name}={value}" for name, value in macros.items())))
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_source(architecture: str, dtype: str) -> None:
    code, log = compile_for(architecture, cuda_source(), REAL=REALS[dtype])
    assert all(name.encode() in code for name, _ in KERNEL.findall(cuda_source()))
    assert "warning" not in log
    assert "error" not in log
