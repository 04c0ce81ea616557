"""One pool of threads for everything: work cut into shards, BLAS held to one thread in each.

Two pools that wait for the same cores slow each other down: after a single product on two threads,
OpenBLAS's second thread keeps its core busy waiting for more work, and a training step takes 1.4
times as long (benchmarks/RESULTS.md). So no product of the Numba backend may run outside of
`ShardPool.run`, however small.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

from threadpoolctl import ThreadpoolController

from ..errors import UsageError

THREADS_VARIABLE = "CHARLSTM_NUM_THREADS"


def thread_count(threads: int | None = None) -> int:
    """The number asked for, else that of the environment, else one for each usable core."""
    if threads is None:
        text = os.environ.get(THREADS_VARIABLE, "")
        if not text:
            return usable_cores()
        try:
            threads = int(text)
        except ValueError:
            raise UsageError(f"{THREADS_VARIABLE} must be a whole number, not {text!r}") from None
    if threads < 1:
        raise UsageError(f"the number of threads must be at least 1, not {threads}")
    return threads


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and what a container's quota comes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that Linux control groups grant this process; infinite without a limit.

    Version 2 keeps "quota period" in cpu.max, version 1 each in a file of its own; the limits of all
    groups above count as well. Inside a container `root` is often the container's own group.
    """
    quota = math.inf
    try:
        paths = [line.split(":", 2)[2].strip("/") for line in groups.read_text().splitlines()]
    except (OSError, IndexError):
        paths = []
    for path in {*paths, ""}:
        for base in (root / path, root / "cpu" / path):
            for group in (base, *base.parents):
                if not group.is_relative_to(root):
                    break
                quota = min(quota, _quota_of(group))
    return quota


def _quota_of(group: Path) -> float:
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
            return int(quota) / int(period) if int(quota) > 0 else math.inf
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
            continue
    return math.inf


# The limit on BLAS holds for the whole process: models in several threads of a program take turns,
# operation by operation, which costs them nothing, since each operation uses all cores it can.
_ONE_AT_A_TIME = threading.RLock()


class ShardPool:
    """Runs a function over shards of a range; the calling thread does the first shard itself."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads - 1, "charlstm") if threads > 1 else None
        self._blas = ThreadpoolController()

    def parts(self, n: int, smallest: int = 1) -> list[tuple[int, int]]:
        """Near-equal parts of range(n), one a thread, of `smallest` or more each.

        They depend on n and the thread count only, so results repeat to the bit.
        """
        count = max(1, min(self.threads, n // max(smallest, 1)))
        return [(n * k // count, n * (k + 1) // count) for k in range(count)]

    def run(self, function: Callable[[int, int], object], n: int, smallest: int = 1) -> None:
        """Call function(start, stop) on the `parts` of range(n).

        Returns when all have finished; an exception in any of them is raised here. NumPy's error state
        is that of the caller in all of them.
        """
        (start, stop), *others = self.parts(n, smallest)
        with _ONE_AT_A_TIME, self._blas.limit(limits=1, user_api="blas"):
            if self._executor is None or not others:
                function(start, stop)
                return
            submit = self._executor.submit
            running = [submit(copy_context().run, function, s, e) for s, e in others]
            try:
                function(start, stop)
            finally:
                errors = [future.exception() for future in running]
            for error in errors:
                if error is not None:
                    raise error
