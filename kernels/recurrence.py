"""The fused recurrence of one layer: products, gates and state update of a tile in one pass.

Forward, for some rows of the batch and one vector of units: x_t W and h_{t-1} R are summed up on top
of a row of a table (the look-up of the first layer, or the bias), and become gates, c and h while
the sums are still in registers. Backward, for two vectors of units: dh_t takes in da_{t+1} R^T over
all 3H, then the gate gradients follow at once; every few steps, while their da is still in the
nearest caches, come the products for dx, dR and dW. Units beyond the last whole vector are masked,
so any H will do.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .compiling import OPTIONS, kernel
from .products import VECTORS, add_columns, add_rows_of_panel, pack_columns, pack_panel
from .tiles import ROWS, STRETCH, Ahead, add_products, zeros
from .vectors import INT, Lanes, Value, add_vector, at, copy_vector, lanes_of, switch

GATES = 3  # vectors in a tile of forward: the three gates of one vector of units
UNITS = 2  # vectors in a tile of backward: two of units


@intrinsic
def _forward_tile(typing, rows, H, unit, table, ids, D, x, W, h, R, c, c_next, h_next, gates, ahead, sizes):
    """One time step for 1 to ROWS rows of the batch and the units from `unit` on.

    Pointers: `table` to the first row's first number for these units, of which the row ids[r] is
    meant; x and h to the first row of x_t and h_{t-1}; W and R to panels; the others to the tile's
    first number. `gates` is None where they are not kept. `ahead` and `sizes`:
    pointers and numbers for `tiles.Ahead`, memory that the next step writes.
    """
    keep = not isinstance(gates, types.NoneType)

    def generate(context, builder, signature, values):
        rows, H, unit, table, ids, D, x, W, h, R, c, c_next, h_next, gates, ahead, sizes = values
        wanted = _ahead(builder, ahead, sizes, True) if keep else []
        lanes = lanes_of(builder, signature.args[3])
        mask = lanes.mask(builder.sub(H, unit))

        def variant(count: int) -> None:
            def row(pointer: Value, r: int, width: int = 1, gate: int = 0) -> Value:
                """Where row r, and its gate, begins in an array with rows of `width` times H."""
                return lanes.offset(pointer, builder.mul(H, ir.Constant(INT, r * width + gate)))

            sums = []
            for r in range(count):
                index = builder.load(builder.gep(ids, [ir.Constant(INT, r)], source_etype=INT), typ=INT)
                start = lanes.offset(table, builder.mul(index, builder.mul(H, ir.Constant(INT, GATES))))
                sums.append([lanes.load(row(start, 0, GATES, gate), mask) for gate in range(GATES)])
            inputs = [lanes.offset(x, builder.mul(D, ir.Constant(INT, r))) for r in range(count)]
            sums = add_products(lanes, sums, inputs, W, D)
            sums = add_products(lanes, sums, [row(h, r) for r in range(count)], R, H, ahead=wanted)
            second = []
            for r, (a_i, a_o, a_g) in enumerate(sums):
                i, o, g = lanes.sigmoid(a_i), lanes.sigmoid(a_o), lanes.tanh(a_g)
                before = lanes.load(row(c, r), mask)
                now = lanes.fma(i, lanes.sub(g, before), before)
                lanes.store(now, row(c_next, r), mask)
                second.append((now, o))
                if keep:
                    for gate, activated in enumerate((i, o, g)):
                        lanes.store(activated, row(gates, r, GATES, gate), mask)
            for r, (now, o) in enumerate(second):
                lanes.store(lanes.mul(o, lanes.tanh(now)), row(h_next, r), mask)

        switch(builder, rows, range(1, ROWS + 1), variant)

    size = types.intp
    arguments = (size, size, size, table, ids, size, x, W, h, R, c, c_next, h_next, gates, ahead, sizes)
    return types.void(*arguments), generate


@intrinsic
def _backward_tile(typing, rows, H, unit, depth, R, dh, da_after, dc, gates, c_before, c, da, ahead, sizes):
    """Back through one time step, for 1 to ROWS rows of the batch and the units from `unit` on.

    Pointers: `R` to a panel of the transpose; `da_after` to the first row of da_{t+1}, of which
    `depth` numbers are read (3H, or 0 at the last time step); the others to the tile's first
    number. dc is changed in place. `ahead` and `sizes`: pointers and numbers for `tiles.Ahead`.
    """

    def generate(context, builder, signature, values):
        rows, H, unit, depth, R, dh, da_after, dc, gates, c_before, c, da, ahead, sizes = values
        wanted = _ahead(builder, ahead, sizes, False)
        lanes = lanes_of(builder, signature.args[4])
        columns = [ir.Constant(INT, v * lanes.count) for v in range(UNITS)]
        masks = [lanes.mask(builder.sub(builder.sub(H, unit), column)) for column in columns]

        def variant(count: int) -> None:
            def tile(pointer: Value, r: int, v: int = 0, width: int = 1, gate: int = 0) -> Value:
                start = builder.mul(H, ir.Constant(INT, r * width + gate))
                return lanes.offset(pointer, builder.add(start, columns[v]))

            each = [(r, v) for r in range(count) for v in range(UNITS)]
            inputs = [tile(da_after, r, 0, GATES) for r in range(count)]
            sums = add_products(lanes, zeros(lanes, count, UNITS), inputs, R, depth, ahead=wanted)
            for r, v in each:
                i, o, g = (lanes.load(tile(gates, r, v, GATES, gate), masks[v]) for gate in range(GATES))
                outer, before, now, carry = (
                    lanes.load(tile(array, r, v), masks[v]) for array in (dh, c_before, c, dc)
                )
                total = lanes.add(outer, sums[r][v])
                carry, *gradients = _gates_backward(lanes, total, carry, i, o, g, before, now)
                lanes.store(carry, tile(dc, r, v), masks[v])
                for gate, gradient in enumerate(gradients):
                    lanes.store(gradient, tile(da, r, v, GATES, gate), masks[v])

        switch(builder, rows, range(1, ROWS + 1), variant)

    size = types.intp
    arguments = (size, size, size, size, R, dh, da_after, dc, gates, c_before, c, da, ahead, sizes)
    return types.void(*arguments), generate


def _ahead(builder: ir.IRBuilder, pointers: Value, sizes: Value, to_write: bool) -> list[Ahead]:
    """From Numba's tuples of pointers and of numbers."""
    return [
        Ahead(builder.extract_value(pointers, n), builder.extract_value(sizes, n), to_write)
        for n in range(len(pointers.type.elements))
    ]


def _gates_backward(
    lanes: Lanes, dh: Value, dc: Value, i: Value, o: Value, g: Value, c_before: Value, c: Value
) -> tuple[Value, Value, Value, Value]:
    """dc_{t-1}, da_i, da_o and da_g: the equations of `charlstm.backends.ops`."""
    add, sub, mul, one = lanes.add, lanes.sub, lanes.mul, lanes.constant(1.0)
    tanh_c = lanes.tanh(c)
    dh_o = mul(dh, o)
    dc = add(dc, mul(dh_o, sub(one, mul(tanh_c, tanh_c))))
    dc_i, kept = mul(dc, i), sub(one, i)
    da_i = mul(mul(dc_i, kept), sub(g, c_before))
    da_o = mul(mul(dh_o, tanh_c), sub(one, o))
    da_g = mul(dc_i, sub(one, mul(g, g)))
    return mul(dc, kept), da_i, da_o, da_g


@kernel
def pack_gates(weights, panels, start, stop):
    """W or R (K, 3H) to panels (blocks, K, 3, lanes), the three gates of a vector of units together."""
    K, H = weights.shape[0], weights.shape[1] // GATES
    lanes = panels.shape[3]
    for block in range(start, stop):
        unit = block * lanes
        for k in range(K):
            for gate in range(GATES):
                copy_vector(
                    at(weights, (k * GATES + gate) * H + unit),
                    at(panels, ((block * K + k) * GATES + gate) * lanes),
                    H - unit,
                )


@njit(**OPTIONS)
def _ahead_of(numbers, tiles, depth):
    """How many of so many numbers each tile asks for in every STRETCH of `depth` steps."""
    requests = tiles * max(1, (depth + STRETCH - 1) // STRETCH)
    return (numbers + requests - 1) // requests


@njit(**OPTIONS)
def forward_step(table, ids, x, W, R, h, c, c_next, h_next, gates, gates_row, start, stop):
    """One time step for rows `start` to `stop` of the batch: writes c_next, h_next and gates.

    table (V, 3H), ids (B,), x (B, D), W and R as panels; h, c, c_next and h_next (B, H), of which
    c_next may be c; gates from row `gates_row` on of (..., 3H), or None to keep none.
    """
    H, D = h.shape[1], x.shape[1]
    blocks, lanes = R.shape[0], R.shape[3]
    tiles = (stop - start + ROWS - 1) // ROWS
    B, all_tiles = h.shape[0], blocks * tiles
    of_state = _ahead_of((stop - start) * H, all_tiles, H)
    sizes = (_ahead_of((stop - start) * GATES * H, all_tiles, H), of_state, of_state)
    for block in range(blocks):
        unit = block * lanes
        for k in range(tiles):
            row = start + (stop - start) * k // tiles
            share = (stop - start) * H * (block * tiles + k) // all_tiles
            after = (B + start) * H + share
            ahead = at(gates, gates_row * GATES * H + GATES * after), at(c_next, after), at(h_next, after)
            _forward_tile(
                start + (stop - start) * (k + 1) // tiles - row, H, unit, at(table, unit), at(ids, row),
                D, at(x, row * D), at(W, block * D * GATES * lanes),
                at(h, row * H), at(R, block * H * GATES * lanes),
                at(c, row * H + unit), at(c_next, row * H + unit), at(h_next, row * H + unit),
                at(gates, (gates_row + row) * GATES * H + unit), ahead, sizes,
            )  # fmt: skip


@kernel
def forward(table, ids, x, W, R, h, c, gates, start, stop):
    """All time steps for rows `start` to `stop` of the batch; slot 0 of h and c holds h0 and c0.

    a_t = table[ids_t] + x_t W + h_{t-1} R, for table (V, 3H), ids (T, B), x (T, B, D) with D >= 0;
    W and R as panels. h (T+1, B, H); c (T+1, B, H), or (1, B, H) to keep only the last one; gates
    (T, B, 3H), or None to keep none.
    """
    T, B = ids.shape
    slots = c.shape[0]
    for t in range(T):
        forward_step(
            table,
            ids[t],
            x[t],
            W,
            R,
            h[t],
            c[t % slots],
            c[(t + 1) % slots],
            h[t + 1],
            gates,
            t * B,
            start,
            stop,
        )


@kernel
def backward(
    dh, dc, R, W, h, c, gates, ids, x, dtable, dx, dR, dW, da, h_columns, x_columns, panel, start, stop
):
    """Back through all time steps for rows `start` to `stop` of the batch.

    dh (T, B, H) is the gradient by every h_t from outside; dc (B, H), by the last c, becomes that by
    c0. R (blocks, 3H, 2, lanes) and W (blocks, 3H, 3, lanes) are panels of the transposes. Adds to
    dtable (V, 3H), dR (H, 3H) and dW (D, 3H), writes dx (T, B, D), which may be dh where D is H: a
    piece's dh has been read when its dx is written. Room for some steps of these
    rows: da (steps + 1, stop - start, 3H), h_columns and x_columns (H or D / ROWS, steps * (stop - start),
    ROWS), and panel (1, steps * (stop - start), 3, lanes). At the end slot `steps` of da holds that of t = 0.
    """
    T, B, H = dh.shape
    D, steps, count = x.shape[2], da.shape[0] - 1, stop - start
    lanes = R.shape[3]
    width = UNITS * lanes
    tiles = (count + ROWS - 1) // ROWS
    all_tiles = R.shape[0] * tiles
    of_state = _ahead_of(count * H, all_tiles, GATES * H)
    sizes = (_ahead_of(count * GATES * H, all_tiles, GATES * H), of_state, of_state)
    for end in range(T, 0, -steps):
        begin = max(0, end - steps)
        empty = steps - (end - begin)  # slots of da that the last piece leaves unused
        for t in range(end - 1, begin - 1, -1):
            slot = t - begin + empty
            depth = GATES * H if t < T - 1 else 0
            for block in range(R.shape[0]):
                unit = block * width
                for k in range(tiles):
                    first = count * k // tiles
                    rows = count * (k + 1) // tiles - first
                    row = t * B + start + first
                    share = count * H * (block * tiles + k) // all_tiles
                    before = (max(0, t - 1) * B + start) * H + share
                    ahead = at(gates, GATES * before), at(c, before), at(dh, before)
                    _backward_tile(
                        rows, H, unit, depth, at(R, block * GATES * H * width), at(dh, row * H + unit),
                        at(da, ((slot + 1) * count + first) * GATES * H), at(dc, (start + first) * H + unit),
                        at(gates, row * GATES * H + unit), at(c, row * H + unit),
                        at(c, (row + B) * H + unit), at(da, (slot * count + first) * GATES * H + unit),
                        ahead, sizes,
                    )  # fmt: skip
            for source, columns in ((h, h_columns), (x, x_columns)):
                pack_columns(source, t * B + start, count, columns, 0, columns.shape[0], (t - begin) * count)
            for k in range(count):
                into, row_da = ids[t, start + k] * GATES * H, (slot * count + k) * GATES * H
                for n in range(0, GATES * H, lanes):
                    add_vector(at(da, row_da + n), at(dtable, into + n), GATES * H - n)
        rows_da = da[empty:steps].reshape((end - begin) * count, GATES * H)
        for block in range(W.shape[0]):
            for t in range(begin, end):
                da_t, dx_t = (t - begin + empty) * count * GATES * H, (t * B + start) * D
                add_rows_of_panel(da, da_t, GATES * H, W, block, dx, dx_t, count, 0)
        for column in range(0, GATES * H, VECTORS * panel.shape[3]):
            pack_panel(rows_da, 0, rows_da.shape[0], column, panel, 0)
            add_columns(h_columns, panel, rows_da.shape[0], dR, column, 0, h_columns.shape[0])
            add_columns(x_columns, panel, rows_da.shape[0], dW, column, 0, x_columns.shape[0])
        for k in range(count):
            for n in range(GATES * H):
                da[steps, k, n] = da[empty, k, n]
