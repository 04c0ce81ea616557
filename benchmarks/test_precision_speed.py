"""--matmul-precision medium beside highest, and beside PyTorch in float32 and with bfloat16 autocast.

pytest benchmarks/test_precision_speed.py --benchmark-only --benchmark-json=precision.json
python benchmarks/results.py precision.json
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from measuring import pair
from peers import torch_forward, torch_train_step
from workloads import GENERATED, SHAPES, WORKLOADS, Shape

from charlstm.backends import get_ops
from charlstm.backends.precision import bfloat16_unavailable

PEERS: dict[str, dict[str, Callable[[Shape], Callable[[], Any]]]] = {
    "train_step": {"torch": torch_train_step, "autocast": partial(torch_train_step, bfloat16=True)},
    "forward": {"torch": torch_forward, "autocast": partial(torch_forward, bfloat16=True)},
    "generate": {},
}
CASES = [
    pytest.param(work, shape, peer, id=f"{shape}-medium-{peer}")
    for work in WORKLOADS
    for shape in SHAPES
    for peer in ("highest", *PEERS[work])
]


def of(work: str) -> Any:
    return pytest.mark.parametrize(
        ("work", "shape", "peer"), [case for case in CASES if case.values[0] == work]
    )


def measure_ratio(benchmark: Any, work: str, shape: str, peer: str) -> None:
    reason = bfloat16_unavailable()
    if reason:
        pytest.skip(reason)
    if peer == "highest":
        theirs = WORKLOADS[work](SHAPES[shape], get_ops("numba"))
    else:
        pytest.importorskip("torch", reason='PyTorch is not installed (pip install -e ".[bench]")')
        theirs = PEERS[work][peer](SHAPES[shape])
    own, other, ratio = pair(
        benchmark, WORKLOADS[work](SHAPES[shape], get_ops("numba", matmul_precision="medium")), theirs
    )
    tokens = GENERATED if work == "generate" else SHAPES[shape].tokens
    benchmark.extra_info["ratio"] = round(ratio, 3)
    benchmark.extra_info["medium_tokens_per_second"] = round(tokens / own)
    benchmark.extra_info[f"{peer}_tokens_per_second"] = round(tokens / other)


@of("train_step")
def test_train_step_ratio(benchmark: Any, work: str, shape: str, peer: str) -> None:
    measure_ratio(benchmark, work, shape, peer)


@of("forward")
def test_forward_ratio(benchmark: Any, work: str, shape: str, peer: str) -> None:
    measure_ratio(benchmark, work, shape, peer)


@of("generate")
def test_generate_ratio(benchmark: Any, work: str, shape: str, peer: str) -> None:
    measure_ratio(benchmark, work, shape, peer)
