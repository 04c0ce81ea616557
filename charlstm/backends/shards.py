"""One pool of threads for everything: work cut into shards, BLAS held to one thread inside.

Two pools that wait for the same cores slow each other down: after a single product on two threads,
OpenBLAS's second thread keeps its core busy waiting for more work, and a training step takes 1.4
times as long (benchmarks/RESULTS.md). So every product of the Numba backend, however small, runs
inside of `ShardPool.run`, and what calls BLAS there says so.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial

import numpy as np
from threadpoolctl import ThreadpoolController

from ..kernels.waiting import reaches
from .threads import usable_cores

SMALLEST_LOOP = 1 << 16  # elements: less is not worth a second thread, which costs 0.02 ms and more
WATCHED = 20000  # looks for the next call before a thread sleeps: half a millisecond on Zen 4

# The limit on BLAS holds for the whole process: models in several threads of a program take turns,
# operation by operation, which costs them nothing, since each operation uses all cores it can.
_ONE_AT_A_TIME = threading.RLock()


class ShardPool:
    """Runs a function over shards of a range; the calling thread does the first shard itself."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._blas = ThreadpoolController()
        # with more threads than cores, one that watches would keep another one from its work
        self._watched = WATCHED if threads <= usable_cores() else 0

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
        if not others:
            with _ONE_AT_A_TIME, self._blas.limit(limits=1, user_api="blas") if blas else nullcontext():
                function(start, stop)
            return
        errors: list[BaseException] = []

        def shard(start: int, stop: int) -> None:
            try:
                function(start, stop)
            except BaseException as error:
                errors.append(error)

        with _ONE_AT_A_TIME, self._blas.limit(limits=1, user_api="blas") if blas else nullcontext():
            running: list[tuple[_Helper, int]] = []
            try:
                for helper, part in zip(_helpers(len(others)), others, strict=True):
                    helper.watched = self._watched
                    running.append((helper, helper.give(partial(copy_context().run, shard, *part))))
                function(start, stop)
            finally:
                _wait_for_all(running)
        if errors:
            raise errors[0]


def _wait_for_all(running: Sequence[tuple[_Helper, int]]) -> None:
    """Until all have finished, come what may: they write to the caller's arrays."""
    interrupt: BaseException | None = None
    for helper, number in running:
        while not helper.has_made(number):
            try:
                helper.wait(number)
            except BaseException as error:  # a Ctrl-C: not before the shard is done
                interrupt = error
    if interrupt is not None:
        raise interrupt


class _Helper:
    """One more thread, which watches for its next call for a moment before it sleeps.

    To wake a thread takes 60 to 130 microseconds, as long as many an operation, and the system often
    wakes it on the core of the thread that it should help.
    """

    def __init__(self) -> None:
        self.watched = 0
        # starts the thread when it is first needed, and lets the interpreter end
        self._executor = ThreadPoolExecutor(1, "charlstm")
        self._calls: deque[tuple[int, Callable[[], object]]] = deque()
        self._serving = False
        self._changed = threading.Condition()
        self._given, self._done = np.zeros((2, 64), np.int64)  # numbers in [0], cache lines apart

    def give(self, call: Callable[[], object]) -> int:
        """Have a call made that raises nothing; its number."""
        # in this order: where an interrupt or a thread that cannot be started ends it, nothing was given
        with self._changed:
            if not self._serving:
                self._executor.submit(self._serve)  # which waits for this lock
                self._serving = True
            number = int(self._given[0]) + 1
            self._given[0] = number
            self._calls.append((number, call))
        return number

    def has_made(self, number: int) -> bool:
        """Whether the call with this number has been made."""
        return bool(self._done[0] >= number)

    def wait(self, number: int) -> None:
        """Until the call with this number has been made."""
        if not self.has_made(number) and not reaches(self._done, number, self.watched):
            with self._changed:
                self._changed.wait_for(lambda: self.has_made(number))

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    self._serving = False
                    return
                number, call = self._calls.popleft()
            call()
            del call  # and with it the arrays of its shard
            with self._changed:
                self._done[0] = number
                self._changed.notify_all()
            reaches(self._given, number + 1, self.watched)


_HELPERS: list[_Helper] = []  # of all pools, which take turns
_process = os.getpid()


def _helpers(count: int) -> list[_Helper]:
    """So many of them."""
    global _process
    if _process != os.getpid():  # a fork copies no threads
        _HELPERS.clear()
        _process = os.getpid()
    while len(_HELPERS) < count:
        _HELPERS.append(_Helper())
    return _HELPERS[:count]
