"""Host memory that is used again: large arrays from blocks that finished arrays gave back.

A training step asks for the same 20 MB arrays every time. Fresh from the operating system each
of them costs a page fault per 4 KB. A block goes back to the pool when
the last view of its array is gone, so that a live tape owns its arrays. Blocks come in eight sizes for
each doubling, so that steps of random lengths share them; what an array leaves of its block is
never touched.
"""

from __future__ import annotations

import ctypes
import math
import threading
from typing import Any

import numpy as np

SMALLEST = 1 << 16  # bytes; smaller arrays are left to the allocator
ALIGNMENT = 64  # bytes: one cache line, one AVX-512 register

Memory = Any  # a ctypes array, which lends its bytes to NumPy and is no array of NumPy's itself


class MemoryPool:
    """Uninitialised NumPy arrays of any shape, from blocks that are kept and used again."""

    def __init__(self, limit: int = 1 << 31) -> None:
        """At most `limit` bytes of unused blocks are kept, those of the size last used the longest."""
        self._free: dict[int, list[Memory]] = {}
        self._kept = 0
        self._limit = limit
        self._lock = threading.RLock()  # a block may come back while one is being taken

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        owner = _Block((size,), np.uint8, self._take(size))
        owner.pool = self
        return np.ndarray(shape, dtype, owner)

    def _take(self, size: int) -> Memory:
        unit = 1 << (size.bit_length() - 4)  # an eighth of the power of two below
        size = -(-size // unit) * unit
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
        return (ctypes.c_char * size).from_buffer(memory.data, start)

    def _give_back(self, memory: Memory) -> None:
        with self._lock:
            self._kept += len(memory)
            blocks = self._free.pop(len(memory), [])
            blocks.append(memory)  # in place: `_take` may be about to pop from this very list
            self._free[len(memory)] = blocks  # now the last used
            while self._kept > self._limit:
                oldest = next(iter(self._free))
                unused = self._free[oldest]
                if unused:  # else `_take` has had the last one
                    self._kept -= len(unused.pop())
                if not unused:
                    del self._free[oldest]


class _Block(np.ndarray):
    """The owner of one array's memory: every view of the array holds on to it.

    It stands on memory that is not an array itself: else views would hold on to that instead.
    """

    pool: MemoryPool | None = None  # views of the block itself have none

    def __del__(self) -> None:
        if self.pool is not None:
            self.pool._give_back(self.base)
