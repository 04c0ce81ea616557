"""Host memory that is used again: large arrays from blocks that finished arrays gave back.

A training step asks for the same 20 MB arrays every time. Fresh from the operating system each
of them costs a page fault per 4 KB. A block goes back to the pool when
the last view of its array is gone, so that a live tape owns its arrays.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

SMALLEST = 1 << 16  # bytes; smaller arrays are left to the allocator
ALIGNMENT = 64  # bytes: one cache line, one AVX-512 register


class MemoryPool:
    """Uninitialised NumPy arrays of any shape, from blocks that are kept and used again."""

    def __init__(self, limit: int = 1 << 31) -> None:
        """At most `limit` bytes of unused blocks are kept, those of the size last used the longest."""
        self._free: dict[int, list[np.ndarray]] = {}
        self._kept = 0
        self._limit = limit
        self._lock = threading.RLock()  # a block may come back while one is being taken

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        memory = np.asarray(_Block(self, self._take(size)))
        array: np.ndarray = memory.view(dtype).reshape(shape)
        return array

    def _take(self, size: int) -> np.ndarray:
        with self._lock:
            blocks = self._free.get(size)
            if blocks:
                self._kept -= size
                return blocks.pop()
        try:
            memory = np.empty(size + ALIGNMENT, np.uint8)
        except ValueError:  # more than can be addressed
            raise MemoryError(f"an array of {size:,} bytes") from None
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + size]

    def _give_back(self, memory: np.ndarray) -> None:
        with self._lock:
            self._kept += memory.nbytes
            blocks = self._free.pop(memory.nbytes, [])
            blocks.append(memory)  # in place: `_take` may be about to pop from this very list
            self._free[memory.nbytes] = blocks  # now the last used
            while self._kept > self._limit:
                oldest = next(iter(self._free))
                self._kept -= self._free[oldest].pop().nbytes
                if not self._free[oldest]:
                    del self._free[oldest]


class _Block:
    """The owner of one array's memory: every view of the array holds on to it."""

    def __init__(self, pool: MemoryPool, memory: np.ndarray) -> None:
        self._pool, self._memory = pool, memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._pool._give_back(self._memory)
