"""The softmax head in one pass: a piece of the logits at a time, never all of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .cpu import softmax_cross_entropy
from .products import VECTORS, add_columns, add_rows, pack_columns, pack_panel


@njit(**OPTIONS)
def _logits(rows, W, bias, first, count, logits):
    for k in range(count):
        logits[k] = bias
    add_rows(rows, first * rows.shape[1], rows.shape[1], W, logits, 0, count, 1)


@kernel
def loss(rows, W, bias, targets, logits, start, stop):
    """The summed loss of rows `start` to `stop`, and the sum of their largest posteriors.

    rows (N, H); W: weight (H, V) in panels; bias (V,); logits (piece, V) is room.
    """
    total, confidence = 0.0, 0.0
    for first in range(start, stop, logits.shape[0]):
        count = min(logits.shape[0], stop - first)
        _logits(rows, W, bias, first, count, logits)
        one = softmax_cross_entropy(
            logits[:count], targets[first : first + count], logits[:count], logits.dtype.type(1)
        )
        total += one
        for k in range(count):
            logits[k, targets[first + k]] += 1  # back from posterior - one hot to the posterior
            confidence += np.max(logits[k])
    return total, confidence


@kernel
def gradients(rows, W, bias, targets, WT, drows, dW, db, logits, columns, panel, scale, start, stop):
    """The summed loss of rows `start` to `stop`; writes their drows, adds to dW (H, V) and db (V,).

    Gradients are those of the summed loss times `scale`. rows (N, H); W and WT: weight (H, V) and its
    transpose in panels; room: logits (piece, V), columns (H / ROWS, piece, ROWS), panel (1, piece, 3, lanes).
    """
    H, V, total = rows.shape[1], bias.shape[0], 0.0
    for first in range(start, stop, logits.shape[0]):
        count = min(logits.shape[0], stop - first)
        _logits(rows, W, bias, first, count, logits)
        total += softmax_cross_entropy(logits[:count], targets[first : first + count], logits[:count], scale)
        add_rows(logits, 0, V, WT, drows, first * H, count, 0)
        pack_columns(rows, first, count, columns, 0, columns.shape[0], 0)
        for column in range(0, V, VECTORS * panel.shape[3]):
            pack_panel(logits, 0, count, column, panel, 0)
            add_columns(columns, panel, count, dW, column, 0, columns.shape[0])
        for k in range(count):
            for v in range(V):
                db[v] += logits[k, v]
    return total
