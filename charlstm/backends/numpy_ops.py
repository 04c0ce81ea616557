"""The NumPy backend: the default ops, with NumPy's own ways to save copies and page faults."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import ThreadpoolController

from .ops import Ops
from .optimizer import Update
from .pool import MemoryPool
from .precision import MatmulPrecision, on_host
from .sampling import Array
from .threads import THREADS_VARIABLE, thread_count

PIECE = 1 << 16  # elements of a flat buffer that are worked on at a time


class NumPyOps(Ops):
    """Ops on the host; products run on NumPy's BLAS.

    With `threads` (or CHARLSTM_NUM_THREADS) products hold BLAS to that number; without, BLAS is
    left as it is.
    """

    name: ClassVar[str] = "numpy"

    def __init__(self, threads: int | None = None, matmul_precision: MatmulPrecision = "highest") -> None:
        super().__init__(np)
        self.matmul_precision = on_host(matmul_precision, self.name)
        self._threads = thread_count(threads)
        self._pool = MemoryPool()
        self._limited = threads is not None or THREADS_VARIABLE in os.environ
        self._blas = ThreadpoolController()

    def threads(self) -> int:
        return self._threads if self._limited else int(blas_info()["threads"])

    def device(self) -> str:
        return cpu_name()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._pool.empty(shape, dtype)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if out is None:
            out = self.empty((a.shape[0], b.shape[1]), a.dtype)
        if not self._limited:
            return np.matmul(a, b, out=out)
        with self._blas.limit(limits=self._threads, user_api="blas"):
            return np.matmul(a, b, out=out)

    def gather_rows(self, table: Array, ids: Array) -> Array:
        out = self.empty((ids.shape[0], table.shape[1]), table.dtype)
        # mode="raise" would gather into a hidden copy first; the model has checked its ids
        return np.take(table, ids, axis=0, out=out, mode="wrap")

    def scatter_add_rows(self, d: Array, ids: Array, rows: Array) -> None:
        if ids.shape[0] == 0:
            return
        order = np.argsort(ids, kind="stable")
        symbols, starts = np.unique(ids[order], return_index=True)
        d[symbols] += np.add.reduceat(rows[order], starts, axis=0)

    def multiply(self, x: Array, factors: Array, out: Array | None = None) -> Array:
        return np.multiply(x, factors, out=self.empty(x.shape, x.dtype) if out is None else out)

    def global_norm(self, flat: Array) -> float:
        # in pieces: float64 sums without a float64 copy of the whole buffer
        pieces = (flat[piece].astype(np.float64) for piece in _pieces(flat.shape[0]))
        return math.sqrt(sum(float(np.sum(piece * piece)) for piece in pieces))

    def optimizer_update(
        self, update: Update, parameters: Array, gradients: Array, slots: Sequence[Array]
    ) -> None:
        for piece in _pieces(parameters.shape[0]):
            super().optimizer_update(
                update, parameters[piece], gradients[piece], [slot[piece] for slot in slots]
            )

    def move_towards(self, average: Array, parameters: Array, share: float) -> None:
        for piece in _pieces(average.shape[0]):
            super().move_towards(average[piece], parameters[piece], share)


def _pieces(size: int) -> Iterator[slice]:
    """Parts of a flat buffer whose intermediate results fit the nearest caches."""
    return (slice(k, k + PIECE) for k in range(0, size, PIECE))


def blas_info() -> dict[str, Any]:
    """The BLAS that NumPy's products run on: name, version, threads, architecture."""
    # by attribute: threadpoolctl's info() finds more out by changing the number of threads
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    if not libraries:
        return {"library": "unknown", "version": None, "threads": 1, "architecture": None}
    first = libraries[0]
    return {
        "library": first.internal_api,
        "version": first.version,
        "threads": first.num_threads,
        "architecture": getattr(first, "architecture", None),
    }


@cache
def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
