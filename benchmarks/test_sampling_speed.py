"""What sampling costs: all samplers at once beside plain sampling, and long texts beside short ones.

pytest benchmarks/test_sampling_speed.py --benchmark-only
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from charlstm.kernels import sampling
from measuring import pair
from numba import njit
from workloads import GENERATED, SHAPES, charlstm_generate_many

from charlstm import SamplingConfig
from charlstm.backends import SAMPLERS
from charlstm.generation import sampler_of

EVERYTHING = SamplingConfig(
    length=GENERATED, temperature="1:0.6", top_k=40, top_p=0.95, typical=0.95, min_p=0.02, repetition_penalty=1.1,
    no_repeat_ngram=8, logit_bias={"A": -0.5}, stop=("!!!!!!!!",), redraw=True,
)  # fmt: skip
LONG = """
import sys, time
sys.path.insert(0, {folder!r})
from workloads import SHAPES, TOKENIZER, charlstm_model
from charlstm import SamplingConfig
from charlstm.backends import SAMPLERS
from charlstm.generation import sampler_of
from charlstm.kernels import sampling
from charlstm.generation import generate
model = charlstm_model(SHAPES[{name!r}], "numba")
for length in (1000, 1000, 1000, 1_000_000):
    started = time.perf_counter()
    count = sum(len(character) for character in generate(model, TOKENIZER, "!", SamplingConfig(length)))
    seconds = time.perf_counter() - started
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(count / seconds, int(peak) / 1024)
"""


@pytest.mark.parametrize("everything", [False, True], ids=["plain", "everything"])
def test_a_draw(benchmark: Any, everything: bool) -> None:
    """Microseconds of a draw of one of 65 tokens, in a compiled loop over many."""
    rng, V, N = np.random.default_rng(0), 65, 20_000
    sampler = sampler_of(EVERYTHING if everything else SamplingConfig(GENERATED), GENERATED)
    logits = (0.1 * rng.standard_normal((N, V))).astype(np.float32)
    recent, uniforms, none = rng.integers(0, V, sampler.window), rng.random((N, 2)), np.empty(0, np.bool_)
    bias = np.zeros(V if everything else 0)

    @njit
    def loop(samplers: Any, room: Any) -> int:
        total = 0
        for n in range(N):
            total += sampling.draw(logits[n], samplers[0], 0.9, uniforms[n], recent, bias, none, False, room)
        return total

    given = np.array([tuple(sampler)], SAMPLERS), sampling.room(V)
    benchmark.pedantic(loop, given, rounds=9, warmup_rounds=1)
    benchmark.extra_info["microseconds"] = round(1e6 * benchmark.stats.stats.median / N, 2)


@pytest.mark.parametrize("posterior", ["flat", "sharp"])
@pytest.mark.parametrize("streams", [1, 64])
@pytest.mark.parametrize("name", SHAPES)
def test_all_samplers(benchmark: Any, name: str, streams: int, posterior: str) -> None:
    """Speed with every sampler on over that of plain sampling.

    flat: an untrained model, which leaves as many tokens as can be to sort; sharp: about 1.4 nats a character,
    as of a trained one.
    """
    sharpened = {"flat": 1.0, "sharp": 55.0}[posterior]
    sides = (
        charlstm_generate_many(SHAPES[name], streams, EVERYTHING, sharpened),
        charlstm_generate_many(SHAPES[name], streams, sharpened=sharpened),
    )
    own, plain, ratio = pair(benchmark, *sides)
    benchmark.extra_info["ratio"] = round(ratio, 3)
    benchmark.extra_info["characters_per_second"] = round(streams * GENERATED / own)
    benchmark.extra_info["plain_characters_per_second"] = round(streams * GENERATED / plain)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux keeps it")
def test_a_million_characters(benchmark: Any) -> None:
    """Their speed over that of a thousand, and the memory that they add."""
    lines: list[str] = []

    def measure() -> None:
        code = LONG.format(folder=str(Path(__file__).parent), name="S")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        lines[:] = done.stdout.splitlines()

    benchmark.pedantic(measure, rounds=1)
    (short, before), (long, after) = (map(float, line.split()) for line in lines[2:])
    benchmark.extra_info["ratio"] = round(long / short, 3)
    benchmark.extra_info["characters_per_second"] = round(long)
    benchmark.extra_info["megabytes_more"] = round(after - before, 1)
