"""One step of a whole network on the tile engine."""

from __future__ import annotations

import numpy as np

from .compiling import kernel
from .matrices import configure, release
from .packing import block_of, left_rows
from .products import add_rows
from .recurrence import forward_step


@kernel
def step(table, W, b, R, head, bias, low, tiles, tokens, h, h_next, c, logits, start, stop):
    """Read tokens (B,) of the streams `start` to `stop`: writes h_next (L, B, H) and logits (B, V), c in place.

    W, R and head are packed in panels, as for `generate_fused`. Where they hold pairs, low (3, B, P) is room for
    states of a layer in pairs; else it is None. tiles: as for `matrices.configure`.
    """
    L, B = h.shape[:2]
    scratch = configure(tiles)
    V, zeros = bias.shape[0], np.zeros(B, np.int64)
    for k in range(L):
        x, x_at = block_of(h_next, max(0, k - 1), low, (k + 1) % 2)
        before, before_at = left_rows(h, k * B, start, stop, low, 2 * B)
        _, after_at = block_of(h_next, k, low, k % 2)
        if k == 0:
            rows, ids, D, weights = table, tokens, 0, R[0]
        else:
            rows, ids, D, weights = b[k - 1 : k], zeros, x.shape[-1], W[k - 1]
        forward_step(
            rows, ids, x, x_at, D, weights, R[k], before, before_at, c[k], c[k], h_next[k], low, after_at, None, 0,
            scratch, start, stop,
        )  # fmt: skip
    for stream in range(start, stop):
        for v in range(V):
            logits[stream, v] = bias[v]
    top, top_at = block_of(h_next, L - 1, low, (L - 1) % 2)
    K = top.shape[-1]
    add_rows(top, top_at + start * K, K, head, logits, start * V, stop - start, 1, scratch)
    release(scratch)
