"""The softmax head in one pass: a piece of the logits at a time, never all of them."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .cpu import softmax_cross_entropy
from .products import VECTORS, add_columns, add_rows, add_rows_of_panel, pack_columns, pack_panel
from .tiles import ROWS

SYMBOLS_AT_ONCE = 960  # whose logits and weights stay in the nearest caches; whole panels and groups of rows


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
    V), columns (its first size / ROWS, piece, ROWS), panel (1, piece, 3, lanes).
    """
    H, V, width, total = rows.shape[1], bias.shape[0], VECTORS * panel.shape[3], 0.0
    for first in range(start, stop, logits.shape[0]):
        count = min(logits.shape[0], stop - first)
        _logits(rows, W, bias, first, count, logits)
        total += softmax_cross_entropy(
            logits[:count], targets[first : first + count], logits[:count], scale, smoothing
        )
        if not transposed:
            pack_columns(rows, first, count, columns, 0, columns.shape[0], 0)
        for symbol in range(0, V, SYMBOLS_AT_ONCE):
            some = min(SYMBOLS_AT_ONCE, V - symbol)
            for block in range(WT.shape[0]):
                add_rows_of_panel(
                    logits, 0, V, WT, block, symbol, some, drows, first * H, count, min(symbol, 1)
                )  # fmt: skip
            # dW += left^T right, left in columns, right in panels
            if transposed:
                groups = symbol // ROWS, (symbol + some + ROWS - 1) // ROWS
                pack_columns(logits, 0, count, columns, groups[0], groups[1], 0)
                right, at_row, begin, end = rows, first, 0, H
            else:
                groups = 0, columns.shape[0]
                right, at_row, begin, end = logits, 0, symbol, symbol + some
            for column in range(begin, end, width):
                pack_panel(right, at_row, count, column, panel, 0)
                add_columns(columns, panel, count, dW, column, groups[0], groups[1])
        for k in range(count):
            for v in range(V):
                db[v] += logits[k, v]
    return total
