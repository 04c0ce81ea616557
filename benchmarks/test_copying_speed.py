"""How long it takes to find what 1 MB of text has copied from 100 MB.

pytest benchmarks/test_copying_speed.py --benchmark-only
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

CODE = """
import time
from charlstm.data import coffee
from charlstm.quality.copying import copying
copying([["abab"]], ["ba"], 2)  # compiled before it is timed
if {kind!r} == "one letter":
    text, source, times = "a" * 1_000_000, "a" * 10_000_000, 10
else:
    import numpy as np
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("etaoinshrdlu"), n)) for n in rng.integers(1, 10, 50_000)]
    def draw(count):  # as often as words of a language are
        return " ".join(np.take(words, np.minimum(rng.zipf(1.2, count), 50_000) - 1))
    text, source, times = draw(400_000)[:1_000_000], draw(4_000_000)[:10_000_000], 10
started = time.perf_counter()
(found,) = copying([[text]], [source] * times, 40)
seconds = time.perf_counter() - started
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(seconds, int(peak) / 1024, found.longest)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux keeps it")
@pytest.mark.parametrize("kind", ["words", "one letter"])
def test_copying(benchmark: Any, kind: str) -> None:
    done: list[str] = []

    def measure() -> None:
        code = CODE.format(kind=kind)
        done[:] = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["seconds"] = round(float(done[0]), 1)
    benchmark.extra_info["megabytes"] = round(float(done[1]))
    benchmark.extra_info["longest"] = int(done[2])
