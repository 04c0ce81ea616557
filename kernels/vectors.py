"""Vector instructions written as LLVM IR, of the width that the machine's registers have.

A `Lanes` object writes instructions on vectors of one width into a function that Numba is
compiling; the micro-kernels of `tiles` and `recurrence` are put together from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from . import elementwise as coefficients
from .features import HAS_PAIRS, REGISTERS, Registers

INT = ir.IntType(64)
INT32, INT16 = ir.IntType(32), ir.IntType(16)
Value = Any  # an llvmlite IR value


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()
PARTS = 3  # of operands: their larger, larger and smaller halves times larger, smaller and larger ones


class Lanes:
    """Writes instructions on vectors of `count` numbers of an LLVM type (float or double)."""

    def __init__(self, builder: ir.IRBuilder, real: ir.Type, registers: Registers) -> None:
        self.builder, self.real = builder, real
        self.size = 8 if isinstance(real, ir.DoubleType) else 4
        self.count = registers.bits // (8 * self.size)
        self.vector = ir.VectorType(real, self.count)
        kind = "i" if isinstance(real, ir.IntType) else "f"
        self._suffix = f"v{self.count}{kind}{8 * self.size}"

    def constant(self, x: float) -> Value:
        return ir.Constant(self.vector, [ir.Constant(self.real, float(x))] * self.count)

    def offset(self, pointer: Value, index: Value) -> Value:
        """The address of element `index` from `pointer` on."""
        return self.builder.gep(pointer, [index], source_etype=self.real)

    def mask(self, left: Value) -> Value:
        """True in the first `left` lanes (an i64; may be more than there are, or less than none)."""
        b, integers = self.builder, ir.VectorType(INT, self.count)
        numbers = ir.Constant(integers, [ir.Constant(INT, k) for k in range(self.count)])
        return b.icmp_signed("<", numbers, self._spread(left, integers))

    def _spread(self, number: Value, kind: ir.VectorType) -> Value:
        b, undefined = self.builder, ir.Constant(kind, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(INT32, self.count), [ir.Constant(INT32, 0)] * self.count)
        return b.shuffle_vector(b.insert_element(undefined, number, ir.Constant(INT32, 0)), undefined, zeros)

    def load(self, pointer: Value, mask: Value | None = None) -> Value:
        """A vector from memory; 0, and memory left alone, where the mask is false."""
        if mask is None:
            return self.builder.load(pointer, align=self.size, typ=self.vector)
        name = f"llvm.masked.load.{self._suffix}.p0"
        return self._call(
            name, self.vector, pointer, ir.Constant(INT32, self.size), mask, ir.Constant(self.vector, None)
        )

    def store(self, value: Value, pointer: Value, mask: Value | None = None) -> None:
        if mask is None:
            pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
            self.builder.store(value, pointer, align=self.size)
        else:
            name = f"llvm.masked.store.{self._suffix}.p0"
            self._call(name, ir.VoidType(), value, pointer, ir.Constant(INT32, self.size), mask)

    def broadcast(self, pointer: Value) -> Value:
        """One number from memory in every lane."""
        number = self.builder.load(pointer, align=self.size, typ=self.real)
        return self._spread(number, self.vector)

    def prefetch(self, pointer: Value, to_write: bool) -> None:
        """Ask for the cache line of an address that is read, or written, soon; any address will do."""
        hints = (int(to_write), 3, 1)  # keep it in the nearest cache; it is data
        self._call("llvm.prefetch.p0", ir.VoidType(), pointer, *(ir.Constant(INT32, hint) for hint in hints))

    def _call(self, name: str, result: ir.Type, *arguments: Value) -> Value:
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [x.type for x in arguments]), name)
        return self.builder.call(function, arguments)

    # ---- arithmetic ---------------------------------------------------------------------

    def add(self, x: Value, y: Value) -> Value:
        return self.builder.fadd(x, y)

    def sub(self, x: Value, y: Value) -> Value:
        return self.builder.fsub(x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self.builder.fmul(x, y)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x y + z, rounded once."""
        return self._call(f"llvm.fma.{self._suffix}", self.vector, x, y, z)

    def add_product(self, x: Value, y: Value, z: Value) -> Value:
        """What one step of a sum of products adds: x y + z."""
        return self.fma(x, y, z)

    def rounded(self, x: Value) -> Value:
        """Numbers (float) as bfloat16, to the nearest: the bits of each in an integer of 16."""
        b = self.builder
        if not HAS_PAIRS:
            return self._rounded(x)
        narrow = b.fptrunc(x, ir.VectorType(BFLOAT, x.type.count))
        return b.bitcast(narrow, ir.VectorType(INT16, x.type.count))

    def _rounded(self, x: Value) -> Value:
        b, integers = self.builder, ir.VectorType(INT32, x.type.count)

        def number(n: int) -> Value:
            return ir.Constant(integers, [ir.Constant(INT32, n)] * x.type.count)

        bits = b.bitcast(x, integers)
        even = b.and_(b.lshr(bits, number(16)), number(1))
        nearest = b.add(bits, b.add(even, number(0x7FFF)))
        nearest = b.select(b.fcmp_unordered("uno", x, x), number(0x7FC00000), nearest)
        return b.trunc(b.lshr(nearest, number(16)), ir.VectorType(INT16, x.type.count))

    def remainder(self, x: Value) -> Value:
        """What rounding to bfloat16 leaves off."""
        b = self.builder
        integers = ir.VectorType(INT32, x.type.count)
        sixteen = ir.Constant(integers, [ir.Constant(INT32, 16)] * x.type.count)
        return self.sub(x, b.bitcast(b.shl(b.zext(self.rounded(x), integers), sixteen), x.type))

    def store_rounded(self, value: Value, pointer: Value, mask: Value | None = None) -> None:
        """Store a vector as bfloat16; `pointer` is to the first of them."""
        value = self.rounded(value)
        if mask is None:
            pointer = self.builder.bitcast(pointer, value.type.as_pointer())
            self.builder.store(value, pointer, align=2)
        else:
            name = f"llvm.masked.store.v{self.count}i16.p0"
            self._call(name, ir.VoidType(), value, pointer, ir.Constant(INT32, 2), mask)

    def polynomial(self, x: Value, powers: Sequence[float]) -> Value:
        """Horner's scheme, the highest power first."""
        total = self.constant(powers[0])
        for power in powers[1:]:
            total = self.fma(total, x, self.constant(power))
        return total

    def _clamp(self, x: Value, low: float, high: float) -> Value:
        # a comparison with a NaN is false, and the NaN stays
        b = self.builder
        for bound, comparison in ((high, ">"), (low, "<")):
            limit = self.constant(bound)
            x = b.select(b.fcmp_ordered(comparison, x, limit), limit, x)
        return x

    def tanh(self, x: Value) -> Value:
        """As `elementwise.tanh`, by the same polynomials."""
        return self._tanh32(x) if self.size == 4 else self._tanh64(x)

    def sigmoid(self, x: Value) -> Value:
        half = self.constant(0.5)
        return self.fma(half, self.tanh(self.mul(half, x)), half)

    def _tanh32(self, x: Value) -> Value:
        x = self._clamp(x, -9.0, 9.0)
        z = self.mul(x, x)
        p, q = (self.polynomial(z, powers) for powers in (coefficients.P32, coefficients.Q32))
        return self.builder.fdiv(self.mul(x, p), q)

    def _tanh64(self, x: Value) -> Value:
        b, one = self.builder, self.constant(1.0)
        z = self.mul(x, x)
        p, q = (self.polynomial(z, powers) for powers in (coefficients.P64, coefficients.Q64))
        near = self.fma(self.mul(x, z), b.fdiv(p, q), x)
        size = self._call(f"llvm.fabs.{self._suffix}", self.vector, x)
        far = self.sub(one, b.fdiv(self.constant(2.0), self.add(self._exp64(self.add(size, size)), one)))
        far = self._call(f"llvm.copysign.{self._suffix}", self.vector, far, x)
        return b.select(b.fcmp_ordered("<", size, self.constant(0.625)), near, far)

    def _exp64(self, x: Value) -> Value:
        b, c = self.builder, coefficients
        x = self._clamp(x, c.LOWEST64, c.HIGHEST64)
        magic = self.constant(c.MAGIC64)
        shifted = self.fma(x, self.constant(c.LOG2_E), magic)
        k = self.sub(magic, shifted)
        r = self.fma(k, self.constant(c.LN2_LOW), self.fma(k, self.constant(c.LN2_HIGH), x))
        integers = ir.VectorType(INT, self.count)
        bias, mantissa = (ir.Constant(integers, [ir.Constant(INT, n)] * self.count) for n in (1023, 52))
        power = b.shl(b.add(b.bitcast(shifted, integers), bias), mantissa)
        return self.mul(self.polynomial(r, c.TAYLOR64), b.bitcast(power, self.vector))


class Pairs(Lanes):
    """Vectors whose numbers are pairs of bfloat16, those of two consecutive k in a sum of products.

    A pair is an integer of 32 bits in memory, the first one in its lower half; a signed one where numbers are
    split into parts (`tiles`).
    """

    def __init__(self, builder: ir.IRBuilder, registers: Registers, parts: int = 1) -> None:
        super().__init__(builder, INT32, registers)
        self.parts = parts

    def part_of(self, lanes: Lanes, rest: Value, *numbers: Value) -> list[Value]:
        """Numbers as they are, or what rounding leaves off them if `rest`, which is so of parts only."""
        if self.parts == 1:
            return list(numbers)
        return [self.builder.select(rest, lanes.remainder(x), x) for x in numbers]

    def of_rows(self, lanes: Lanes, first: Value, second: Value) -> Value:
        """Pairs of the numbers of two vectors, those of the first one in the lower halves."""
        b, integers = self.builder, ir.VectorType(INT32, first.type.count)
        low, high = (b.zext(lanes.rounded(x), integers) for x in (first, second))
        return b.or_(low, b.shl(high, ir.Constant(integers, [ir.Constant(INT32, 16)] * first.type.count)))

    def add_product(self, x: Value, y: Value, z: Value) -> Value:
        """x[0] y[0] + x[1] y[1] + z, in float32; without the instruction, for tests, from float32's own."""
        if not HAS_PAIRS:
            lanes = Lanes(self.builder, z.type.element, REGISTERS)
            return lanes.fma(
                self._half(x, 1), self._half(y, 1), lanes.fma(self._half(x, 0), self._half(y, 0), z)
            )
        numbers = ir.VectorType(BFLOAT, 2 * self.count)
        x, y = (self.builder.bitcast(pair, numbers) for pair in (x, y))
        return self._call("llvm.x86.avx512bf16.dpbf16ps.512", z.type, z, x, y)

    def _half(self, pair: Value, which: int) -> Value:
        """The first or second numbers of pairs, as float32."""
        b = self.builder
        if which:
            bits = b.and_(pair, ir.Constant(self.vector, [ir.Constant(INT32, 0xFFFF0000)] * self.count))
        else:
            bits = b.shl(pair, ir.Constant(self.vector, [ir.Constant(INT32, 16)] * self.count))
        return b.bitcast(bits, ir.VectorType(ir.FloatType(), self.count))


def counted_loop(
    builder: ir.IRBuilder,
    start: Value,
    stop: Value,
    step: int,
    values: Sequence[Value],
    body: Callable[[Value, Sequence[Value]], Sequence[Value]],
) -> list[Value]:
    """Write `for k in range(start, stop, step): values = body(k, values)`; the last values."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(start.type)
    phis = [builder.phi(value.type) for value in values]
    k.add_incoming(start, before)
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", k, stop), inside, after)
    builder.position_at_end(inside)
    new = body(k, phis)
    following = builder.add(k, ir.Constant(start.type, step))
    k.add_incoming(following, builder.block)
    for phi, value in zip(phis, new, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return phis


def switch(builder: ir.IRBuilder, number: Value, cases: Sequence[int], body: Callable[[int], None]) -> None:
    """Write one variant of the code for each of the cases; the one for `number` is run."""
    after = builder.append_basic_block("after")
    choice = builder.switch(number, after)
    for n in cases:
        block = builder.append_basic_block(f"case{n}")
        choice.add_case(ir.Constant(number.type, n), block)
        builder.position_at_end(block)
        body(n)
        builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def at(typing, array, index):
    """A pointer to element `index` of a C-contiguous array, counted through all its dimensions.

    None where there is no array.
    """
    if isinstance(array, types.NoneType):
        return types.none(array, types.intp), lambda context, *_: context.get_dummy_value()
    if array.layout != "C":
        raise TypingError("an array that is not C-contiguous")

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.gep(data, [values[1]], source_etype=context.get_data_type(array.dtype))

    return types.CPointer(array.dtype)(array, types.intp), generate


def lanes_of(builder: ir.IRBuilder, pointer: types.CPointer) -> Lanes:
    """Lanes of the numbers that a Numba pointer points to; uint32 and int32: pairs of bfloat16."""
    if pointer.dtype in (types.uint32, types.int32):
        return Pairs(builder, REGISTERS, PARTS if pointer.dtype == types.int32 else 1)
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
    if pointer.dtype not in kinds:
        raise TypingError(f"vectors of {pointer.dtype}")
    return Lanes(builder, kinds[pointer.dtype], REGISTERS)
