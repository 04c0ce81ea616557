"""The fused recurrence of one layer: products, gates and state update of a tile in one pass.

Forward, for some rows of the batch and one vector of units: x_t W and h_{t-1} R are summed up on top
of a row of a table (the look-up of the first layer, or the bias), and become gates, c and h while
the sums are still in registers. Backward, for two vectors of units: dh_t takes in da_{t+1} R^T over
all 3H, then the gate gradients follow at once; every few steps, while their da is still in the
nearest caches, come the products for dx, dR and dW. Units beyond the last whole vector are masked,
so any H will do.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import overload

from .compiling import OPTIONS, kernel
from .copies import add_vector, pack_vector, parts_of, per_number
from .gates import GATES, UNITS, backward_tile, forward_tile
from .matrices import HEIGHT, SIDE, configure, make_products, release
from .packing import (
    RIGHT_REST,
    block_of,
    close_columns,
    close_panel,
    left_rows,
    pack_columns,
    pack_panel,
)
from .products import VECTORS, add_columns, add_rows_of_panel
from .tiles import ROWS, STRETCH
from .vectors import at


@kernel
def pack_gates(weights, panels, start, stop):
    """W or R (K, 3H) to panels (blocks, K, 3, lanes), the three gates of a vector of units together; or to pairs."""
    K, H, per = weights.shape[0], weights.shape[1] // GATES, per_number(panels)
    depth, lanes, parts = panels.shape[1], panels.shape[3], parts_of(panels)
    for block in range(start, stop):
        unit = block * lanes
        for part in range(parts):
            first = block * depth + depth // parts * part
            for k in range(0, K, per):
                for gate in range(GATES):
                    pack_vector(
                        at(weights, (k * GATES + gate) * H + unit), GATES * H, K - k,
                        at(panels, ((first + k // per) * GATES + gate) * lanes), H - unit, part == RIGHT_REST,
                    )  # fmt: skip


@njit(**OPTIONS)
def _ahead_of(numbers, tiles, depth):
    """How many of so many numbers each tile asks for in every STRETCH of `depth` steps."""
    requests = tiles * max(1, (depth + STRETCH - 1) // STRETCH)
    return (numbers + requests - 1) // requests


@njit(**OPTIONS)
def _tiles_of(rows):
    """How many tiles so many rows are shared out to."""
    return (rows + ROWS - 1) // ROWS


def _rows_at_once(rows, scratch):
    """How many of so many rows meet a panel before the next ones do."""
    raise RuntimeError("for use in Numba functions only")


@overload(_rows_at_once, jit_options=OPTIONS)
def _choose_rows_at_once(rows, scratch):
    if isinstance(scratch, types.NoneType):
        return lambda rows, scratch: max(1, rows)
    return lambda rows, scratch: HEIGHT


def _forward_sums(rows, x, x_at, D, W, W_at, W_depth, h, h_at, P, R, R_at, scratch):
    """x W + h R of some rows and a block of units in `scratch`, where the matrix registers make them."""
    raise RuntimeError("for use in Numba functions only")


@overload(_forward_sums, jit_options=OPTIONS)
def _choose_forward_sums(rows, x, x_at, D, W, W_at, W_depth, h, h_at, P, R, R_at, scratch):
    if isinstance(scratch, types.NoneType):
        return lambda rows, x, x_at, D, W, W_at, W_depth, h, h_at, P, R, R_at, scratch: None

    def make(rows, x, x_at, D, W, W_at, W_depth, h, h_at, P, R, R_at, scratch):
        sums, side = at(scratch, 0), SIDE
        make_products(rows, GATES, R.shape[1], at(h, h_at), P, side, side * P, at(R, R_at), sums, 0)
        if W_depth:
            make_products(rows, GATES, W_depth, at(x, x_at), D, side, side * D, at(W, W_at), sums, 1)

    return make


def _backward_sums(rows, left, left_at, G, R, R_at, depth, scratch):
    """da R^T of some rows and a block of units in `scratch`, where the matrix registers make them."""
    raise RuntimeError("for use in Numba functions only")


@overload(_backward_sums, jit_options=OPTIONS)
def _choose_backward_sums(rows, left, left_at, G, R, R_at, depth, scratch):
    if isinstance(scratch, types.NoneType):
        return lambda rows, left, left_at, G, R, R_at, depth, scratch: None
    return lambda rows, left, left_at, G, R, R_at, depth, scratch: make_products(
        rows, UNITS, depth, at(left, left_at), G, SIDE, SIDE * G, at(R, R_at), at(scratch, 0), 0
    )


@njit(**OPTIONS)
def forward_step(
    table, ids, x, x_at, D, W, R, h, h_at, c, c_next, h_next, low, low_at, gates, gates_row, scratch, start, stop
):  # fmt: skip
    """One time step for rows `start` to `stop` of the batch: writes c_next, h_next, low and gates.

    table (V, 3H), ids (B,), x_t from number x_at on of (..., D), unless D is 0; W and R as panels; h_{t-1}
    from number h_at on of (..., H); c, c_next and h_next (B, H), of which c_next may be c; gates from row
    `gates_row` on of (..., 3H), or None to keep none; scratch from `matrices.configure`. Where the panels hold
    pairs of bfloat16, so do x and h, as of `left_rows`, and low, which from number low_at on takes h_next; else
    it is None.
    """
    H, P = h_next.shape[1], h.shape[-1]
    blocks, lanes = R.shape[0], R.shape[3]
    W_depth, R_depth, per = W.shape[1] if D else 0, R.shape[1], per_number(R)
    at_once = _rows_at_once(stop - start, scratch)
    B = h_next.shape[0]
    of_state = _ahead_of((stop - start) * H, blocks * _tiles_of(stop - start), R_depth)
    sizes = (GATES * of_state, of_state, of_state)
    for block in range(blocks):
        unit = block * lanes
        for first in range(start, stop, at_once):
            count = min(at_once, stop - first)
            tiles = _tiles_of(count)
            _forward_sums(
                count, x, x_at + first * D, D, W, block * W_depth * GATES * lanes, W_depth,
                h, h_at + first * P, P, R, block * R_depth * GATES * lanes, scratch,
            )  # fmt: skip
            for k in range(tiles):
                row = first + count * k // tiles
                share = H * (block * (stop - start) + row - start) // blocks
                after = (B + start) * H + share
                ahead = at(gates, gates_row * GATES * H + GATES * after), at(c_next, after), at(h_next, after)
                forward_tile(
                    first + count * (k + 1) // tiles - row, H, unit, at(table, unit), at(ids, row),
                    at(x, x_at + row * D), D, at(W, block * W_depth * GATES * lanes), W_depth,
                    at(h, h_at + row * P), P, at(R, block * R_depth * GATES * lanes), R_depth,
                    at(scratch, (row - first) * GATES * lanes),
                    at(c, row * H + unit), at(c_next, row * H + unit), at(h_next, row * H + unit),
                    at(low, low_at + row * P + unit // per), at(gates, (gates_row + row) * GATES * H + unit),
                    ahead, sizes,
                )  # fmt: skip


@kernel
def forward(table, ids, x, W, R, h, c, gates, low, low_x, tiles, start, stop):
    """All time steps for rows `start` to `stop` of the batch; slot 0 of h and c holds h0 and c0.

    a_t = table[ids_t] + x_t W + h_{t-1} R, for table (V, 3H), ids (T, B), x (T, B, D) with D >= 0;
    W and R as panels. h (T+1, B, H); c (T+1, B, H), or (1, B, H) to keep only the last one; gates
    (T, B, 3H), or None to keep none. Where the panels hold pairs, low (2, B, H / 2 or more) and low_x
    (B, D / 2 or more) are room for h and x in pairs; else None. tiles: as for `matrices.configure`.
    """
    (T, B), slots = ids.shape, c.shape[0]
    scratch = configure(tiles)
    left_rows(h, 0, start, stop, low, 0)
    for t in range(T):
        inputs, inputs_at = left_rows(x, t * B, start, stop, low_x, 0)
        before, before_at = block_of(h, t, low, t % 2)
        _, after_at = block_of(h, t + 1, low, (t + 1) % 2)
        forward_step(
            table, ids[t], inputs, inputs_at, inputs.shape[-1], W, R, before, before_at, c[t % slots],
            c[(t + 1) % slots], h[t + 1], low, after_at, gates, t * B, scratch, start, stop,
        )  # fmt: skip
    release(scratch)


@njit(**OPTIONS)
def _backward_step(t, slot, dh, dc, R, h, c, gates, da, low, scratch, start, count):
    """Back through time step t: da_t to slot `slot` of da and low from that of t + 1 in the next one; dc in place."""
    T, B, H = dh.shape
    left, _ = block_of(da, 0, low, 0)  # da as the products' left matrix
    G, depth, lanes, per = left.shape[-1], R.shape[1], R.shape[3], per_number(R)
    width, at_once = UNITS * lanes, _rows_at_once(count, scratch)
    of_state = _ahead_of(count * H, R.shape[0] * _tiles_of(count), depth)
    sizes = (GATES * of_state, of_state, of_state)
    read = depth if t < T - 1 else 0
    for block in range(R.shape[0]):
        unit = block * width
        for begin in range(0, count, at_once):
            rows = min(at_once, count - begin)
            tiles = _tiles_of(rows)
            _backward_sums(
                rows, left, ((slot + 1) * count + begin) * G, G, R, block * depth * width, read, scratch
            )
            for k in range(tiles):
                first = begin + rows * k // tiles
                row = t * B + start + first
                share = H * (block * count + first) // R.shape[0]
                before = (max(0, t - 1) * B + start) * H + share
                ahead = at(gates, GATES * before), at(c, before), at(dh, before)
                backward_tile(
                    begin + rows * (k + 1) // tiles - first, H, unit, read, at(R, block * depth * width),
                    at(scratch, (first - begin) * width), at(dh, row * H + unit),
                    at(left, ((slot + 1) * count + first) * G), G, at(dc, (start + first) * H + unit),
                    at(gates, row * GATES * H + unit), at(c, row * H + unit),
                    at(c, (row + B) * H + unit), at(da, (slot * count + first) * GATES * H + unit),
                    at(low, (slot * count + first) * G + unit // per), ahead, sizes,
                )  # fmt: skip


@kernel
def backward(
    dh, dc, R, W, h, c, gates, ids, x, dtable, dx, dR, dW, da, low, h_columns, x_columns, panel, tiles, start, stop
):  # fmt: skip
    """Back through all time steps for rows `start` to `stop` of the batch.

    dh (T, B, H) is the gradient by every h_t from outside; dc (B, H), by the last c, becomes that by
    c0. R (blocks, 3H, 2, lanes) and W (blocks, 3H, 3, lanes) are panels of the transposes. Adds to
    dtable (V, 3H), dR (H, 3H) and dW (D, 3H), writes dx (T, B, D), which may be dh where D is H: a
    piece's dh has been read when its dx is written. Room for some steps of these
    rows: da (steps + 1, stop - start, 3H), h_columns and x_columns (H or D / width, steps * (stop - start),
    width), and panel (1, steps * (stop - start), 3, lanes). At the end slot `steps` of da holds that of t = 0.
    Where the panels hold pairs of bfloat16, so do h_columns, x_columns, panel and low (steps + 1, stop - start,
    3H / 2 or more), which takes da, zeros beyond 3H; pairs are of rows of the same time step. Else low is None.
    tiles: as for `matrices.configure`.
    """
    T, B, H = dh.shape
    D, steps, count, lanes, per = x.shape[2], da.shape[0] - 1, stop - start, R.shape[3], per_number(R)
    left, _ = block_of(da, 0, low, 0)
    G, per_step = left.shape[-1], (count + per - 1) // per
    scratch = configure(tiles)
    for end in range(T, 0, -steps):
        begin = max(0, end - steps)
        empty = steps - (end - begin)  # slots of da that the last piece leaves unused
        for t in range(end - 1, begin - 1, -1):
            slot = t - begin + empty
            _backward_step(t, slot, dh, dc, R, h, c, gates, da, low, scratch, start, count)
            for source, columns in ((h, h_columns), (x, x_columns)):
                pack_columns(
                    source, t * B + start, count, columns, 0, columns.shape[0], (t - begin) * per_step
                )
            for k in range(count):
                into, row_da = ids[t, start + k] * GATES * H, (slot * count + k) * GATES * H
                for n in range(0, GATES * H, lanes):
                    add_vector(at(da, row_da + n), at(dtable, into + n), GATES * H - n)
        for block in range(W.shape[0]):
            for t in range(begin, end):
                da_t, dx_t = (t - begin + empty) * count * G, (t * B + start) * D
                add_rows_of_panel(left, da_t, G, W, block, dx, dx_t, count, 0, scratch)
        rows_da, depth = da.reshape(-1, GATES * H), (end - begin) * per_step
        close_columns(h_columns, depth, 0, h_columns.shape[0], scratch)
        close_columns(x_columns, depth, 0, x_columns.shape[0], scratch)
        for column in range(0, GATES * H, VECTORS * panel.shape[3]):
            for t in range(begin, end):
                pack_panel(
                    rows_da, (t - begin + empty) * count, count, column, panel, 0, (t - begin) * per_step
                )
            close_panel(panel, 0, depth, scratch)
            add_columns(h_columns, panel, depth, dR, column, 0, h_columns.shape[0], scratch)
            add_columns(x_columns, panel, depth, dW, column, 0, x_columns.shape[0], scratch)
        for k in range(count):
            for n in range(GATES * H):
                da[steps, k, n] = da[empty, k, n]
            for n in range(G):
                left[steps, k, n] = left[empty, k, n]
    release(scratch)
