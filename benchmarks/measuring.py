"""Paired timing: on a shared machine only ratios of two sides timed in turn can be relied on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 11
REST = 0.1  # seconds before each timing: the other side's threads spin for a while before they sleep
AT_LEAST = 0.2  # seconds of each timing

Run = Callable[[], Any]


def seconds_of(run: Run) -> float:
    """Seconds of one call: after a rest and a call that is not counted, the mean of a few in a row."""
    time.sleep(REST)
    run()
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < AT_LEAST:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


def pair(benchmark: Any, first: Run, second: Run) -> tuple[float, float, float]:
    """Median seconds of both sides, and the median of the paired ratios second / first."""
    rounds: list[tuple[float, float]] = []
    benchmark.pedantic(
        lambda: rounds.append((seconds_of(first), seconds_of(second))), rounds=ROUNDS, warmup_rounds=1
    )
    own, other = (statistics.median(side) for side in zip(*rounds[1:], strict=True))
    return own, other, statistics.median(theirs / ours for ours, theirs in rounds[1:])
