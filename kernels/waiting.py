"""Waiting for another thread without the GIL and without sleep."""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiling import kernel
from .vectors import INT, INT32

# tells the core that it is waiting, which leaves more of it to another thread that may share it
PAUSES: dict[str, tuple[str, list[int]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "AMD64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
    "arm64": ("llvm.aarch64.hint", [1]),
}

LOOKS_AFTER = 200  # a few microseconds, in which the thread that counted lets go of the GIL


@intrinsic
def _look(typing, counts):
    """counts[0] as other threads have left it, after a pause."""

    def generate(context, builder, signature, values):
        name, numbers = PAUSES.get(platform.machine(), (None, []))
        if name:
            kind = ir.FunctionType(ir.VoidType(), [INT32] * len(numbers))
            pause = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            builder.call(pause, [ir.Constant(INT32, number) for number in numbers])
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.load_atomic(data, "acquire", 8, typ=INT)

    return types.int64(counts), generate


@kernel
def reaches(counts, number, looks):
    """Whether counts[0] comes to be `number` or more while it is looked at so many times.

    If so it returns a little later: a thread that has to wait for the GIL sleeps.
    """
    for _ in range(looks):
        if _look(counts) >= number:
            for _ in range(LOOKS_AFTER):
                _look(counts)
            return True
    return False
