"""The softmax head in one pass: a piece of the rows and a block of the vocabulary at a time.

The logits of a piece go block by block through the nearest caches. The largest logit so far and the
sum of exponentials are kept up to date from block to block (Milakov & Gimelshein 2018, arXiv
1805.02867); what the blocks hold are exponentials, which the gradients multiply by what has become
known since. A small vocabulary is one block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .copies import per_number
from .cpu import exp, reordered_sum
from .matrices import configure, release
from .packing import close_columns, close_panel, left_rows, pack_columns, pack_panel
from .products import VECTORS, add_columns, add_rows

PANELS = 8  # in a block of a large vocabulary: its logits, weights and gradients fit the second-level cache


@njit(**OPTIONS)
def _exponentials(
    left, left_at, W, bias, targets, first, count, symbol, block, largest, totals, scores, scratch
):
    """One block of the vocabulary, from `symbol` on, for `count` rows: block becomes exp(logit - largest).

    left and left_at: the rows, as from `left_rows`; W: weight in panels.
    largest and totals, of each row, take in the block; scores[k] is the target's logit, if it is in it.
    Numbers of the block beyond the vocabulary become 0.
    """
    width = VECTORS * W.shape[3]
    some, panel = min(block.shape[1], bias.shape[0] - symbol), symbol // width
    for k in range(count):  # element by element: to assign a whole row takes seconds more to compile
        for v in range(some):
            block[k, v] = bias[symbol + v]
        for v in range(some, block.shape[1]):
            block[k, v] = 0
    panels = W[panel : panel + (some + width - 1) // width]
    add_rows(left, left_at, left.shape[1], panels, block, 0, count, 1, scratch)
    for k in range(count):
        row, target = block[k, :some], targets[first + k] - symbol
        if 0 <= target < some:
            scores[k] = row[target]
        top = row[0]
        for v in range(1, some):
            top = row[v] if row[v] > top else top
        if symbol > 0 and largest[k] > top:
            top = largest[k]
        for v in range(some):
            row[v] = exp(row[v] - top)
        total = reordered_sum(row)
        if symbol > 0:
            total += totals[k] * exp(largest[k] - top)
        largest[k], totals[k] = top, total


@kernel
def loss(rows, W, bias, targets, weights, block, low, tiles, start, stop):
    """The loss of rows `start` to `stop` and their largest posteriors, summed with weights (N,).

    rows (N, H); W: weight (H, V) in panels; bias (V,); block is room for some rows of a block of logits, low that
    for as many rows which `left_rows` asks for, or None. tiles: as for `matrices.configure`.
    """
    scratch = configure(tiles)
    total, confidence = 0.0, 0.0
    piece = block.shape[0]
    largest, totals, scores = np.empty((3, piece), block.dtype)
    for first in range(start, stop, piece):
        count = min(piece, stop - first)
        left, left_at = left_rows(rows, first, 0, count, low, 0)
        for symbol in range(0, bias.shape[0], block.shape[1]):
            _exponentials(
                left, left_at, W, bias, targets, first, count, symbol, block, largest, totals, scores, scratch
            )
        for k in range(count):
            weight = np.float64(weights[first + k])
            total += weight * (np.log(np.float64(totals[k])) - np.float64(scores[k] - largest[k]))
            confidence += weight / np.float64(totals[k])
    release(scratch)
    return total, confidence


@njit(**OPTIONS)
def _posteriors(block, some, count, targets, first, symbol, tops, largest, totals, shares, smoothing, V):
    """Exponentials of a block become (posterior - smoothed one hot) * the row's share of the mean."""
    for k in range(count):
        row, target, scale = block[k, :some], targets[first + k] - symbol, shares[k]
        factor = scale / totals[k]
        if tops[k] != largest[k]:
            factor *= exp(tops[k] - largest[k])
        for v in range(some):
            row[v] *= factor
        if 0 <= target < some:
            row[target] -= scale - scale * smoothing
        if smoothing > 0:
            even = scale * smoothing / block.dtype.type(V)
            for v in range(some):
                row[v] -= even


@kernel
def gradients(
    rows,
    W,
    bias,
    targets,
    weights,
    WT,
    drows,
    dW,
    db,
    blocks,
    columns,
    panels,
    low,
    low_block,
    tiles,
    scale,
    smoothing,
    transposed,
    start,
    stop,
):
    """The loss of rows `start` to `stop`, summed with weights (N,); writes drows, adds to dW and db (V,).

    Gradients are those of that sum, its targets smoothed, times `scale`. rows (N, H); W: weight
    (H, V) in panels, WT: blocks of its transpose in panels; dW (H, V), or (V, H) if `transposed`. Room:
    blocks (V / width, piece, width) for logits, columns (groups of H or width columns, piece, their width) for
    what is left in the product that gives dW, panels (1 or all of H, piece, 3, lanes) for what is right in it;
    low and low_block, for `piece` rows and as many of a block, are what `left_rows` asks for, or None. tiles: as
    for `matrices.configure`.
    """
    scratch = configure(tiles)
    (piece, width), H, V, total = blocks.shape[1:], rows.shape[1], bias.shape[0], 0.0
    step = VECTORS * panels.shape[3]
    tops = np.empty((blocks.shape[0], piece), blocks.dtype)
    largest, totals, scores, shares = np.empty((4, piece), blocks.dtype)
    for first in range(start, stop, piece):
        count = min(piece, stop - first)
        depth = (count + per_number(panels) - 1) // per_number(panels)
        left, left_at = left_rows(rows, first, 0, count, low, 0)
        for n in range(blocks.shape[0]):
            _exponentials(
                left, left_at, W, bias, targets, first, count, n * width, blocks[n], largest, totals, scores,
                scratch,
            )  # fmt: skip
            for k in range(count):
                tops[n, k] = largest[k]
        for k in range(count):
            weight = np.float64(weights[first + k])
            total += weight * (np.log(np.float64(totals[k])) - np.float64(scores[k] - largest[k]))
            shares[k] = scale * weights[first + k]
        if transposed:
            for n in range(panels.shape[0]):
                pack_panel(rows, first, count, n * step, panels, n, 0)
                close_panel(panels, n, depth, scratch)
        else:
            pack_columns(rows, first, count, columns, 0, columns.shape[0], 0)
            close_columns(columns, depth, 0, columns.shape[0], scratch)
        for n in range(blocks.shape[0]):
            block, symbol = blocks[n], n * width
            some = min(width, V - symbol)
            _posteriors(
                block, some, count, targets, first, symbol, tops[n], largest, totals, shares, smoothing, V
            )
            left, left_at = left_rows(block, 0, 0, count, low_block, 0)
            add_rows(left, left_at, left.shape[1], WT[n], drows, first * H, count, min(n, 1), scratch)
            if transposed:
                pack_columns(block, 0, count, columns, 0, columns.shape[0], 0)
                close_columns(columns, depth, 0, columns.shape[0], scratch)
                groups = (some + columns.shape[2] - 1) // columns.shape[2]
                for m in range(panels.shape[0]):
                    into = dW[symbol : symbol + some]
                    add_columns(columns, panels[m : m + 1], depth, into, m * step, 0, groups, scratch)
            else:
                for column in range(0, some, step):
                    pack_panel(block, 0, count, column, panels, 0, 0)
                    close_panel(panels, 0, depth, scratch)
                    add_columns(columns, panels, depth, dW, symbol + column, 0, columns.shape[0], scratch)
            sums = db[symbol : symbol + some]
            for k in range(count):
                for v in range(some):
                    sums[v] += block[k, v]
    release(scratch)
    return total
