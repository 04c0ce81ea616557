"""Products of matrices on cuBLAS, called directly.

CuPy's own matmul refuses to be captured in a CUDA graph ("calling cuBLAS API during stream capture is
currently unsupported", cupy issue 6290), has no bfloat16 products of float32 matrices, and no sums in place.
"""

from __future__ import annotations

import ctypes
import math
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
    """A handle of cuBLAS on the current device."""

    def __init__(self, xp: Any) -> None:
        self._xp, self._library = xp, load_library()
        handle = ctypes.c_void_p()
        self._check(self._library.cublasCreate_v2(ctypes.byref(handle)), "cublasCreate")
        self._handle = handle
        weakref.finalize(self, self._library.cublasDestroy_v2, handle).atexit = False
        self._workspace = xp.empty((WORKSPACE,), dtype=xp.uint8)
        self._stream: int | None = None

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
        self._follow_stream()
        # cuBLAS counts by columns: it computes the transposes, out^T = b^T a^T
        (b, of_b, step_b), (a, of_a, step_a) = (self._operand(x) for x in (b, a))
        compute = COMPUTE_FLOAT64 if name == "float64" else COMPUTE_TYPES[precision]
        kind, scalar = REAL_TYPES[name], SCALARS[name]
        status = self._library.cublasGemmEx(
            self._handle, of_b, of_a, N, M, K, ctypes.byref(scalar(1)),
            _pointer(b), kind, step_b, _pointer(a), kind, step_a,
            ctypes.byref(scalar(1 if accumulate else 0)), _pointer(out), kind, N, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
        self._check(status, "cublasGemmEx")

    def _operand(self, x: Array) -> tuple[Array, int, int]:
        """The matrix, copied where it has to be; 0, or 1 where it is transposed in memory; its leading dimension."""
        (rows, columns), size = x.shape, x.dtype.itemsize
        down, along = (stride // size for stride in x.strides)
        if (along == 1 or columns == 1) and (down >= columns or rows == 1):
            return x, 0, max(down if rows > 1 else columns, 1)
        if (down == 1 or rows == 1) and (along >= rows or columns == 1):
            return x, 1, max(along if columns > 1 else rows, 1)
        return self._xp.ascontiguousarray(x), 0, columns

    def _follow_stream(self) -> None:
        """Run on CuPy's current stream; cuBLAS forgets its workspace when it changes streams."""
        stream = self._xp.cuda.get_current_stream().ptr
        if stream == self._stream:
            return
        handle = self._handle
        self._check(self._library.cublasSetStream_v2(handle, ctypes.c_void_p(stream)), "cublasSetStream")
        size = ctypes.c_size_t(math.prod(self._workspace.shape))
        status = self._library.cublasSetWorkspace_v2(handle, _pointer(self._workspace), size)
        self._check(status, "cublasSetWorkspace")
        self._stream = stream

    @staticmethod
    def _check(status: int, what: str) -> None:
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
