"""How many threads to use."""

from __future__ import annotations

import math
import os
from pathlib import Path

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
