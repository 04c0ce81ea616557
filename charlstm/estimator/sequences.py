"""Sequences of feature vectors in the forms that users have them in, and batches of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError


class Batch(NamedTuple):
    """Sequences side by side, time-major."""

    steps: np.ndarray  # (T, B): the row of each step; those after a sequence's end repeat its last one
    lengths: np.ndarray  # (B,)

    @property
    def inside(self) -> np.ndarray:
        """(T, B): which steps belong to their sequence."""
        return np.arange(len(self.steps))[:, None] < self.lengths

    @property
    def ragged(self) -> bool:
        return bool(np.any(self.lengths < len(self.steps)))


class Sequences:
    """n sequences of vectors of D features, one after another as rows (N, D)."""

    def __init__(self, rows: np.ndarray, lengths: np.ndarray, as_list: bool = False) -> None:
        """lengths (n,), all at least 1, add up to N; `as_list`: what is told of each step is a list."""
        self.rows, self.lengths, self.as_list = rows, lengths, as_list
        self.starts = np.cumsum(lengths) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, which: np.ndarray) -> Batch:
        """The sequences of these numbers, as long as the longest of them."""
        lengths = self.lengths[which]
        offsets = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)
        return Batch(self.starts[which] + offsets, lengths)

    def rows_of(self, which: np.ndarray) -> np.ndarray:
        """The rows of these sequences, in order."""
        batch = self.batch(which)
        rows: np.ndarray = batch.steps.T[batch.inside.T]
        return rows

    def take(self, which: np.ndarray) -> Sequences:
        """These sequences alone."""
        return Sequences(self.rows[self.rows_of(which)], self.lengths[which], self.as_list)

    def per_step(self, values: Any, what: str) -> np.ndarray:
        """What is given for every step, (n, T, ...) or a list of (T_i, ...), as rows (N, ...)."""
        if len(values) != len(self):
            raise ValueError(f"{what} is of {len(values)} sequences, X of {len(self)}")
        parts = [np.asarray(part) for part in values]
        for k, (part, length) in enumerate(zip(parts, self.lengths, strict=True)):
            if part.ndim == 0 or len(part) != length:
                raise ValueError(
                    f"emit='every' wants {what} for each time step: sequence {k} has {length} steps, "
                    f"its {what} the shape {part.shape}"
                )
        return np.concatenate(parts)

    def told(self, rows: np.ndarray) -> Any:
        """Rows (N, ...), one for each step, in the form of X: (n, T, ...), or a list of (T_i, ...)."""
        if self.as_list:
            return np.split(rows, self.starts[1:])
        return rows.reshape(len(self), -1, *rows.shape[1:])


def is_ragged(X: Any) -> bool:
    """Whether X is a list of sequences, each (T_i, D)."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and np.ndim(X[0]) == 2
    return isinstance(X, (list, tuple)) and len(X) > 0 and getattr(X[0], "ndim", 0) == 2


def rows_and_lengths(X: Any, mask: Any | None) -> tuple[Any, np.ndarray, bool]:
    """Sequences as rows that are still to be checked, their lengths, and whether they may be ragged.

    X     (n, T, D), or a list of (T_i, D)
    mask  (n, T): which steps of an array count; a sequence is what is left of it, in order

    Raises ValueError for sequences without any step, or of different numbers of features.
    """
    if mask is not None:
        X, mask = np.asarray(X), np.asarray(mask)
        if X.ndim != 3 or mask.shape != X.shape[:2] or mask.dtype != bool:
            raise UsageError(f"a mask of {mask.dtype} {mask.shape} does not fit X {X.shape}: bool (n, T)")
        rows, lengths = X[mask], mask.sum(axis=1)
    elif is_ragged(X):
        features = {np.shape(part)[1:] for part in X}
        if len(features) > 1:
            raise ValueError(f"sequences must all be (T_i, D) with one D, not {sorted(features)}")
        rows, lengths = np.concatenate(list(X)), np.array([len(part) for part in X])
    else:
        X = np.asarray(X)
        n, T, D = X.shape
        rows, lengths = X.reshape(n * T, D), np.full(n, T)
    if not lengths.all():
        raise ValueError(f"sequence {int(np.argmin(lengths))} is empty: leave it out")
    return rows, lengths, mask is not None or is_ragged(X)
