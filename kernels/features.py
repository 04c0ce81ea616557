"""What the processor has that the kernels are written for."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import NamedTuple

from numba.core import codegen, config

OFF = "CHARLSTM_AMX"  # an environment variable: with 0 the matrix registers are left alone
_ASK_FOR_STATE, _TILE_DATA = 0x1023, 18  # of Linux' arch_prctl: asm/prctl.h, and its documentation of xstate
_ARCH_PRCTL = 158  # the system call on x86-64


class Registers(NamedTuple):
    """What a machine's vector registers hold."""

    name: str
    bits: int  # of one register
    rows: int  # of a tile: rows x 3 sums, 3 vectors of weights and one of state fit at once
    needs: frozenset[str]  # features of the processor, as LLVM names them


KNOWN = (
    Registers("avx512", 512, 8, frozenset({"avx512f"})),  # 32 registers
    Registers("avx2", 256, 4, frozenset({"avx2", "fma"})),  # 16 registers
    Registers("neon", 128, 8, frozenset({"neon"})),  # 32 registers
)


def host_registers() -> Registers | None:
    """The widest registers that Numba compiles for and that have a tile; None: use the generic loops.

    Numba compiles for this machine unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say otherwise, which
    is how the tests force narrower registers or none.
    """
    return next((registers for registers in KNOWN if all(map(_has, registers.needs))), None)


def _features() -> str:
    """What Numba compiles for."""
    return str(codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES)


def _has(feature: str) -> bool:
    return f"+{feature}" in _features().split(",")


def _matrix_registers() -> str | None:
    """Why the matrix registers (Intel AMX) cannot be used, or None; asks Linux for them, once in a process.

    Linux keeps the state of matrix registers for processes that have asked only. What has been granted holds for all
    threads, and changes nothing for code that does not touch these registers.
    """
    if not (HAS_PAIRS and _has("amx-tile") and _has("amx-bf16")):
        return "the processor has no matrix registers (AMX)"
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0 turns matrix registers off"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "matrix registers are asked of Linux only"
    try:
        refused = ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA)
    except (OSError, AttributeError) as error:
        return f"matrix registers cannot be asked for: {error}"
    return "the system does not grant matrix registers" if refused else None


REGISTERS = host_registers()
HAS_PAIRS = REGISTERS is KNOWN[0] and _has("avx512bf16")
"""Whether there are products of pairs of bfloat16."""
NO_TILES = _matrix_registers()
"""Why there are no matrix registers, or None."""
