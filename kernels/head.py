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
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    for first in range(start, stop, logits.shape[0]):
        count = min(logits.shape[0], stop - first)
        _logits(rows, W, bias, first, count, logits)
        total += softmax_cross_entropy(
            logits[:count], targets[first : first + count], logits[:count], one, zero
        )
        for k in range(count):
            logits[k, targets[first + k]] += 1  # back from posterior - one hot to the posterior
            confidence += np.max(logits[k])
    return total, confidence


@kernel
def gradients(
    rows,
    W,
    bias,
    targets,
    WT,
    drows,
    dW,
    db,
    logits,
    columns,
    panel,
    scale,
    smoothing,
    transposed,
    start,
    stop,
):
    """The summed loss of rows `start` to `stop`; writes their drows, adds to dW and db (V,).

    Gradients are those of the summed loss, its targets smoothed, times `scale`. rows (N, H); W and WT:
    weight (H, V) and its transpose in panels; dW (H, V), or (V, H) if `transposed`; room: logits (piece,
    V), columns (rows of dW / ROWS, piece, ROWS), panel (1, piece, 3, lanes).
    """
    H, V, total = rows.shape[1], bias.shape[0], 0.0
    for first in range(start, stop, logits.shape[0]):
        count = min(logits.shape[0], stop - first)
        _logits(rows, W, bias, first, count, logits)
        total += softmax_cross_entropy(
            logits[:count], targets[first : first + count], logits[:count], scale, smoothing
        )
        add_rows(logits, 0, V, WT, drows, first * H, count, 0)
        if transposed:
            left, left_at, right, right_at = logits, 0, rows, first
        else:
            left, left_at, right, right_at = rows, first, logits, 0
        pack_columns(left, left_at, count, columns, 0, columns.shape[0], 0)
        for column in range(0, dW.shape[1], VECTORS * panel.shape[3]):
            pack_panel(right, right_at, count, column, panel, 0)
            add_columns(columns, panel, count, dW, column, 0, columns.shape[0])
        for k in range(count):
            for v in range(V):
                db[v] += logits[k, v]
    return total
