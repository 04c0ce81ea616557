"""What a network asks of its arguments: ids, the weights of targets, the lengths of sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backends import Array, Ops
from ..cifg import State


class StepInputs(NamedTuple):
    """What loss and gradients depend on beside the weights, checked and on the backend."""

    x: Array  # tokens (T, B) or feature vectors (T, B, D)
    goals: Array  # targets as rows: classes (N,), or numbers (N, V)
    h: Array  # (L, B, H), to start from
    c: Array
    key: Array | None  # (2,) uint64, of the dropout masks; None where nothing is dropped
    counts: Array | None  # weights of the targets (N,)
    last: Array | None  # (B,): where each sequence ends among T * B rows

    @property
    def state(self) -> State:
        return State(self.h, self.c)


def ids_on(ops: Ops, x: Any, limit: int, what: str) -> Array:
    """Ids on the backend; those of the host are checked to be integers of 0 to limit - 1, else ValueError."""
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers, not {x.dtype}")
    if x.size and not (int(x.min()) >= 0 and int(x.max()) < limit):
        raise ValueError(f"{what} must lie in 0 to {limit - 1}, not {x.min()} to {x.max()}")
    return ops.asarray(x.astype(np.int64, order="C"))


def target_weights(weights: Any, shape: tuple[int, ...]) -> Array:
    """Weights of targets of this shape as rows (N,) of float64, the largest 1.

    Raises ValueError where they are of another shape, negative, not finite, or all 0.
    """
    rows = np.asarray(weights, np.float64)
    if rows.shape != shape:
        raise ValueError(f"weights {rows.shape} must be {shape}, one for each target")
    if not np.isfinite(rows).all() or rows.min() < 0 or not rows.any():
        raise ValueError("weights must be finite numbers, none below zero, and not all zero")
    return rows.reshape(-1) / rows.max()


def last_rows(lengths: Any, T: int, B: int) -> Array:
    """The rows (B,), of T * B, that hold step length - 1 of each sequence.

    Raises ValueError for lengths that are not B integers within 1 to T.
    """
    lengths = np.asarray(lengths)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > T:
        raise ValueError(f"lengths must be integers ({B},) within 1 to {T}")
    return (lengths.astype(np.int64) - 1) * B + np.arange(B)
