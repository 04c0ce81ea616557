"""Each backend and peer at the shapes S, M and L, and their ratios.

    pytest benchmarks/ --benchmark-only                    # everything
    pytest benchmarks/ --benchmark-only -k "ratio and M-"  # the paired ratios at M

`tokens_per_second` in a row's extra_info is the throughput by the median. A `ratio` row times the
two sides in turn, round after round, and holds the median of the paired ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from measuring import ROUNDS, pair
from peers import PEERS
from workloads import GENERATED, SHAPES, WORKLOADS, Shape

from charlstm.backends import BACKENDS, unavailable


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
    own, theirs, ratio = pair(benchmark, *(work_of(work, shape, side) for side in (ours, peer)))
    tokens = tokens_of(work, SHAPES[shape])
    benchmark.extra_info["ratio"] = round(ratio, 3)
    for side, seconds in ((ours, own), (peer, theirs)):
        benchmark.extra_info[f"{side}_tokens_per_second"] = round(tokens / seconds)


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
