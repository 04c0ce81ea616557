"""The tile engine: sums of products held in registers, and the packed weights that it reads.

A tile is some rows of the left matrix by some vectors of columns of the right one, summed over k
with every sum in a register of its own. What is done with a finished tile is the caller's affair
(`recurrence`: gates; `products`: a store). Another engine, say one with matrix registers, fits
under the same callers.

The right matrix is packed into panels, so that the engine reads it from front to back:
[columns / (vectors * lanes)][K][vectors][lanes], with zeros beyond the last column.

Both matrices may hold pairs of bfloat16 in place of float32: two steps of k in an integer of 32
bits, the first in its lower half, which makes half as many steps of twice the work. Where K is odd
the last pair's second number is 0. Sums are float32 all the same. Signed integers hold pairs of parts: a number
is the sum of the nearest bfloat16, x, and of the one nearest to the rest, y; the left matrix has, one after the
other, all of x, again x, and y, the right one x, y and x. Their product is that of the numbers but for y times y,
which is smaller by 2^-16 (Henry, Tang & Heinecke 2019, arXiv 1904.06376).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from .vectors import INT, REGISTERS, Lanes, Value, counted_loop

ROWS = REGISTERS.rows if REGISTERS else 1  # of the left matrix in a tile, at most
UNROLLED = 4  # steps of k in one turn of the loop: otherwise the loop itself costs a tenth
STRETCH = 64  # steps of k between two requests for memory that is wanted later
LINE = 64  # bytes of a cache line

Sums = list[list[Value]]  # by row and vector


class Ahead(NamedTuple):
    """Memory that is wanted later, asked for little by little while products are summed up.

    All at once, these requests would take the places of those for the panel.
    """

    pointer: Value
    numbers: Value  # asked for in every STRETCH of steps
    to_write: bool

    def ask(self, lanes: Lanes, k: Value) -> None:
        """Ask for the numbers of the stretch that begins with step k, a cache line at a time."""
        b = lanes.builder
        stretch = b.udiv(k, ir.Constant(INT, STRETCH))
        start = lanes.offset(self.pointer, b.mul(stretch, self.numbers))

        def line(number: Value, _: Sequence[Value]) -> Sequence[Value]:
            lanes.prefetch(lanes.offset(start, number), self.to_write)
            return ()

        counted_loop(b, ir.Constant(INT, 0), self.numbers, LINE // lanes.size, (), line)


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
    ahead: Sequence[Ahead] = (),
    of: Lanes | None = None,
) -> Sums:
    """sums[r][v] + the sum over k < depth of rows[r][k * stride] * panel[k][v].

    `rows` holds a pointer to the first number of each row, `stride` (1 if None) the numbers between
    one k and the next. `panel` points to packed columns, of `panel_vectors` vectors if it has more
    than are asked for. Both hold what `of` says: pairs of bfloat16, if it is `Pairs`; k counts pairs then.
    """
    b, vectors = lanes.builder, len(sums[0])
    panel_vectors, of = panel_vectors or vectors, of or lanes

    def step(k: Value, flat: list[Value]) -> list[Value]:
        at = b.mul(k, ir.Constant(INT, panel_vectors * lanes.count))
        columns = [b.add(at, ir.Constant(INT, v * lanes.count)) for v in range(vectors)]
        weights = [of.load(of.offset(panel, column)) for column in columns]
        new = []
        for r, row in enumerate(rows):
            number = of.broadcast(of.offset(row, k if stride is None else b.mul(k, stride)))
            new += [of.add_product(number, weights[v], flat[r * vectors + v]) for v in range(vectors)]
        return new

    def unrolled(k: Value, flat: list[Value]) -> list[Value]:
        for n in range(UNROLLED):
            flat = step(b.add(k, ir.Constant(INT, n)), flat)
        return flat

    whole = b.and_(depth, ir.Constant(INT, -UNROLLED))
    flat = [total for row in sums for total in row]

    def turns(start: Value, stop: Value, flat: list[Value]) -> list[Value]:
        return counted_loop(b, start, stop, UNROLLED, flat, unrolled)

    def stretch(start: Value, flat: list[Value]) -> list[Value]:
        for wanted in ahead:
            wanted.ask(lanes, start)
        stop = b.add(start, ir.Constant(INT, STRETCH))
        return turns(start, b.select(b.icmp_signed("<", stop, whole), stop, whole), flat)

    zero = ir.Constant(INT, 0)
    flat = counted_loop(b, zero, whole, STRETCH, flat, stretch) if ahead else turns(zero, whole, flat)
    flat = counted_loop(b, whole, depth, 1, flat, step)
    return [flat[r * vectors : (r + 1) * vectors] for r in range(len(rows))]
