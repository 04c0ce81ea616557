"""Each backend and peer at the shapes S, M and L, and their ratios.

    pytest benchmarks/ --benchmark-only                    # everything
    pytest benchmarks/ --benchmark-only -k "ratio and M-"  # the paired ratios at M

`tokens_per_second` in a row's extra_info is the throughput by the median. A `ratio` row times the
two sides in turn, round after round, and holds the median of the paired ratios: on a shared
machine nothing else can be relied on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from peers import PEERS
from workloads import GENERATED, SHAPES, WORKLOADS, Shape

from charlstm.backends import BACKENDS, unavailable

ROUNDS = 11
REST = 0.1  # seconds before each timing: the other side's threads spin for a while before they sleep
AT_LEAST = 0.2  # seconds of each timing


def sides(work: str) -> list[Any]:
    """(shape, side) of a benchmark, named M-numba and so on."""
    return [
        pytest.param(shape, side, id=f"{shape}-{side}")
        for shape in SHAPES
        for side in (*BACKENDS, *PEERS[work])
    ]


def pairs(work: str) -> list[Any]:
    """(shape, ours, peer) of a ratio, named M-numba-torch and so on."""
    return [
        pytest.param(shape, "numba", peer, id=f"{shape}-numba-{peer}")
        for shape in SHAPES
        for peer in PEERS[work]
    ]


def work_of(work: str, shape: str, side: str) -> Callable[[], Any]:
    """What is timed; skips where the backend cannot run or the peer is not installed."""
    if side in BACKENDS:
        reason = unavailable(side)
        if reason:
            pytest.skip(reason)
        return WORKLOADS[work](SHAPES[shape], side)
    if find_spec(side) is None or (side == "onnxruntime" and find_spec("onnx") is None):
        pytest.skip(f'{side} is not installed (pip install -e ".[bench]")')
    return PEERS[work][side](SHAPES[shape])


def tokens_of(work: str, shape: Shape) -> int:
    return GENERATED if work == "generate" else shape.tokens


def measure(benchmark: Any, work: str, shape: str, side: str) -> None:
    run = work_of(work, shape, side)
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)
    tokens = tokens_of(work, SHAPES[shape])
    benchmark.extra_info["tokens_per_second"] = round(tokens / benchmark.stats.stats.median)


def measure_ratio(benchmark: Any, work: str, shape: str, ours: str, peer: str) -> None:
    runs = [work_of(work, shape, side) for side in (ours, peer)]
    seconds: list[list[float]] = []

    def round_of_both() -> None:
        seconds.append([timed(run) for run in runs])

    benchmark.pedantic(round_of_both, rounds=ROUNDS, warmup_rounds=2)
    rounds = seconds[2:]
    tokens = tokens_of(work, SHAPES[shape])
    benchmark.extra_info["ratio"] = round(statistics.median(theirs / own for own, theirs in rounds), 3)
    for k, side in enumerate((ours, peer)):
        median = statistics.median(pair[k] for pair in rounds)
        benchmark.extra_info[f"{side}_tokens_per_second"] = round(tokens / median)


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call: after a rest and a call that is not counted, the mean of a few in a row."""
    time.sleep(REST)
    run()
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < AT_LEAST:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


@pytest.mark.parametrize(("shape", "side"), sides("train_step"))
def test_train_step(benchmark: Any, shape: str, side: str) -> None:
    measure(benchmark, "train_step", shape, side)


@pytest.mark.parametrize(("shape", "side"), sides("forward"))
def test_forward(benchmark: Any, shape: str, side: str) -> None:
    measure(benchmark, "forward", shape, side)


@pytest.mark.parametrize(("shape", "side"), sides("generate"))
def test_generate(benchmark: Any, shape: str, side: str) -> None:
    measure(benchmark, "generate", shape, side)


@pytest.mark.parametrize(("shape", "ours", "peer"), pairs("train_step"))
def test_train_step_ratio(benchmark: Any, shape: str, ours: str, peer: str) -> None:
    measure_ratio(benchmark, "train_step", shape, ours, peer)


@pytest.mark.parametrize(("shape", "ours", "peer"), pairs("forward"))
def test_forward_ratio(benchmark: Any, shape: str, ours: str, peer: str) -> None:
    if peer == "onnxruntime":  # the same weights: it must be the same work
        expected = np.asarray(work_of("forward", shape, "numpy")())
        assert np.max(np.abs(work_of("forward", shape, peer)() - expected)) < 1e-4
    measure_ratio(benchmark, "forward", shape, ours, peer)


@pytest.mark.parametrize(("shape", "ours", "peer"), pairs("generate"))
def test_generate_ratio(benchmark: Any, shape: str, ours: str, peer: str) -> None:
    measure_ratio(benchmark, "generate", shape, ours, peer)
