"""What is said where a GPU cannot be used, or fails."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from conftest import make_ops

import charlstm
from charlstm import cli
from charlstm.backends import cupy_device
from charlstm.backends.cublas import Cublas

ROOT = Path(__file__).resolve().parents[1]


class CUDARuntimeError(RuntimeError):
    pass


def cupy_with(
    count: int | str = 1, driver: int = 12080, runtime: int = 12090, kernel: float | Exception = 6.0
) -> Any:
    """A cupy that finds so many devices (or says why not) and computes so."""

    def device_count() -> int:
        if isinstance(count, str):
            raise CUDARuntimeError(count)
        return count

    def arange(*_: object, **__: object) -> Any:
        if isinstance(kernel, Exception):
            raise kernel
        return types.SimpleNamespace(sum=lambda: kernel)

    calls = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=device_count, driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
    )  # fmt: skip
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=calls), arange=arange, float32="float32")


TOO_OLD = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize(
    ("cupy", "words"),
    [
        (None, 'CuPy is not installed (pip install "charlstm[cuda12]" or "charlstm[cuda13]")'),
        (cupy_with(count=0), "no CUDA device"),
        (cupy_with(count=TOO_OLD, driver=0), "no CUDA device, or no NVIDIA driver"),
        (
            cupy_with(count=TOO_OLD, driver=11040),
            "the NVIDIA driver is too old: it knows CUDA 11.4, and this CuPy",
        ),
        (
            cupy_with(count="cudaErrorNoDevice: none"),
            "no CUDA device, or no NVIDIA driver (cudaErrorNoDevice",
        ),
        (cupy_with(count="cudaErrorUnknown: ?"), "the CUDA device cannot be used: cudaErrorUnknown"),
        (cupy_with(kernel=MemoryError()), "the GPU has no memory left for anything"),
        (
            cupy_with(kernel=ValueError("\n\nno header")),
            "CuPy finds a GPU but cannot run a kernel: no header",
        ),
        (cupy_with(kernel=5.0), "CuPy finds a GPU, but it computes wrongly"),
        (cupy_with(), "cuBLAS cannot be loaded: libcublas.so.12: no such file (charlstm[cuda12]"),
    ],
)
def test_why_there_is_no_gpu(cupy: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_library() -> None:
        raise RuntimeError("libcublas.so.12: no such file")

    monkeypatch.setattr(cupy_device, "load_library", load_library)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    if cupy is None:  # Python's error then does not name what is missing, as a real one does
        finder = types.SimpleNamespace(find_spec=_not_installed)
        monkeypatch.delitem(sys.modules, "cupy")
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    reason = cupy_device.cupy_unavailable.__wrapped__()
    assert reason is not None
    assert reason.startswith(words)


def _not_installed(name: str, *_: object) -> None:
    if name == "cupy":
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")


def test_a_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "load_library", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", cupy_with())
    assert cupy_device.cupy_unavailable.__wrapped__() is None


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class IllegalAddressError(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OutOfMemoryError("Out of memory allocating 512 bytes"),
            "out of GPU memory: try a smaller --hidden-size",
        ),
        (MemoryError(), "out of memory: try a smaller --hidden-size"),
        (
            IllegalAddressError("cudaErrorIllegalAddress:\n an illegal"),
            "the GPU has failed (cudaErrorIllegalAddress: an",
        ),
        (charlstm.DeviceError("cublasCreate: out of GPU memory"), "cublasCreate: out of GPU memory"),
    ],
)
def test_a_gpu_that_fails(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("charlstm.cli.backends.describe_backends", fail)
    assert cli.run(["backends"]) == 1
    assert capsys.readouterr().err.startswith(f"charlstm: {words}")


def test_other_errors_are_not_taken_for_those_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake in charlstm")

    monkeypatch.setattr("charlstm.cli.backends.describe_backends", fail)
    with pytest.raises(RuntimeError, match="mistake"):
        cli.run(["backends"])


@pytest.mark.parametrize(
    ("status", "words"), [(3, "out of GPU memory"), (13, "failed with cuBLAS's status 13")]
)
def test_cublas_fails(status: int, words: str) -> None:
    ops = make_ops("cupy-emulated")
    assert isinstance(ops._cublas, Cublas)
    ops._cublas._library.cublasGemmEx = lambda *_: status
    with pytest.raises(charlstm.DeviceError, match=words):
        ops.matmul(ops.asarray([[1.0]]), ops.asarray([[1.0]]))


def test_matrices_without_a_product() -> None:
    ops = make_ops("cupy-emulated")
    one, other, single = (
        ops.asarray([[1.0] * n], kind) for n, kind in ((2, None), (3, None), (1, "float32"))
    )
    with pytest.raises(ValueError, match="no product"):
        ops.matmul(one, other)
    with pytest.raises(TypeError, match="share one dtype"):
        ops.matmul(ops.asarray([[1.0]]), single)
    with pytest.raises(TypeError, match="int64 is not supported"):
        ops.matmul(ops.asarray([[1]]), ops.asarray([[1]]))


def test_without_a_compiler_the_emulated_gpu_is_left_out() -> None:
    """The reason is told."""
    code = (
        "import sys, pytest, shutil; sys.path.insert(0, 'tests'); shutil.which = lambda name: None\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/test_cuda_source.py', '-k', 'segment']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "there is no C++ compiler" in done.stdout
