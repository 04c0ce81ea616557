"""The tile engine on matrix registers (Intel AMX): products of bfloat16, 16 rows by 16 columns by 32 steps of k.

A matrix register holds 16 rows of 64 bytes: of a left matrix 16 rows of 16 pairs, of a packed right one 16
pairs of steps by 16 columns, of sums 16 rows of 16 float32. The engine makes up to 32 rows by 48 columns of
sums at a time and leaves them in memory, in `scratch`, from where the callers of `tiles.add_products` go on.

A thread configures its registers before it uses them and releases them when it has done. Where the processor
has none, the same code runs on memory, so that packing and indexing are checked everywhere (`EMULATED`; slow,
for tests). **No processor with such registers has run it yet.**
Reference: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter 20.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic, overload

from .compiling import OPTIONS
from .features import NO_TILES
from .vectors import INT, INT32, Pairs, Value, counted_loop, lanes_of, switch

SIDE = 16  # rows of a matrix register, its pairs, and its columns of sums
HEIGHT = 2 * SIDE  # rows of sums at a time
BYTES = 64  # of a row of a register
LEFT, RIGHT = 6, 7  # the registers of operands; 0 to 5 hold sums
EMULATED = NO_TILES is not None


class _Registers:
    """Writes instructions on matrix registers; on memory in their place where there are none."""

    def __init__(self, context, builder: ir.IRBuilder, pairs: Pairs) -> None:
        self.builder, self.pairs = builder, pairs
        if EMULATED:
            kind = ir.ArrayType(INT32, 8 * SIDE * SIDE)
            self._memory = builder.bitcast(cgutils.alloca_once(builder, kind), INT32.as_pointer())

    def _call(self, name: str, *arguments: Value) -> None:
        self.pairs._call(f"llvm.x86.{name}", ir.VoidType(), *arguments)

    @staticmethod
    def _number(register: int) -> Value:
        return ir.Constant(ir.IntType(8), register)

    def _row(self, register: int, row: Value) -> Value:
        first = self.builder.mul(row, ir.Constant(INT, SIDE))
        return self.pairs.offset(
            self._memory, self.builder.add(first, ir.Constant(INT, register * SIDE * SIDE))
        )

    def _rows(self, body) -> None:
        def step(row: Value, _) -> tuple[()]:
            body(row)
            return ()

        counted_loop(self.builder, ir.Constant(INT, 0), ir.Constant(INT, SIDE), 1, (), step)

    def zero(self, register: int) -> None:
        if EMULATED:
            nothing = ir.Constant(self.pairs.vector, None)
            self._rows(lambda row: self.pairs.store(nothing, self._row(register, row)))
        else:
            self._call("tilezero", self._number(register))

    def load(self, register: int, pointer: Value, stride: Value) -> None:
        """16 rows of 16 numbers, `stride` numbers apart."""
        b = self.builder
        if EMULATED:
            self._rows(
                lambda row: self.pairs.store(
                    self.pairs.load(self.pairs.offset(pointer, b.mul(row, stride))), self._row(register, row)
                )
            )
        else:
            pointer = b.bitcast(pointer, ir.IntType(8).as_pointer())
            self._call("tileloadd64", self._number(register), pointer, b.mul(stride, ir.Constant(INT, 4)))

    def store(self, register: int, pointer: Value, stride: Value) -> None:
        b = self.builder
        if EMULATED:
            self._rows(
                lambda row: self.pairs.store(
                    self.pairs.load(self._row(register, row)), self.pairs.offset(pointer, b.mul(row, stride))
                )
            )
        else:
            pointer = b.bitcast(pointer, ir.IntType(8).as_pointer())
            self._call("tilestored64", self._number(register), pointer, b.mul(stride, ir.Constant(INT, 4)))

    def add_product(self, sums: int) -> None:
        """Add the product of LEFT and RIGHT to a register of sums."""
        if not EMULATED:
            self._call("tdpbf16ps", *(self._number(register) for register in (sums, LEFT, RIGHT)))
            return
        b, pairs = self.builder, self.pairs
        floats = ir.VectorType(ir.FloatType(), SIDE)

        def row_of_sums(row: Value) -> None:
            def step(k: Value, total):
                left = pairs.broadcast(pairs.offset(self._row(LEFT, row), k))
                return (pairs.add_product(left, pairs.load(self._row(RIGHT, k)), total[0]),)

            total = b.bitcast(pairs.load(self._row(sums, row)), floats)
            (total,) = counted_loop(b, ir.Constant(INT, 0), ir.Constant(INT, SIDE), 1, (total,), step)
            pairs.store(b.bitcast(total, pairs.vector), self._row(sums, row))

        self._rows(row_of_sums)


@intrinsic
def _configure(typing):
    """All eight registers of this thread: 16 rows of 64 bytes."""

    def generate(context, builder, signature, values):
        if not EMULATED:
            byte = ir.IntType(8)
            content = [1, 0, *[0] * 14, *[BYTES, 0] * 8, *[0] * 16, *[SIDE] * 8, *[0] * 8]  # palette 1
            kind = ir.ArrayType(byte, BYTES)
            place = cgutils.alloca_once(builder, kind)
            builder.store(ir.Constant(kind, [ir.Constant(byte, n) for n in content]), place)
            name = "llvm.x86.ldtilecfg"
            pointer = builder.bitcast(place, byte.as_pointer())
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [byte.as_pointer()]), name
            )
            builder.call(builder.module.globals[name], [pointer])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _release(typing):
    def generate(context, builder, signature, values):
        if not EMULATED:
            name = "llvm.x86.tilerelease"
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), name)
            builder.call(builder.module.globals[name], [])
        return context.get_dummy_value()

    return types.void(), generate


def configure(tiles):
    """Make this thread's matrix registers ready, where tiles is True, not None; room for sums, (HEIGHT, 3 * SIDE)."""
    raise RuntimeError("for use in Numba functions only")


def release(scratch):
    """Give back what `configure` returned."""
    raise RuntimeError("for use in Numba functions only")


@overload(configure, jit_options=OPTIONS)
def _configure_where(tiles):
    if isinstance(tiles, types.NoneType):
        return lambda tiles: None

    def ready(tiles):
        _configure()
        return np.empty((HEIGHT, 3 * SIDE), np.float32)

    return ready


@overload(release, jit_options=OPTIONS)
def _release_where(scratch):
    if isinstance(scratch, types.NoneType):
        return lambda scratch: None
    return lambda scratch: _release()


@intrinsic
def make_products(typing, rows, vectors, depth, a, stride, step, tile, panel, scratch, accumulate):
    """Sums of 1 to HEIGHT rows by `vectors` (a literal) times SIDE columns, to rows of `scratch` of that width.

    a points to pairs: rows `stride` apart, the next 16 pairs of k `step` on, the next 16 rows `tile` on; whole
    registers are read. `depth` pairs, a multiple of SIDE. panel points to packed columns of so many vectors.
    accumulate is 1 to add to what is in scratch, else 0.
    """
    if not isinstance(vectors, types.IntegerLiteral):
        raise RequireLiteralValue("vectors")
    count = vectors.literal_value

    def generate(context, builder, signature, values):
        rows, _, depth, a, stride, step, tile, panel, scratch, accumulate = values
        pairs = lanes_of(builder, signature.args[3])
        registers = _Registers(context, builder, pairs)
        width, side = ir.Constant(INT, count * SIDE), ir.Constant(INT, SIDE)

        def place(m: int, v: int) -> Value:
            return pairs.offset(scratch, ir.Constant(INT, m * SIDE * count * SIDE + v * SIDE))

        def variant(height: int) -> None:
            each = [(m, v) for m in range(height) for v in range(count)]

            def begin(old: int) -> None:
                for m, v in each:
                    if old:
                        registers.load(m * count + v, place(m, v), width)
                    else:
                        registers.zero(m * count + v)

            switch(builder, accumulate, (0, 1), begin)

            def inner(k: Value, _) -> tuple[()]:
                block = builder.sdiv(k, side)
                for m in range(height):
                    left = builder.add(builder.mul(block, step), builder.mul(tile, ir.Constant(INT, m)))
                    registers.load(LEFT, pairs.offset(a, left), stride)
                    for v in range(count):
                        right = builder.add(builder.mul(k, width), ir.Constant(INT, v * SIDE))
                        registers.load(RIGHT, pairs.offset(panel, right), width)
                        registers.add_product(m * count + v)
                return ()

            counted_loop(builder, ir.Constant(INT, 0), depth, SIDE, (), inner)
            for m, v in each:
                registers.store(m * count + v, place(m, v), width)

        heights = builder.sdiv(builder.add(rows, ir.Constant(INT, SIDE - 1)), side)
        switch(builder, heights, (1, 2), variant)

    size = types.intp
    arguments = (size, vectors, size, a, size, size, size, panel, scratch, size)
    return types.void(*arguments), generate
