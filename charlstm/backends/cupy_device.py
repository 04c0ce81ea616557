"""Whether CuPy can compute on this machine, and if not, what to do about it."""

from __future__ import annotations

from functools import cache
from typing import Any

from .cublas import load_library


@cache
def cupy_unavailable() -> str | None:
    """Why CuPy cannot compute here, or None where a kernel has run."""
    try:
        import cupy
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            return 'CuPy is not installed (pip install "charlstm[cuda12]" or "charlstm[cuda13]")'
        return f"CuPy cannot be imported: {_first_words(error)}"
    return _no_device(cupy) or _no_computation(cupy)


def _no_device(cupy: Any) -> str | None:
    runtime = cupy.cuda.runtime
    try:
        return None if runtime.getDeviceCount() else "no CUDA device"
    except runtime.CUDARuntimeError as error:
        text = str(error)
    try:
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except runtime.CUDARuntimeError:
        driver = needed = 0
    if driver == 0 or "NoDevice" in text:
        return f"no CUDA device, or no NVIDIA driver ({text})"
    if "InsufficientDriver" in text or driver // 1000 < needed // 1000:
        return (
            f"the NVIDIA driver is too old: it knows CUDA {_version(driver)}, and this CuPy is built for "
            f"{_version(needed)}. Update the driver, or install the CuPy of an older CUDA"
        )
    return f"the CUDA device cannot be used: {text}"


def _no_computation(cupy: Any) -> str | None:
    try:
        total = float(cupy.arange(4, dtype=cupy.float32).sum())  # compiles and launches
    except MemoryError:
        return "the GPU has no memory left for anything: other programs hold it (nvidia-smi lists them)"
    except Exception as error:  # whatever is missing: headers, NVRTC
        return f"CuPy finds a GPU but cannot run a kernel: {_first_words(error)}"
    if total != 6:
        return "CuPy finds a GPU, but it computes wrongly"
    try:
        load_library()
    except Exception as error:  # of the loader, or of the system's
        return (
            f"cuBLAS cannot be loaded: {_first_words(error)} (charlstm[cuda12] and charlstm[cuda13] bring it)"
        )
    return None


def _version(number: int) -> str:
    """12080 as 12.8."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_words(error: Exception) -> str:
    """The first line of a message that has any words in it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if any(s.isalpha() for s in line)), repr(error))
