"""Texts of any length, read by a model in constant memory."""

from __future__ import annotations

import numpy as np

from ..backends.sampling import Array
from ..cifg import State
from ..model import CIFGModel

CHUNK = 1024  # tokens that are read at once


def read(model: CIFGModel, ids: np.ndarray, state: State | None = None) -> tuple[Array, State]:
    """The last logits (1, V) and the state after tokens (N,), N at least 1, from a state on (zeros if None)."""
    for first in range(0, len(ids), CHUNK):
        logits, state = model.forward(ids[first : first + CHUNK, np.newaxis], state)
    assert state is not None
    return logits[-1, ...], state
