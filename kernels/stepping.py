"""One step of a whole network on the tile engine."""

from __future__ import annotations

import numpy as np

from .compiling import kernel
from .products import add_rows
from .recurrence import forward_step


@kernel
def step(table, W, b, R, head, bias, tokens, h, h_next, c, logits, start, stop):
    """Read tokens (B,) of the streams `start` to `stop`: writes h_next (L, B, H) and logits (B, V), c in place.

    W, R and head are packed in panels, as for `generate_fused`.
    """
    L, B, H = h.shape
    zeros, nothing = np.zeros(B, np.int64), np.empty((B, 0), h.dtype)
    forward_step(table, tokens, nothing, R[0], R[0], h[0], c[0], c[0], h_next[0], None, 0, start, stop)
    for k in range(1, L):
        forward_step(
            b[k - 1 : k],
            zeros,
            h_next[k - 1],
            W[k - 1],
            R[k],
            h[k],
            c[k],
            c[k],
            h_next[k],
            None,
            0,
            start,
            stop,
        )
    for stream in range(start, stop):
        for v in range(bias.shape[0]):
            logits[stream, v] = bias[v]
    add_rows(h_next[L - 1], start * H, H, head, logits, start * bias.shape[0], stop - start, 1)
