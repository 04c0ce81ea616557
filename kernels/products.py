"""Matrix products on the tile engine: a finished tile is added to a part of the result, or stored."""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from .compiling import OPTIONS, kernel
from .copies import parts_of, per_number, put_vector
from .matrices import HEIGHT, SIDE, configure, make_products, release
from .packing import close_columns, close_panel, left_rows, pack_columns, pack_panel
from .tiles import ROWS, add_products, zeros
from .vectors import INT, at, lanes_of, switch

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


def add_rows_of_panel(a, a_at, stride, panels, block, out, out_at, rows, accumulate, scratch):
    """`rows` rows of out (+)= a B: those at numbers a_at and out_at on; B (K, N) packed in panels.

    Of them the columns that the panel `block` holds. a has `stride` numbers in a row; out is
    (..., N). accumulate is 1, or 0 to write over out. `scratch`: from `matrices.configure`.
    """
    raise RuntimeError("for use in Numba functions only")


@overload(add_rows_of_panel, jit_options=OPTIONS)
def _add_rows_of_panel(a, a_at, stride, panels, block, out, out_at, rows, accumulate, scratch):
    def in_registers(a, a_at, stride, panels, block, out, out_at, rows, accumulate, scratch):
        N, depth, width = out.shape[-1], panels.shape[1], VECTORS * panels.shape[3]
        column, first = block * width, 0
        while first < rows:
            height = _height(rows - first)
            _tile(
                height, min(width, N - column), depth, at(a, a_at + first * stride), stride,
                at(panels, block * depth * width), at(out, out_at + first * N + column), N, accumulate,
            )  # fmt: skip
            first += height

    def in_matrices(a, a_at, stride, panels, block, out, out_at, rows, accumulate, scratch):
        N, depth, width = out.shape[-1], panels.shape[1], VECTORS * panels.shape[3]
        column = block * width
        for first in range(0, rows, HEIGHT):
            count = min(HEIGHT, rows - first)
            make_products(
                count, VECTORS, depth, at(a, a_at + first * stride), stride, SIDE, SIDE * stride,
                at(panels, block * depth * width), at(scratch, 0), 0,
            )  # fmt: skip
            _put_rows(scratch, count, width, out, out_at + first * N + column, N - column, accumulate)

    return in_registers if isinstance(scratch, types.NoneType) else in_matrices


@njit(**OPTIONS)
def _put_rows(scratch, rows, width, out, out_at, columns, accumulate):
    """Rows of `width` sums to (or onto) those of out (..., N) that begin with number out_at, `columns` of each."""
    N = out.shape[-1]
    for row in range(rows):
        for v in range(0, width, SIDE):
            put_vector(at(scratch, row * width + v), at(out, out_at + row * N + v), columns - v, accumulate)


@njit(**OPTIONS)
def add_rows(a, a_at, stride, panels, out, out_at, rows, accumulate, scratch):
    """As `add_rows_of_panel`, all columns."""
    for block in range(panels.shape[0]):
        add_rows_of_panel(a, a_at, stride, panels, block, out, out_at, rows, accumulate, scratch)


def add_columns(columns, panel, depth, out, column, start, stop, scratch):
    """Groups `start` to `stop` of rows of out += a^T B, for one panel of B: columns from `column` on.

    `columns` holds a (K, M) as groups (M / width, K, width), of which `depth` steps of k are used.
    """
    raise RuntimeError("for use in Numba functions only")


@overload(add_columns, jit_options=OPTIONS)
def _add_columns(columns, panel, depth, out, column, start, stop, scratch):
    def in_registers(columns, panel, depth, out, column, start, stop, scratch):
        M, N = out.shape
        width, K, parts = VECTORS * panel.shape[3], columns.shape[1], parts_of(columns)
        for group in range(start, stop):
            first, rows = group * ROWS, min(ROWS, M - group * ROWS)
            for part in range(parts):
                begin = K // parts * part
                k = 0
                while k < rows:
                    height = _height(rows - k)
                    _transposed_tile(
                        height, min(width, N - column), depth, at(columns, first * K + begin * ROWS + k), ROWS,
                        at(panel, begin * width), at(out, (first + k) * N + column), N, 1,
                    )  # fmt: skip
                    k += height

    def in_matrices(columns, panel, depth, out, column, start, stop, scratch):
        M, N = out.shape
        width, K, parts = VECTORS * panel.shape[3], columns.shape[1], parts_of(columns)
        whole = (depth + SIDE - 1) // SIDE * SIDE
        for group in range(start, stop, HEIGHT // SIDE):
            rows = min(HEIGHT, SIDE * (stop - group), M - group * SIDE)
            for part in range(parts):
                begin = K // parts * part
                make_products(
                    rows, VECTORS, whole, at(columns, (group * K + begin) * SIDE), SIDE, SIDE * SIDE, K * SIDE,
                    at(panel, begin * width), at(scratch, 0), min(part, 1),
                )  # fmt: skip
            _put_rows(scratch, rows, width, out, group * SIDE * N + column, N - column, 1)

    return in_registers if isinstance(scratch, types.NoneType) else in_matrices


@kernel
def product(a, panels, out, low, tiles, start, stop):
    """Rows `start` to `stop` of out (M, N) = a B; a (M, K), B in panels. low: for `left_rows`, tiles: `configure`."""
    N = out.shape[1]
    scratch = configure(tiles)
    for first in range(start, stop, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, stop - first)
        left, left_at = left_rows(a, first, 0, count, low, 0)
        add_rows(left, left_at, left.shape[1], panels, out, first * N, count, 0, scratch)
    release(scratch)


@kernel
def transposed_product(a, B, out, columns, panel, tiles, start, stop):
    """Groups `start` to `stop` of rows of out (M, N) = a^T B; a (K, M), B (K, N).

    columns (M / width, depth, width) and panel (1, depth, 3, lanes) are room for `depth` steps of k, or pairs.
    """
    width, per = columns.shape[2], per_number(panel)
    out[start * width : stop * width] = 0
    most = panel.shape[1] // parts_of(panel) * per
    scratch = configure(tiles)
    for first in range(0, a.shape[0], most):
        count = min(most, a.shape[0] - first)
        depth = (count + per - 1) // per
        pack_columns(a, first, count, columns, start, stop, 0)
        close_columns(columns, depth, start, stop, scratch)
        for column in range(0, B.shape[1], VECTORS * panel.shape[3]):
            pack_panel(B, first, count, column, panel, 0, 0)
            close_panel(panel, 0, depth, scratch)
            add_columns(columns, panel, depth, out, column, start, stop, scratch)
    release(scratch)
