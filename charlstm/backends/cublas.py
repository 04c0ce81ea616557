"""Products of matrices on cuBLAS, called directly.

CuPy's own matmul has no bfloat16 products of float32 matrices, and no sums in place.
"""

from __future__ import annotations

import ctypes
from typing import Any

from .sampling import Array

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
        stream = ctypes.c_void_p(self._xp.cuda.get_current_stream().ptr)
        self._check(self._library.cublasSetStream_v2(self._handle, stream), "cublasSetStream")
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

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status == 3:  # CUBLAS_STATUS_ALLOC_FAILED
            raise MemoryError(f"{what}: out of device memory")
        if status:
            raise RuntimeError(f"{what} failed with status {status}")


def load_library() -> ctypes.CDLL:
    """cuBLAS as CuPy finds it: from pip's wheels, conda or a toolkit."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


def _pointer(x: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data.ptr)
