"""Gates in registers: what becomes of a tile's sums, forward and backward (equations: `charlstm.backends.ops`)."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .packing import LEFT_REST
from .tiles import ROWS, Ahead, Sums, add_products, zeros
from .vectors import INT, INT16, Lanes, Value, lanes_of, switch

GATES = 3  # vectors in a tile of forward: the three gates of one vector of units
UNITS = 2  # vectors in a tile of backward: two of units


@intrinsic
def forward_tile(
    typing, rows, H, unit, table, ids, x, D, W, W_depth, h, P, R, R_depth, made, c, c_next, h_next, low, gates,
    ahead, sizes,
):  # fmt: skip
    """One time step for 1 to ROWS rows of the batch and the units from `unit` on.

    Pointers: `table` to the first row's first number for these units, of which the row ids[r] is
    meant; x and h to the first row of x_t and h_{t-1}, which have D and P numbers; W and R to panels
    of W_depth and R_depth steps; `made` to rows of the products' sums, where another engine has made them, else
    None; the others to the tile's first number. `gates` is None where they are not kept, `low`, which takes
    h_next in bfloat16 and has P pairs in a row, where no product wants it. `ahead` and `sizes`: pointers and
    numbers for `tiles.Ahead`, memory that the next step writes.
    """
    keep, rounds, given = (not isinstance(array, types.NoneType) for array in (gates, low, made))

    def generate(context, builder, signature, values):
        rows, H, unit, table, ids, x, D, W, W_depth, h, P, R, R_depth, *values = values
        made, c, c_next, h_next, low, gates, ahead, sizes = values
        wanted = _ahead(builder, ahead, sizes, True) if keep else []
        lanes, of = (lanes_of(builder, signature.args[k]) for k in (3, 11))
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
            if given:
                sums = _add_made(lanes, sums, made)
            else:
                inputs, states = (
                    [of.offset(pointer, builder.mul(width, ir.Constant(INT, r))) for r in range(count)]
                    for pointer, width in ((x, D), (h, P))
                )
                sums = add_products(lanes, sums, inputs, W, W_depth, of=of)
                sums = add_products(lanes, sums, states, R, R_depth, ahead=wanted, of=of)
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
                after = lanes.mul(o, lanes.tanh(now))
                lanes.store(after, row(h_next, r), mask)
                if rounds:
                    into = of.offset(low, builder.mul(P, ir.Constant(INT, r)))
                    _store_left(lanes, of, after, into, P, mask)

        switch(builder, rows, range(1, ROWS + 1), variant)

    size = types.intp
    arguments = (size, size, size, table, ids, x, size, W, size, h, size, R, size)
    return types.void(*arguments, made, c, c_next, h_next, low, gates, ahead, sizes), generate


@intrinsic
def backward_tile(
    typing, rows, H, unit, depth, R, made, dh, da_after, G, dc, gates, c_before, c, da, low, ahead, sizes
):
    """Back through one time step, for 1 to ROWS rows of the batch and the units from `unit` on.

    Pointers: `R` to a panel of the transpose; `made` as for `forward_tile`; `da_after` to the first row of
    da_{t+1}, rows of G numbers of which `depth` are read (all of the panel's, or 0 at the last time step); the
    others to the tile's first number. dc is changed in place. `low`, rows of G pairs, takes da in bfloat16; None
    where no product wants it. `ahead` and `sizes`: pointers and numbers for `tiles.Ahead`.
    """
    rounds, given = (not isinstance(array, types.NoneType) for array in (low, made))

    def generate(context, builder, signature, values):
        rows, H, unit, depth, R, made, dh, da_after, G, dc, gates, c_before, c, da, low, ahead, sizes = values
        wanted = _ahead(builder, ahead, sizes, False)
        lanes, of = (lanes_of(builder, signature.args[k]) for k in (6, 4))
        columns = [ir.Constant(INT, v * lanes.count) for v in range(UNITS)]
        masks = [lanes.mask(builder.sub(builder.sub(H, unit), column)) for column in columns]

        def variant(count: int) -> None:
            def tile(pointer: Value, r: int, v: int = 0, width: int = 1, gate: int = 0) -> Value:
                start = builder.mul(H, ir.Constant(INT, r * width + gate))
                return lanes.offset(pointer, builder.add(start, columns[v]))

            each = [(r, v) for r in range(count) for v in range(UNITS)]
            sums = zeros(lanes, count, UNITS)
            if given:
                sums = _add_made(lanes, sums, made)
            else:
                inputs = [of.offset(da_after, builder.mul(G, ir.Constant(INT, r))) for r in range(count)]
                sums = add_products(lanes, sums, inputs, R, depth, ahead=wanted, of=of)
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
                    if rounds:
                        number = builder.add(builder.mul(H, ir.Constant(INT, gate)), columns[v])
                        start = of.offset(low, builder.mul(G, ir.Constant(INT, r)))
                        into = builder.gep(start, [number], source_etype=INT16)
                        _store_left(lanes, of, gradient, into, G, masks[v])

        switch(builder, rows, range(1, ROWS + 1), variant)

    size = types.intp
    arguments = (
        size,
        size,
        size,
        size,
        R,
        made,
        dh,
        da_after,
        size,
        dc,
        gates,
        c_before,
        c,
        da,
        low,
        ahead,
        sizes,
    )
    return types.void(*arguments), generate


def _store_left(lanes: Lanes, of: Lanes, numbers: Value, pointer: Value, width: Value, mask: Value) -> None:
    """Store numbers of a left matrix as bfloat16, in all of its parts; `width` pairs make a row."""
    parts = of.parts
    step = lanes.builder.sdiv(width, ir.Constant(INT, parts))
    for part in range(parts):
        rounded = lanes.remainder(numbers) if part == LEFT_REST else numbers
        lanes.store_rounded(
            rounded, of.offset(pointer, lanes.builder.mul(step, ir.Constant(INT, part))), mask
        )


def _add_made(lanes: Lanes, sums: Sums, made: Value) -> Sums:
    """Add to sums those that another engine has left in memory, row after row."""
    width = len(sums[0])
    return [
        [
            lanes.add(total, lanes.load(lanes.offset(made, ir.Constant(INT, (r * width + v) * lanes.count))))
            for v, total in enumerate(row)
        ]
        for r, row in enumerate(sums)
    ]


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
