"""The tile engine: sums of products held in registers, and the packed weights that it reads.

A tile is some rows of the left matrix by some vectors of columns of the right one, summed over k
with every sum in a register of its own. What is done with a finished tile is the caller's affair
(`recurrence`: gates; `products`: a store). Another engine, say one with matrix registers, fits
under the same callers.

The right matrix is packed into panels, so that the engine reads it from front to back:
[columns / (vectors * lanes)][K][vectors][lanes], with zeros beyond the last column.
"""

from __future__ import annotations

from llvmlite import ir

from .vectors import INT, REGISTERS, Lanes, Value, counted_loop

ROWS = REGISTERS.rows if REGISTERS else 1  # of the left matrix in a tile, at most
UNROLLED = 4  # steps of k in one turn of the loop: otherwise the loop itself costs a tenth

Sums = list[list[Value]]  # by row and vector


def zeros(lanes: Lanes, rows: int, vectors: int) -> Sums:
    return [[lanes.constant(0)] * vectors for _ in range(rows)]


def add_products(
    lanes: Lanes,
    sums: Sums,
    rows: list[Value],
    panel: Value,
    depth: Value,
    stride: Value | None = None,
    panel_vectors: int | None = None,
) -> Sums:
    """sums[r][v] + the sum over k < depth of rows[r][k * stride] * panel[k][v].

    `rows` holds a pointer to the first number of each row, `stride` (1 if None) the numbers between
    one k and the next. `panel` points to packed columns, of `panel_vectors` vectors if it has more
    than are asked for.
    """
    b, vectors = lanes.builder, len(sums[0])
    panel_vectors = panel_vectors or vectors

    def step(k: Value, flat: list[Value]) -> list[Value]:
        at = b.mul(k, ir.Constant(INT, panel_vectors * lanes.count))
        columns = [b.add(at, ir.Constant(INT, v * lanes.count)) for v in range(vectors)]
        weights = [lanes.load(lanes.offset(panel, column)) for column in columns]
        new = []
        for r, row in enumerate(rows):
            number = lanes.broadcast(lanes.offset(row, k if stride is None else b.mul(k, stride)))
            new += [lanes.fma(number, weights[v], flat[r * vectors + v]) for v in range(vectors)]
        return new

    def unrolled(k: Value, flat: list[Value]) -> list[Value]:
        for n in range(UNROLLED):
            flat = step(b.add(k, ir.Constant(INT, n)), flat)
        return flat

    whole = b.and_(depth, ir.Constant(INT, -UNROLLED))
    flat = [total for row in sums for total in row]
    flat = counted_loop(b, ir.Constant(INT, 0), whole, UNROLLED, flat, unrolled)
    flat = counted_loop(b, whole, depth, 1, flat, step)
    return [flat[r * vectors : (r + 1) * vectors] for r in range(len(rows))]
