"""One pool of threads for everything: work cut into shards, BLAS held to one thread in each.

Two pools that wait for the same cores slow each other down: after a single product on two threads,
OpenBLAS's second thread keeps its core busy waiting for more work, and a training step takes 1.4
times as long (benchmarks/RESULTS.md). So no product of the Numba backend may run outside of
`ShardPool.run`, however small.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial

import numpy as np
from threadpoolctl import ThreadpoolController

from ..kernels.waiting import reaches
from .threads import usable_cores

WATCHED = 20000  # looks for the next call before a thread sleeps: about half a millisecond

# The limit on BLAS holds for the whole process: models in several threads of a program take turns,
# operation by operation, which costs them nothing, since each operation uses all cores it can.
_ONE_AT_A_TIME = threading.RLock()


class ShardPool:
    """Runs a function over shards of a range; the calling thread does the first shard itself."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._blas = ThreadpoolController()
        self._start_helpers()

    def _start_helpers(self) -> None:
        # with more threads than cores, one that watches would keep another one from its work
        watched = WATCHED if self.threads <= usable_cores() else 0
        self._helpers = [_Helper(watched) for _ in range(self.threads - 1)]
        self._process = os.getpid()

    def parts(self, n: int, smallest: int = 1) -> list[tuple[int, int]]:
        """Near-equal parts of range(n), one a thread, of `smallest` or more each.

        They depend on n and the thread count only, so results repeat to the bit.
        """
        count = max(1, min(self.threads, n // max(smallest, 1)))
        return [(n * k // count, n * (k + 1) // count) for k in range(count)]

    def run(
        self, function: Callable[[int, int], object], n: int, smallest: int = 1, blas: bool = False
    ) -> None:
        """Call function(start, stop) on the `parts` of range(n); one that calls BLAS says so.

        Returns when all have finished; an exception in any of them is raised here. NumPy's error state
        is that of the caller in all of them.
        """
        (start, stop), *others = self.parts(n, smallest)
        errors: list[BaseException] = []

        def shard(start: int, stop: int) -> None:
            try:
                function(start, stop)
            except BaseException as error:
                errors.append(error)

        with _ONE_AT_A_TIME, self._blas.limit(limits=1, user_api="blas") if blas else nullcontext():
            if self._process != os.getpid():  # a fork copies no threads
                self._start_helpers()
            running = [
                (helper, helper.give(partial(copy_context().run, shard, *part)))
                for helper, part in zip(self._helpers, others, strict=False)
            ]
            try:
                function(start, stop)
            finally:
                for helper, number in running:
                    helper.wait(number)
        if errors:
            raise errors[0]


class _Helper:
    """One more thread, which watches for its next call for a moment before it sleeps.

    To wake a thread takes 60 to 130 microseconds, as long as many an operation, and the system often
    wakes it on the core of the thread that it should help.
    """

    def __init__(self, watched: int) -> None:
        self._watched = watched
        self._executor = ThreadPoolExecutor(1, "charlstm")  # its thread ends when nobody needs it
        self._calls: deque[Callable[[], object]] = deque()
        self._serving = False
        self._changed = threading.Condition()
        self._given, self._done = np.zeros((2, 64), np.int64)  # counts in [0], cache lines apart

    def give(self, call: Callable[[], object]) -> int:
        """Have a call made that raises nothing; its number."""
        with self._changed:
            self._calls.append(call)
            self._given[0] += 1
            if not self._serving:
                self._serving = True
                self._executor.submit(self._serve)
            return int(self._given[0])

    def wait(self, number: int) -> None:
        """Until the call with this number has been made."""
        if not reaches(self._done, number, self._watched):
            with self._changed:
                self._changed.wait_for(lambda: self._done[0] >= number)

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    self._serving = False
                    return
            self._calls.popleft()()
            with self._changed:
                self._done[0] += 1
                self._changed.notify_all()
            reaches(self._given, self._done[0] + 1, self._watched)
