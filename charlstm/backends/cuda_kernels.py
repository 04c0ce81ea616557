"""The CUDA sources of `charlstm.kernels`, compiled by NVRTC at first use and launched."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from .sampling import Array

BLOCK = 256  # threads in a block, of kernels that take one thread for each number
SOURCES = ("gates", "rows", "head", "sums", "optimizers")  # compiled as one
REALS = {"float32": "float", "float64": "double"}
NULL = np.uint64(0)  # a pointer to nothing, for arrays that a kernel can do without


@cache
def cuda_source() -> str:
    """All CUDA sources of `charlstm.kernels`, what they share first."""
    folder = files("charlstm.kernels")
    parts = ("prelude", *SOURCES)
    return "\n".join(folder.joinpath(f"{part}.cu").read_text(encoding="utf-8") for part in parts)


class Kernels:
    """The kernels for one dtype; CuPy keeps on disk what it has compiled."""

    def __init__(self, xp: Any, dtype: str) -> None:
        options = "--std=c++17", f"-DREAL={REALS[dtype]}"
        self._module = xp.RawModule(code=cuda_source(), options=options)
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, blocks: int, *arguments: Array | np.generic, threads: int = BLOCK) -> None:
        """Launch a kernel on so many blocks of so many threads each."""
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        if blocks:
            self._functions[name]((blocks,), (threads,), arguments)


class KernelTable(dict[str, Kernels]):
    """Kernels by dtype, compiled when they are asked for first."""

    def __init__(self, xp: Any) -> None:
        super().__init__()
        self._xp = xp

    def __missing__(self, dtype: str) -> Kernels:
        self[dtype] = Kernels(self._xp, dtype)
        return self[dtype]


def blocks_for(size: int, threads: int = BLOCK) -> int:
    """Blocks that together have a thread for each of `size` numbers."""
    return -(-size // threads)
