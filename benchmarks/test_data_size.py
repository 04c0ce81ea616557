"""What large texts cost: encoding, memory, and the wait for the first training step.

    CHARLSTM_GIGABYTES=2 pytest benchmarks/test_data_size.py --benchmark-only

Makes a text of that size, trains on it for 20 steps twice with a cache of its own, and removes both.
It takes about as much disk space again, and a few minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charlstm import Corpus, DataConfig
from charlstm.data import coffee

SIZE = "CHARLSTM_GIGABYTES"
TRAIN = ["train", "--max-steps", "20", "--hidden-size", "128", "--quiet"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if SIZE not in os.environ:
        pytest.skip(f"{SIZE} does not give a size")
    path = tmp_path_factory.mktemp("large") / "large.txt"
    lines = coffee.text(4_000_000).splitlines(keepends=True)
    shuffler = random.Random(0)
    with open(path, "w") as file:
        while file.tell() < float(os.environ[SIZE]) * 1e9:
            shuffler.shuffle(lines)
            file.writelines(lines)
    yield path
    path.unlink()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CHARLSTM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    subprocess.run(["rm", "-r", str(tmp_path / "cache")], check=True)


def test_encoding(benchmark: Any, large: Path, cache: Path) -> None:
    """The vocabulary, the tokens and their file, from a text that the system has just written."""
    busy = time.process_time()
    corpus = benchmark.pedantic(Corpus.load, (DataConfig(str(large)),), rounds=1)
    busy = time.process_time() - busy
    megabytes = large.stat().st_size / 1e6
    assert len(corpus.train) + len(corpus.val) == large.stat().st_size
    benchmark.extra_info["megabytes"] = round(megabytes)
    benchmark.extra_info["megabytes_per_second"] = round(megabytes / benchmark.stats["mean"], 1)
    benchmark.extra_info["per_second_of_the_core"] = round(megabytes / busy, 1)


def test_training(benchmark: Any, large: Path, cache: Path, tmp_path: Path) -> None:
    """From the start of the command to the checkpoint that it writes before its first step."""
    waits, peaks = [], []

    def train() -> None:
        run = tmp_path / f"run{len(waits)}"
        command = [sys.executable, "-m", "charlstm", *TRAIN, "--data", str(large), "--out", str(run)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not (run / "checkpoints" / "last" / "training.json").exists():
            assert process.poll() is None
            time.sleep(0.02)
        waits.append(round(time.perf_counter() - started, 2))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        peaks.append(usage.ru_maxrss * 1024 / 1e6)

    benchmark.pedantic(train, rounds=2)
    benchmark.extra_info["seconds_to_the_first_step"], benchmark.extra_info["and_the_second_time"] = waits
    benchmark.extra_info["peak_megabytes"] = round(max(peaks))
