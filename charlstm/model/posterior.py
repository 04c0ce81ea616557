"""Posteriors on the host, in float64: what is told of single tokens."""

from __future__ import annotations

import numpy as np

from ..errors import DivergedError


def log_posterior(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax of logits (N, V), float64; DivergedError where they are not finite."""
    if not np.isfinite(logits).all():
        raise DivergedError("the model's logits are not finite: its weights are unusable")
    shifted: np.ndarray = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def most_probable(logarithms: np.ndarray, K: int) -> np.ndarray:
    """The K most probable tokens of each row (N, V), best first, of equal ones that of the lowest id: (N, K)."""
    left, found = logarithms.copy(), np.empty((len(logarithms), min(K, logarithms.shape[1])), np.int64)
    for k in range(found.shape[1]):  # a few passes: K is small
        found[:, k] = left.argmax(axis=1)
        np.put_along_axis(left, found[:, k : k + 1], -np.inf, axis=1)
    return found
