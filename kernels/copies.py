"""Vectors, pairs and squares of numbers moved from one place in memory to another, packed or rounded on the way."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from .features import REGISTERS
from .vectors import INT, INT32, PARTS, Pairs, Value, lanes_of


@intrinsic
def per_number(typing, array):
    """How many steps of k one number of packed weights, or of rows of the left matrix, holds: 1, of pairs 2."""
    steps = 2 if array.dtype in (types.uint32, types.int32) else 1
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, steps)


@intrinsic
def parts_of(typing, array):
    """In how many parts the numbers of an array follow each other, each as long: PARTS, or 1."""
    parts = PARTS if array.dtype == types.int32 else 1
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, parts)


@intrinsic
def per_vector(typing, array):
    """How many numbers of an array a vector holds."""
    size = 8 if array.dtype == types.float64 else 4
    count = REGISTERS.bits // (8 * size)
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, count)


@intrinsic
def pack_vector(typing, source, stride, rows, target, count, rest):
    """The first `count` of a vector's numbers to another pointer; zeros where count is less.

    Where the target holds pairs, those of the next row, `stride` on, come in between: zeros if `rows` is 1; where
    it holds parts, what rounding leaves off if `rest`.
    """

    def generate(context, builder, signature, values):
        source, stride, rows, target, count, rest = values
        lanes, packed = (lanes_of(builder, signature.args[k]) for k in (0, 3))
        first = lanes.load(source, lanes.mask(count))
        if isinstance(packed, Pairs):
            more = builder.icmp_signed(">", rows, ir.Constant(INT, 1))
            mask = lanes.mask(builder.select(more, count, ir.Constant(INT, 0)))
            second = lanes.load(lanes.offset(source, stride), mask)
            first = packed.of_rows(lanes, *packed.part_of(lanes, rest, first, second))
        packed.store(first, target)

    return types.void(source, types.intp, types.intp, target, types.intp, types.boolean), generate


@intrinsic
def round_vector(typing, source, target, count, rest):
    """The first `count` of a vector's numbers as bfloat16, in pairs, then zeros: half a vector of pairs.

    Where the target holds parts: what rounding leaves off if `rest`.
    """

    def generate(context, builder, signature, values):
        lanes, packed = (lanes_of(builder, signature.args[k]) for k in (0, 1))
        (numbers,) = packed.part_of(lanes, values[3], lanes.load(values[0], lanes.mask(values[2])))
        lanes.store_rounded(numbers, values[1])

    return types.void(source, target, types.intp, types.boolean), generate


@intrinsic
def put_vector(typing, source, target, count, accumulate):
    """Store the first `count` of a vector's numbers, or add them to what is there if accumulate is 1, not 0."""

    def generate(context, builder, signature, values):
        source, target, count, accumulate = values
        lanes = lanes_of(builder, signature.args[0])
        old = lanes.load(target, lanes.mask(builder.mul(accumulate, count)))
        lanes.store(lanes.add(lanes.load(source), old), target, lanes.mask(count))

    return types.void(source, target, types.intp, types.intp), generate


@intrinsic
def add_vector(typing, source, target, count):
    """Add the first `count` of a vector's numbers to those at another pointer."""

    def generate(context, builder, signature, values):
        lanes = lanes_of(builder, signature.args[0])
        source, target, count = values
        mask = lanes.mask(count)
        lanes.store(lanes.add(lanes.load(target, mask), lanes.load(source, mask)), target, mask)

    return types.void(source, target, types.intp), generate


@intrinsic
def pack_numbers(typing, source, stride, rows, target, count, rest):
    """As `pack_vector`, as many numbers as the literal `count` says."""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("count")
    number = count.literal_value

    def generate(context, builder, signature, values):
        source, stride, rows, target, _, rest = values
        lanes, packed = (lanes_of(builder, signature.args[k]) for k in (0, 3))
        group = ir.VectorType(lanes.real, number)
        first = builder.load(source, align=lanes.size, typ=group)
        if isinstance(packed, Pairs):
            # a row that is not there is the first one again, times 0: it need not be read with a mask
            more = builder.icmp_signed(">", rows, ir.Constant(INT, 1))
            step = builder.select(more, stride, ir.Constant(INT, 0))
            second = builder.load(lanes.offset(source, step), align=lanes.size, typ=group)
            second = builder.select(more, second, ir.Constant(group, None))
            first = packed.of_rows(lanes, *packed.part_of(lanes, rest, first, second))
        target = builder.bitcast(target, first.type.as_pointer())
        builder.store(first, target, align=packed.size)

    return types.void(source, types.intp, types.intp, target, count, types.boolean), generate


@intrinsic
def transpose_block(typing, source, source_stride, target, target_stride):
    """A square of numbers, as wide as a vector: rows of one become columns of the other."""

    def generate(context, builder, signature, values):
        source, source_stride, target, target_stride = values
        lanes = lanes_of(builder, signature.args[0])
        n = lanes.count

        def interleave(x: Value, y: Value, half: int) -> Value:
            order = [half * n // 2 + k // 2 + n * (k % 2) for k in range(n)]
            mask = ir.Constant(ir.VectorType(INT32, n), [ir.Constant(INT32, k) for k in order])
            return builder.shuffle_vector(x, y, mask)

        def row(pointer: Value, stride: Value, k: int) -> Value:
            return lanes.offset(pointer, builder.mul(stride, ir.Constant(INT, k)))

        vectors = [lanes.load(row(source, source_stride, k)) for k in range(n)]
        for _ in range(n.bit_length() - 1):
            pairs = zip(vectors[: n // 2], vectors[n // 2 :], strict=True)
            vectors = [interleave(x, y, half) for x, y in pairs for half in (0, 1)]
        for k, vector in enumerate(vectors):
            lanes.store(vector, row(target, target_stride, k))

    return types.void(source, types.intp, target, types.intp), generate
