"""What the compiled ops ask of their inputs before they trust them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .sampling import Array

DTYPES = ("float32", "float64")
_NAMES = {np.dtype(name): name for name in DTYPES}  # NumPy itself takes some microseconds to name one


def check_dtype(dtype: Any) -> str:
    """The name of a dtype that charlstm computes in; TypeError for any other."""
    if isinstance(dtype, np.dtype) and dtype in _NAMES:
        return _NAMES[dtype]
    name = str(getattr(dtype, "name", dtype)).rsplit(".", 1)[-1].strip("'>")
    if name not in DTYPES:
        raise TypeError(f"dtype {name} is not supported: use {' or '.join(DTYPES)}")
    return name


def check_recurrence(wx: Array, R: Array, h0: Array, c0: Array) -> tuple[int, int, int]:
    """T, B and H of the recurrence's inputs, once their shapes and dtypes are known to fit."""
    if wx.ndim != 3 or R.ndim != 2:
        raise ValueError(f"wx must be (T, B, 3H) and R (H, 3H), not {wx.shape} and {R.shape}")
    T, B, G = wx.shape
    H = R.shape[0]
    if G != 3 * H or R.shape[1] != 3 * H or h0.shape != (B, H) or c0.shape != (B, H):
        raise ValueError(
            f"wx {wx.shape}, R {R.shape}, h0 {h0.shape}, c0 {c0.shape} do not fit "
            f"(T, B, 3H), (H, 3H), (B, H), (B, H)"
        )
    names = {check_dtype(x.dtype) for x in (wx, R, h0, c0)}
    if len(names) > 1:
        raise TypeError(f"wx, R, h0 and c0 must share one dtype, not {sorted(names)}")
    return T, B, H


def check_arrays(*expected: tuple[Array, tuple[int, ...]]) -> None:
    """TypeError unless all arrays share one dtype, ValueError unless they have the shapes beside them.

    The kernels trust what they are given: they would read and write beyond an array that is too small.
    """
    dtypes = {array.dtype for array, _ in expected}
    names = [check_dtype(dtype) for dtype in dtypes]
    if len(names) > 1:
        raise TypeError(f"all arrays must share one dtype, not {sorted(names)}")
    for array, shape in expected:
        if array.shape != shape:
            raise ValueError(f"an array is {array.shape} where {shape} would fit the others")


def weights_and_sum(row_weights: Array | None, N: int, dtype: Any) -> tuple[Array, float]:
    """The weights (N,) of rows, contiguous, all 1 where there are none, and their sum.

    TypeError for weights of another dtype, ValueError for another shape.
    """
    if row_weights is None:
        return np.ones(N, dtype), float(N)
    if row_weights.dtype != dtype or row_weights.shape != (N,):
        raise (TypeError if row_weights.dtype != dtype else ValueError)(
            f"weights of rows must be {dtype} ({N},), not {row_weights.dtype} {row_weights.shape}"
        )
    return np.ascontiguousarray(row_weights), float(np.sum(row_weights, dtype=np.float64))


def check_contiguous(*results: Array) -> None:
    if not all(array.flags.c_contiguous for array in results):
        raise ValueError("gradients of weights are written to C-contiguous arrays only")


def check_ids(ids: Array, shape: tuple[int, ...], V: int) -> None:
    """ValueError unless they are integers of this shape, IndexError for those outside of 0 to V - 1."""
    if ids.shape != shape or ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be integers {shape}, not {ids.dtype} {ids.shape}")
    if ids.size and not (ids.min() >= 0 and ids.max() < V):
        raise IndexError(f"ids must lie in 0 to {V - 1}, not {ids.min()} to {ids.max()}")
