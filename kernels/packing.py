"""Matrices as the tile engine reads them, of float32 or float64, or of pairs of bfloat16 (`tiles`)."""

from __future__ import annotations

from numba import njit, types
from numba.extending import overload

from .compiling import OPTIONS, kernel
from .copies import pack_numbers, pack_vector, parts_of, per_number, per_vector, round_vector, transpose_block
from .tiles import ROWS
from .vectors import at

LEFT_REST, RIGHT_REST = 2, 1  # which part of an operand is what rounding leaves off (`tiles`)


@njit(**OPTIONS)
def pack_columns(a, first, count, columns, start, stop, k):
    """Rows `first` to `first + count` of a (..., M) as the steps from k on of groups `start` to `stop`.

    `columns` (M / width, K, width) holds so many columns of a in each group, a multiple of ROWS, or pairs.
    """
    M, per, parts = a.shape[-1], per_number(columns), parts_of(columns)
    K, width = columns.shape[1:]
    for group in range(start, stop):
        for part in range(parts):
            step = group * K + K // parts * part + k
            for within in range(0, width, ROWS):
                column = group * width + within
                for n in range(0, count, per):
                    source, target = (first + n) * M + column, (step + n // per) * width + within
                    if column + ROWS <= M:
                        pack_numbers(
                            at(a, source), M, count - n, at(columns, target), ROWS, part == LEFT_REST
                        )
                    else:
                        for m in range(M - column):
                            pack_numbers(
                                at(a, source + m), M, count - n, at(columns, target + m), 1, part == LEFT_REST
                            )


@njit(**OPTIONS)
def pack_panel(B, first, depth, column, panels, block, k):
    """Rows `first` to `first + depth` of B (K, N), columns from `column` on, as the steps from k on of a panel."""
    (vectors, lanes), N, per, parts = panels.shape[2:], B.shape[1], per_number(panels), parts_of(panels)
    for part in range(parts):
        first_step = block * panels.shape[1] + panels.shape[1] // parts * part + k
        for n in range(0, depth, per):
            for v in range(vectors):
                start, step = column + v * lanes, first_step + n // per
                pack_vector(
                    at(B, (first + n) * N + start), N, depth - n, at(panels, (step * vectors + v) * lanes),
                    N - start, part == RIGHT_REST,
                )  # fmt: skip


@njit(**OPTIONS)
def round_rows(a, first, count, rows, to, rest):
    """Rows `first` to `first + count` of a (..., K) as bfloat16 pairs, then zeros: rows `to` and on of (..., P).

    Where these hold parts, part `rest` is what rounding leaves off.
    """
    K, parts = a.shape[-1], parts_of(rows)
    P = rows.shape[-1] // parts
    for n in range(count):
        for part in range(parts):
            for k in range(0, 2 * P, per_vector(a)):
                target = ((to + n) * parts + part) * P + k // 2
                round_vector(at(a, (first + n) * K + k), at(rows, target), K - k, part == rest)


def close_columns(columns, depth, start, stop, scratch):
    """Make `depth` packed steps what `add_columns` reads: for matrix registers, rows of 16 pairs, then zeros."""
    raise RuntimeError("for use in Numba functions only")


def close_panel(panels, block, depth, scratch):
    """Likewise of a panel."""
    raise RuntimeError("for use in Numba functions only")


@overload(close_columns, jit_options=OPTIONS)
def _close_columns(columns, depth, start, stop, scratch):
    if isinstance(scratch, types.NoneType):
        return lambda columns, depth, start, stop, scratch: None

    def close(columns, depth, start, stop, scratch):
        (K, side), parts = columns.shape[1:], parts_of(columns)
        whole = (depth + side - 1) // side * side
        for group in range(start, stop):
            for part in range(parts):
                begin = K // parts * part
                for k in range(begin + depth, begin + whole):
                    for m in range(side):
                        columns[group, k, m] = 0
                for k in range(begin, begin + whole, side):
                    square = at(columns, (group * K + k) * side)
                    transpose_block(square, side, square, side)

    return close


@overload(close_panel, jit_options=OPTIONS)
def _close_panel(panels, block, depth, scratch):
    if isinstance(scratch, types.NoneType):
        return lambda panels, block, depth, scratch: None

    def close(panels, block, depth, scratch):
        (K, vectors, side), parts = panels.shape[1:], parts_of(panels)
        for part in range(parts):
            begin = K // parts * part
            for k in range(begin + depth, begin + (depth + side - 1) // side * side):
                for v in range(vectors):
                    for lane in range(side):
                        panels[block, k, v, lane] = 0

    return close


def left_rows(a, first, start, stop, low, to):
    """Rows `start` to `stop` of those from `first` on of a (..., K) as a product reads them.

    Returns an array, and where in it row 0 begins: a itself; or, where right matrices are packed in pairs,
    low (..., P), to whose rows from `to` on they have been rounded. low is None for a.
    """
    raise RuntimeError("for use in Numba functions only")


def block_of(a, n, low, m):
    """Block n of a (..., B, K) as a product reads it, or block m of low where that is not None; likewise."""
    raise RuntimeError("for use in Numba functions only")


@overload(left_rows, jit_options=OPTIONS)
def _left_rows(a, first, start, stop, low, to):
    if isinstance(low, types.NoneType):
        return lambda a, first, start, stop, low, to: (a, first * a.shape[-1])

    def rounded(a, first, start, stop, low, to):
        round_rows(a, first + start, stop - start, low, to + start, LEFT_REST)
        return low, to * low.shape[-1]

    return rounded


@overload(block_of, jit_options=OPTIONS)
def _block_of(a, n, low, m):
    if isinstance(low, types.NoneType):
        return lambda a, n, low, m: (a, n * a.shape[-2] * a.shape[-1])
    return lambda a, n, low, m: (low, m * low.shape[-2] * low.shape[-1])


@kernel
def pack(B, panels, start, stop):
    """Panels `start` to `stop` of B (K, N); any number of vectors in a panel."""
    width = panels.shape[2] * panels.shape[3]
    for block in range(start, stop):
        pack_panel(B, 0, B.shape[0], block * width, panels, block, 0)


@kernel
def round_all(a, rows):
    """All of a (M, K) as `round_rows`, for a right matrix."""
    round_rows(a, 0, a.shape[0], rows, 0, RIGHT_REST)


@kernel
def pack_transposed(B, panels, start, stop):
    """Panels `start` to `stop` of the transpose of B (N, K), likewise; for pairs B is (N, P), of which K are used."""
    N, P = B.shape
    K, vectors, lanes = panels.shape[1:]
    for block in range(start, stop):
        for v in range(vectors):
            first = (block * vectors + v) * lanes
            used = max(0, min(lanes, N - first))
            whole = K // lanes * lanes if used == lanes else 0
            for k in range(0, whole, lanes):
                into_block = ((block * K + k) * vectors + v) * lanes
                transpose_block(at(B, first * P + k), P, at(panels, into_block), vectors * lanes)
            for k in range(whole, K):
                into = panels[block, k, v]
                for lane in range(used):
                    into[lane] = B[first + lane, k]
                for lane in range(used, lanes):
                    into[lane] = 0
