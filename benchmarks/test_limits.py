"""How near to the machine's limits: GFLOP/s beside its product peak, threads, contention, memory.

    pytest benchmarks/test_limits.py --benchmark-only
    pytest benchmarks/test_limits.py --benchmark-only -k parts    # where a training step's time goes

The peak is NumPy's product of two 2048 x 2048 matrices on all threads, timed in turn with the work.
Only the floating-point operations that the equations need are counted.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring import pair
from peers import PEERS
from workloads import (
    GENERATED,
    SHAPES,
    VOCABULARY,
    Shape,
    charlstm_forward,
    charlstm_generate,
    charlstm_generate_many,
    charlstm_train_step,
    flops,
)  # fmt: skip

from charlstm.backends import LayerInput, get_ops
from charlstm.backends.threads import thread_count

BUSY = "while True: pass"
PEAK = 2048
PARTS = (
    "layer_forward", "layer_backward", "head_gradients", "matmul", "gather_rows", "scatter_add_rows",
    "global_norm", "optimizer_update",
)  # fmt: skip


def peak_product() -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((PEAK, PEAK)).astype("float32") for _ in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def beside_peak(benchmark: Any, run: Callable[[], Any], work: float) -> None:
    """GFLOP/s of a run of `work` operations, those of the peak, and their ratio round by round."""
    seconds, peak_seconds, ratio = pair(benchmark, run, peak_product())
    benchmark.extra_info["gflops"] = round(work / seconds / 1e9, 1)
    benchmark.extra_info["peak_gflops"] = round(2 * PEAK**3 / peak_seconds / 1e9, 1)
    benchmark.extra_info["share_of_peak"] = round(ratio * work / (2 * PEAK**3), 3)


def recurrence(shape: Shape) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward through time of one layer: the first layer's, which reads a table."""
    rng, ops = np.random.default_rng(0), get_ops("numba")
    T, B, H = shape.steps, shape.batch, shape.hidden
    table, R, dh, state = (
        rng.standard_normal(s).astype("float32") for s in ((VOCABULARY, 3 * H), (H, 3 * H), (T, B, H), (B, H))
    )
    R /= np.float32(np.sqrt(H))
    source, dR = LayerInput(table, shape.batches()[0]), np.empty_like(R)
    tape = ops.layer_forward(source, R, state, state)
    return (
        lambda: ops.layer_forward(source, R, state, state),
        lambda: ops.layer_backward(dh, state, R, tape, source, dR),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_recurrence_forward(benchmark: Any, name: str) -> None:
    shape = SHAPES[name]
    beside_peak(benchmark, recurrence(shape)[0], 6 * shape.tokens * shape.hidden**2)


@pytest.mark.parametrize("name", SHAPES)
def test_recurrence_backward(benchmark: Any, name: str) -> None:
    """With the gradient of R, which is made in the same pass."""
    shape = SHAPES[name]
    beside_peak(benchmark, recurrence(shape)[1], 12 * shape.tokens * shape.hidden**2)


@pytest.mark.parametrize("name", SHAPES)
def test_step_beside_peak(benchmark: Any, name: str) -> None:
    shape = SHAPES[name]
    beside_peak(benchmark, charlstm_train_step(shape, "numba"), 3 * flops(shape))


@pytest.mark.parametrize("name", SHAPES)
def test_forward_beside_peak(benchmark: Any, name: str) -> None:
    shape = SHAPES[name]
    beside_peak(benchmark, charlstm_forward(shape, "numba"), flops(shape))


@pytest.mark.parametrize("name", SHAPES)
def test_parts(benchmark: Any, name: str) -> None:
    """Milliseconds of a training step in each op, and GFLOP/s where an op is mainly products."""
    shape, ops = SHAPES[name], get_ops("numba")
    H, N, V = shape.hidden, shape.tokens, VOCABULARY
    spent = dict.fromkeys(PARTS, 0.0)
    for part in PARTS:
        setattr(ops, part, clocked(getattr(ops, part), part, spent))
    run = charlstm_train_step(shape, ops)
    for _ in range(3):
        run()
    spent.update(dict.fromkeys(PARTS, 0.0))
    rounds = 11
    benchmark.pedantic(run, rounds=rounds)
    work = {
        "layer_forward": 2 * N * 3 * H * H * (2 * shape.layers - 1),
        "layer_backward": 4 * N * 3 * H * H * (2 * shape.layers - 1),
        "head_gradients": 6 * N * H * V,
    }
    for part, seconds in spent.items():
        if seconds:
            gflops = f" {work[part] * rounds / seconds / 1e9:.0f} GFLOP/s" if part in work else ""
            benchmark.extra_info[part] = f"{1e3 * seconds / rounds:.2f} ms{gflops}"
    rest = benchmark.stats.stats.total - sum(spent.values())
    benchmark.extra_info["the rest"] = f"{1e3 * rest / rounds:.2f} ms"


def clocked(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def run(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **keywords)
        spent[part] += time.perf_counter() - started
        return result

    return run


@pytest.mark.parametrize("name", SHAPES)
def test_two_threads(benchmark: Any, name: str) -> None:
    """Speed of a training step on two threads over that on one."""
    if thread_count() < 2:
        pytest.skip("one core")
    sides = [charlstm_train_step(SHAPES[name], get_ops("numba", threads)) for threads in (2, 1)]
    benchmark.extra_info["speedup"] = round(pair(benchmark, *sides)[2], 2)


@pytest.mark.parametrize("name", SHAPES)
def test_many_streams(benchmark: Any, name: str) -> None:
    """64 streams of generation side by side over 64 times one stream."""
    sides = charlstm_generate_many(SHAPES[name], 64), charlstm_generate(SHAPES[name], "numba")
    many, one, ratio = pair(benchmark, *sides)
    benchmark.extra_info["times_one_stream"] = round(64 * ratio, 2)
    benchmark.extra_info["microseconds_a_step"] = round(1e6 * many / GENERATED, 1)
    benchmark.extra_info["microseconds_a_step_of_one"] = round(1e6 * one / GENERATED, 1)


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", SHAPES)
def test_train_step_contended(benchmark: Any, name: str) -> None:
    """A training step against PyTorch's while one other process keeps a core busy."""
    pytest.importorskip("torch")
    shape = SHAPES[name]
    sides = charlstm_train_step(shape, "numba"), PEERS["train_step"]["torch"](shape)
    with busy_process():
        own, theirs, ratio = pair(benchmark, *sides)
    benchmark.extra_info["ratio"] = round(ratio, 3)
    benchmark.extra_info["numba_tokens_per_second"] = round(shape.tokens / own)
    benchmark.extra_info["torch_tokens_per_second"] = round(shape.tokens / theirs)


MEMORY = """
import sys
sys.path.insert(0, {folder!r})
from peers import PEERS
from workloads import SHAPES, charlstm_train_step
shape = SHAPES[{name!r}]
run = charlstm_train_step(shape, "numba") if {side!r} == "numba" else PEERS["train_step"]["torch"](shape)
for _ in range(5):
    run()
for line in open("/proc/self/status"):  # getrusage would also count the process that started this one
    if line.startswith("VmHWM:"):
        print(line.split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux keeps it")
@pytest.mark.parametrize("name", SHAPES)
def test_memory(benchmark: Any, name: str) -> None:
    """Peak memory of a process that trains, over that of PyTorch's."""
    if find_spec("torch") is None:
        pytest.skip('torch is not installed (pip install -e ".[bench]")')
    peaks = {}

    def measure() -> None:
        for side in ("numba", "torch"):
            code = MEMORY.format(folder=str(Path(__file__).parent), name=name, side=side)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[side] = int(done.stdout) / 1024

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["ratio_of_memory"] = round(peaks["numba"] / peaks["torch"], 3)
    for side, peak in peaks.items():
        benchmark.extra_info[f"{side}_megabytes"] = round(peak)
