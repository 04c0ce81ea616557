"""The CuPy backend: the default ops on a GPU, with fused kernels for gates and segment sum."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from ..errors import BackendError
from .checks import check_dtype
from .ops import Ops
from .precision import MatmulPrecision
from .sampling import Array

BLOCK = 256  # threads in a block


class CuPyOps(Ops):
    """Ops on the current CUDA device; products run on cuBLAS."""

    name: ClassVar[str] = "cupy"

    def __init__(self, threads: int | None = None, matmul_precision: MatmulPrecision = "highest") -> None:
        """`threads` is accepted as by every backend; the host's threads have nothing to do here."""
        reason = cupy_unavailable()
        if reason:
            raise BackendError(f"the cupy backend cannot run here: {reason}")
        import cupy

        super().__init__(cupy)

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(x)
        return host

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def device(self) -> str:
        number = self.xp.cuda.runtime.getDevice()
        return str(self.xp.cuda.runtime.getDeviceProperties(number)["name"].decode())

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self.xp.matmul(a, b, out=out)

    def scatter_add_rows(self, d: Array, ids: Array, rows: Array) -> None:
        xp, (V, D) = self.xp, d.shape
        order = xp.argsort(ids, kind="stable").astype(xp.int64)
        starts = xp.searchsorted(ids[order], xp.arange(V + 1, dtype=ids.dtype)).astype(xp.int64)
        rows = xp.ascontiguousarray(rows)
        self._launch("segment_sum", d.size, d, order, starts, rows, np.int32(V), np.int32(D))

    def gates_forward(self, a: Array, c_prev: Array) -> tuple[Array, Array, Array]:
        xp, (B, H) = self.xp, c_prev.shape
        a, c_prev = xp.ascontiguousarray(a), xp.ascontiguousarray(c_prev)
        gates, c, h = xp.empty_like(a), xp.empty_like(c_prev), xp.empty_like(c_prev)
        self._launch("gates_forward", c.size, a, c_prev, gates, c, h, np.int32(B), np.int32(H))
        return gates, c, h

    def gates_backward(
        self, dh: Array, dc: Array, gates: Array, c_prev: Array, c: Array
    ) -> tuple[Array, Array]:
        xp, (B, H) = self.xp, c.shape
        inputs = [xp.ascontiguousarray(x) for x in (dh, dc, gates, c_prev, c)]
        da, dc_prev = xp.empty_like(inputs[2]), xp.empty_like(inputs[4])
        self._launch("gates_backward", c.size, *inputs, da, dc_prev, np.int32(B), np.int32(H))
        return da, dc_prev

    def _launch(self, name: str, size: int, *arguments: Any) -> None:
        if size:
            function = _kernel(name, check_dtype(arguments[0].dtype))
            function(((size + BLOCK - 1) // BLOCK,), (BLOCK,), arguments)


@cache
def _kernel(name: str, dtype: str) -> Any:
    import cupy

    real = {"float32": "float", "float64": "double"}[dtype]
    return cupy.RawKernel(cuda_source(), name, options=(f"-DREAL={real}",))


@cache
def cuda_source() -> str:
    return files("charlstm.kernels").joinpath("gates.cu").read_text(encoding="utf-8")


@cache
def cupy_unavailable() -> str | None:
    """Why CuPy cannot compute here, or None where a kernel has run."""
    try:
        import cupy
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            return 'CuPy is not installed (pip install "charlstm[cuda12]" or "charlstm[cuda13]")'
        return f"CuPy cannot be imported: {_first_words(error)}"
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            return "no CUDA device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device, or its driver is missing or too old: {error}"
    try:
        total = float(cupy.arange(4, dtype=cupy.float32).sum())  # compiles and launches
    except Exception as error:  # whatever is missing: headers, NVRTC, memory
        return f"CuPy finds a GPU but cannot run a kernel: {_first_words(error)}"
    return None if total == 6 else "CuPy finds a GPU, but it computes wrongly"


def _first_words(error: Exception) -> str:
    """The first line of a message that has any words in it."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if any(s.isalpha() for s in line)), repr(error))
