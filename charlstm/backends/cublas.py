"""Products of matrices on cuBLAS, called directly.

CuPy's own matmul refuses to be captured in a CUDA graph ("calling cuBLAS API during stream capture is
currently unsupported", cupy issue 6290), has no bfloat16 products of float32 matrices, and no sums in place.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

from ..errors import DeviceError
from .sampling import Array

WORKSPACE = 32 << 20  # bytes; what cuBLAS recommends for the H100
REAL_TYPES = {"float32": 0, "float64": 1}  # CUDA_R_32F, CUDA_R_64F
SCALARS = {"float32": ctypes.c_float, "float64": ctypes.c_double}
# cublasComputeType_t of float32 products: 32F, 32F_FAST_TF32, 32F_FAST_16BF
COMPUTE_TYPES = {"highest": 68, "high": 77, "medium": 75}
COMPUTE_FLOAT64 = 70
DEFAULT_ALGORITHM = -1


class Cublas:
    """cuBLAS on the current device; each thread that asks for a product has a handle of its own."""

    def __init__(self, xp: Any) -> None:
        self._xp, self._library = xp, load_library()
        self._of_thread = threading.local()

    def gemm(self, a: Array, b: Array, out: Array, precision: str, accumulate: bool) -> None:
        """out (M, N) = a (M, K) b (K, N), or += with `accumulate`; all of one dtype, `out` C-contiguous.

        a and b may be views that transpose. `precision` is a key of COMPUTE_TYPES; float64 is always exact.
        """
        (M, K), N, name = a.shape, b.shape[1], out.dtype.name
        if M == 0 or N == 0:
            return
        if K == 0:
            if not accumulate:
                out[...] = 0
            return
        handle = self._handle()
        # cuBLAS counts by columns: it computes the transposes, out^T = b^T a^T
        (b, of_b, step_b), (a, of_a, step_a) = (self._operand(x) for x in (b, a))
        compute = COMPUTE_FLOAT64 if name == "float64" else COMPUTE_TYPES[precision]
        kind, scalar = REAL_TYPES[name], SCALARS[name]
        status = self._library.cublasGemmEx(
            handle, of_b, of_a, N, M, K, ctypes.byref(scalar(1)),
            _pointer(b), kind, step_b, _pointer(a), kind, step_a,
            ctypes.byref(scalar(1 if accumulate else 0)), _pointer(out), kind, N, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
        check(status, "cublasGemmEx")

    def _operand(self, x: Array) -> tuple[Array, int, int]:
        """The matrix, copied where it has to be; 0, or 1 where it is transposed in memory; its leading dimension."""
        (rows, columns), size = x.shape, x.dtype.itemsize
        down, along = (stride // size for stride in x.strides)
        if (along == 1 or columns == 1) and (down >= columns or rows == 1):
            return x, 0, max(down if rows > 1 else columns, 1)
        if (down == 1 or rows == 1) and (along >= rows or columns == 1):
            return x, 1, max(along if columns > 1 else rows, 1)
        return self._xp.ascontiguousarray(x), 0, columns

    def _handle(self) -> ctypes.c_void_p:
        """This thread's, on its current stream."""
        found: _Handle | None = getattr(self._of_thread, "handle", None)
        if found is None:
            found = self._of_thread.handle = _Handle(self._xp, self._library)
        return found.on(self._xp.cuda.get_current_stream())


class _Handle:
    def __init__(self, xp: Any, library: Any) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        check(library.cublasCreate_v2(ctypes.byref(self._handle)), "cublasCreate")
        weakref.finalize(self, library.cublasDestroy_v2, self._handle).atexit = False
        self._workspace = xp.empty((WORKSPACE,), dtype=xp.uint8)
        self._stream: Any = None  # held, so that no other stream gets its address

    def on(self, stream: Any) -> ctypes.c_void_p:
        """The handle, on this stream; cuBLAS forgets its workspace when it changes streams."""
        if self._stream is None or stream.ptr != self._stream.ptr:
            place = ctypes.c_void_p(stream.ptr)
            check(self._library.cublasSetStream_v2(self._handle, place), "cublasSetStream")
            size = ctypes.c_size_t(WORKSPACE)
            status = self._library.cublasSetWorkspace_v2(self._handle, _pointer(self._workspace), size)
            check(status, "cublasSetWorkspace")
            self._stream = stream
        return self._handle


def check(status: int, what: str) -> None:
    """DeviceError for a status that is not that of success."""
    if status == 3:  # CUBLAS_STATUS_ALLOC_FAILED
        raise DeviceError(
            f"{what}: out of GPU memory: try a smaller --hidden-size, --batch-size or --seq-len"
        )
    if status:
        raise DeviceError(f"{what} failed with cuBLAS's status {status}")


def load_library() -> ctypes.CDLL:
    """cuBLAS as CuPy finds it: from pip's wheels, conda or a toolkit. RuntimeError where it is not there."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


def _pointer(x: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data.ptr)
