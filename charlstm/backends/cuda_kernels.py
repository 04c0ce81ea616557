"""The CUDA sources of `charlstm.kernels`, compiled by NVRTC at first use and launched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from .sampling import Array

BLOCK = 256  # threads in a block, of kernels that take one thread for each number
SOURCES = ("gates", "rows", "head", "sums", "optimizers", "dropout", "sampling")  # compiled as one
REALS = {"float32": "float", "float64": "double"}
NULL = np.uint64(0)  # a pointer to nothing, for arrays that a kernel can do without


@cache
def cuda_source(*names: str) -> str:
    """The source of these files of `charlstm.kernels` (without .cu; none: `SOURCES`), after what all share."""
    parts = ("prelude", *(names or SOURCES))
    folder = files("charlstm.kernels")
    return "\n".join(folder.joinpath(f"{part}.cu").read_text(encoding="utf-8") for part in parts)


class Kernels:
    """The kernels of one dtype, or of one source and its macros; CuPy keeps what is compiled on disk."""

    def __init__(self, xp: Any, dtype: str, *names: str, **macros: int) -> None:
        options = [f"-D{name}={value}" for name, value in ({"REAL": REALS[dtype]} | macros).items()]
        self._module = xp.RawModule(code=cuda_source(*names), options=("--std=c++17", *options))
        self._functions: dict[str, Any] = {}

    def launch(
        self, name: str, blocks: int, *arguments: Array | np.generic, threads: int = BLOCK, shared: int = 0
    ) -> None:
        """Launch a kernel on so many blocks of so many threads each, with `shared` bytes of dynamic shared memory."""
        if blocks:
            self[name]((blocks,), (threads,), arguments, shared_mem=shared)

    def __getitem__(self, name: str) -> Any:
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        return self._functions[name]


class KernelTable(dict[Any, Kernels]):
    """Kernels by what they are compiled for, made when they are asked for first."""

    def __init__(self, xp: Any) -> None:
        super().__init__()
        self._xp = xp

    def of(self, dtype: str, *names: str, macros: Mapping[str, int] | None = None) -> Kernels:
        key = dtype, names, tuple((macros or {}).items())
        if key not in self:
            self[key] = Kernels(self._xp, dtype, *names, **(macros or {}))
        return self[key]


def blocks_for(size: int, threads: int = BLOCK) -> int:
    """Blocks that together have a thread for each of `size` numbers."""
    return -(-size // threads)
