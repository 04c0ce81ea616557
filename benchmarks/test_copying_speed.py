"""How long it takes to find what 1 MB of text has copied from 100 MB, and how much memory beside them.

    pytest benchmarks/test_copying_speed.py --benchmark-only

Texts of words, one that stands in the 100 MB as it is, and two that repeat themselves.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

CODE = """
import time
import numpy as np
from charlstm.quality.copying import copying

rng = np.random.default_rng(0)
vocabulary = ["".join(rng.choice(list("etaoinshrdlu"), n)) for n in rng.integers(1, 10, 50_000)]

def drawn(count):  # as often as words of a language are, a few at a time so that they take no memory
    lines = (rng.zipf(1.2, 1000) for _ in range(count // 1000))
    return " ".join(" ".join(vocabulary[min(k, 50_000) - 1] for k in line.tolist()) for line in lines)

if {kind!r} == "words":
    text, source = drawn(400_000)[:1_000_000], drawn(4_000_000)[:10_000_000]
elif {kind!r} == "copied":
    source = drawn(4_000_000)[:10_000_000]
    text = source[5_000_000:6_000_000]
else:
    text, source = {kind!r} * 500_000, {kind!r} * 5_000_000
copying([["abab"]], lambda: ["ba"], 2)  # compiled before it is timed

def held(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))) / 1024

before, started, busy = held("VmRSS:"), time.perf_counter(), time.process_time()
(found,) = copying([[text]], lambda: [source] * 10, 40)
busy = time.process_time() - busy
print(time.perf_counter() - started, busy, held("VmHWM:") - before, found.longest, found.share)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux keeps it")
@pytest.mark.parametrize("kind", ["words", "copied", "aa", "ab"])
def test_copying(benchmark: Any, kind: str) -> None:
    done: list[str] = []

    def measure() -> None:
        code = CODE.format(kind=kind)
        done[:] = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()

    benchmark.pedantic(measure, rounds=1)
    seconds, busy, megabytes, longest, share = map(float, done)
    benchmark.extra_info["seconds"] = round(seconds, 1)
    benchmark.extra_info["seconds_of_the_core"] = round(busy, 1)
    benchmark.extra_info["megabytes"] = round(megabytes)
    benchmark.extra_info["longest"] = int(longest)
    benchmark.extra_info["share"] = round(share, 3)
