"""Matrix products on the tile engine: a finished tile is added to a part of the result, or stored."""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from .compiling import OPTIONS, kernel
from .tiles import ROWS, add_products, zeros
from .vectors import (
    INT,
    at,
    lanes_of,
    pack_numbers,
    pack_vector,
    per_number,
    per_vector,
    round_vector,
    switch,
    transpose_block,
)

VECTORS = 3  # of columns in a tile
HEIGHTS = [n for n in (8, 4, 2, 1) if n <= ROWS]  # rows of a tile: each costs time to compile
ROWS_AT_ONCE = (
    128  # rows that meet all panels before the next ones do, so that they stay in the nearest caches
)


def _make_tile(transposed: bool):
    @intrinsic
    def tile(typing, rows, columns, depth, a, stride, panel, c, c_stride, accumulate):
        """c, rows of it (one of HEIGHTS) and `columns` columns, from rows of a and a packed panel.

        Pointers to the tile's first number; a has `stride` numbers from one row to the next, or, if
        it is read transposed, from one column to the next.
        """

        def generate(context, builder, signature, values):
            rows, columns, depth, a, stride, panel, c, c_stride, accumulate = values
            lanes, packed = (lanes_of(builder, signature.args[k]) for k in (6, 5))
            one = ir.Constant(INT, 1)
            row_stride, k_stride = (one, stride) if transposed else (stride, one)

            def variant(count: int, vectors: int) -> None:
                starts = [ir.Constant(INT, v * lanes.count) for v in range(vectors)]
                masks = [lanes.mask(builder.sub(columns, start)) for start in starts]
                old = [lanes.mask(builder.mul(accumulate, builder.sub(columns, start))) for start in starts]

                def result(r: int, v: int):
                    row = builder.mul(c_stride, ir.Constant(INT, r))
                    return lanes.offset(c, builder.add(row, starts[v]))

                each = range(vectors)
                for r in range(count):
                    for v in each:
                        lanes.prefetch(result(r, v), True)
                inputs = [lanes.offset(a, builder.mul(row_stride, ir.Constant(INT, r))) for r in range(count)]
                sums = zeros(lanes, count, vectors)
                sums = add_products(lanes, sums, inputs, panel, depth, k_stride, VECTORS, of=packed)
                for r in range(count):
                    for v in each:
                        total = lanes.add(sums[r][v], lanes.load(result(r, v), old[v]))
                        lanes.store(total, result(r, v), masks[v])

            def heights(vectors: int) -> None:
                switch(builder, rows, HEIGHTS, lambda count: variant(count, vectors))

            # weight gradients take whole panels only: sums that nobody wants at the end of their
            # columns (a sixth in the head of 65 characters) cost less than more variants to compile
            if transposed:
                heights(VECTORS)
            else:
                last = ir.Constant(INT, lanes.count - 1)
                used = builder.sdiv(builder.add(columns, last), ir.Constant(INT, lanes.count))
                switch(builder, used, range(1, VECTORS + 1), heights)

        sizes = types.intp
        return types.void(
            sizes, sizes, sizes, a, sizes, panel, c, sizes, sizes
        ), generate  # fmt: skip

    return tile


_tile, _transposed_tile = _make_tile(False), _make_tile(True)


@njit(**OPTIONS)
def _height(rows):
    """Rows of the next tile where so many are left."""
    height = ROWS
    while height > rows:
        height //= 2
    return height


@njit(**OPTIONS)
def add_rows_of_panel(a, a_at, stride, panels, block, out, out_at, rows, accumulate):
    """`rows` rows of out (+)= a B: those at numbers a_at and out_at on; B (K, N) packed in panels.

    Of them the columns that the panel `block` holds. a has `stride` numbers in a row; out is
    (..., N). accumulate is 1, or 0 to write over out.
    """
    N, depth, width = out.shape[-1], panels.shape[1], VECTORS * panels.shape[3]
    column, first = block * width, 0
    while first < rows:
        height = _height(rows - first)
        _tile(
            height, min(width, N - column), depth, at(a, a_at + first * stride), stride,
            at(panels, block * depth * width), at(out, out_at + first * N + column), N, accumulate,
        )  # fmt: skip
        first += height


@njit(**OPTIONS)
def add_rows(a, a_at, stride, panels, out, out_at, rows, accumulate):
    """As `add_rows_of_panel`, all columns."""
    for block in range(panels.shape[0]):
        add_rows_of_panel(a, a_at, stride, panels, block, out, out_at, rows, accumulate)


@njit(**OPTIONS)
def add_columns(columns, panel, depth, out, column, start, stop):
    """Groups `start` to `stop` of rows of out += a^T B, for one panel of B: columns from `column` on.

    `columns` holds a (K, M) as groups (M / ROWS, K, ROWS), of which `depth` steps of k are used.
    """
    M, N = out.shape
    width = VECTORS * panel.shape[3]
    for group in range(start, stop):
        first, rows = group * ROWS, min(ROWS, M - group * ROWS)
        k = 0
        while k < rows:
            height = _height(rows - k)
            _transposed_tile(
                height, min(width, N - column), depth, at(columns, first * columns.shape[1] + k), ROWS,
                at(panel, 0), at(out, (first + k) * N + column), N, 1,
            )  # fmt: skip
            k += height


@njit(**OPTIONS)
def pack_columns(a, first, count, columns, start, stop, k):
    """Rows `first` to `first + count` of a (..., M) as the steps from k on of groups `start` to `stop`.

    `columns` (M / ROWS, K, ROWS) holds ROWS columns of a in each group, or pairs.
    """
    M, K, per = a.shape[-1], columns.shape[1], per_number(columns)
    for group in range(start, stop):
        column = group * ROWS
        for n in range(0, count, per):
            source, target = (first + n) * M + column, (group * K + k + n // per) * ROWS
            if column + ROWS <= M:
                pack_numbers(at(a, source), M, count - n, at(columns, target), ROWS)
            else:
                for m in range(M - column):
                    pack_numbers(at(a, source + m), M, count - n, at(columns, target + m), 1)


@njit(**OPTIONS)
def pack_panel(B, first, depth, column, panels, block, k):
    """Rows `first` to `first + depth` of B (K, N), columns from `column` on, as the steps from k on of a panel."""
    (vectors, lanes), N, per = panels.shape[2:], B.shape[1], per_number(panels)
    for n in range(0, depth, per):
        for v in range(vectors):
            start, step = column + v * lanes, block * panels.shape[1] + k + n // per
            pack_vector(
                at(B, (first + n) * N + start),
                N,
                depth - n,
                at(panels, (step * vectors + v) * lanes),
                N - start,
            )


@njit(**OPTIONS)
def round_rows(a, first, count, rows, to):
    """Rows `first` to `first + count` of a (..., K) as bfloat16 pairs, then zeros: rows `to` and on of (..., P)."""
    K, P = a.shape[-1], rows.shape[-1]
    for n in range(count):
        for k in range(0, 2 * P, per_vector(a)):
            round_vector(at(a, (first + n) * K + k), at(rows, (to + n) * P + k // 2), K - k)


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
        round_rows(a, first + start, stop - start, low, to + start)
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
    """All of a (M, K) as `round_rows`."""
    round_rows(a, 0, a.shape[0], rows, 0)


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


@kernel
def product(a, panels, out, low, start, stop):
    """Rows `start` to `stop` of out (M, N) = a B; a (M, K), B in panels. `low`: as for `left_rows`."""
    N = out.shape[1]
    for first in range(start, stop, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, stop - first)
        left, left_at = left_rows(a, first, 0, count, low, 0)
        add_rows(left, left_at, left.shape[1], panels, out, first * N, count, 0)


@kernel
def transposed_product(a, B, out, columns, panel, start, stop):
    """Groups `start` to `stop` of ROWS rows of out (M, N) = a^T B; a (K, M), B (K, N).

    columns (M / ROWS, depth, ROWS) and panel (1, depth, 3, lanes) are room for `depth` steps of k, or pairs of steps.
    """
    out[start * ROWS : stop * ROWS] = 0
    per = per_number(panel)
    most = panel.shape[1] * per
    for first in range(0, a.shape[0], most):
        count = min(most, a.shape[0] - first)
        pack_columns(a, first, count, columns, start, stop, 0)
        for column in range(0, B.shape[1], VECTORS * panel.shape[3]):
            pack_panel(B, first, count, column, panel, 0, 0)
            add_columns(columns, panel, (count + per - 1) // per, out, column, start, stop)
