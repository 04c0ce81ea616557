"""What users wait for: commands from start to end, and the losses that minutes of training reach.

    pytest benchmarks/test_commands.py --benchmark-only -k "not minutes"
    CHARLSTM_TINYSHAKESPEARE=tinyshakespeare.txt pytest benchmarks/test_commands.py --benchmark-only -k minutes

The second takes five minutes and wants the text that nanoGPT trains on (1,115,394 characters).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "charlstm"]
ONE_STEP = ["train", "--backend", "numba", "--max-steps", "1", "--quiet"]
CORPUS = "CHARLSTM_TINYSHAKESPEARE"
LOSSES = (1.8857, 1.4697)  # what nanoGPT's quick start reaches on a CPU, and on a GPU


def call(*arguments: str | Path, cache: Path | None = None) -> None:
    environment = os.environ if cache is None else os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, capture_output=True, env=environment)


def test_help(benchmark: Any) -> None:
    benchmark.pedantic(call, ("--help",), rounds=5, warmup_rounds=1)


def test_one_character(benchmark: Any, tmp_path: Path) -> None:
    call(*ONE_STEP, "--out", tmp_path / "run")
    benchmark.pedantic(
        call, ("generate", tmp_path / "run", "--length", "1", "--backend", "numba"), rounds=5, warmup_rounds=1
    )


def test_one_training_step(benchmark: Any, tmp_path: Path) -> None:
    """To its end, with a validation of the embedded corpus, a sample and the checkpoint."""
    folders = (str(tmp_path / f"run{n}") for n in range(10))
    benchmark.pedantic(lambda: call(*ONE_STEP, "--out", next(folders)), rounds=5, warmup_rounds=1)


def test_one_training_step_with_an_empty_cache(benchmark: Any, tmp_path: Path) -> None:
    """Compiles all kernels of training."""
    benchmark.pedantic(call, (*ONE_STEP, "--out", tmp_path / "run"), {"cache": tmp_path / "cache"}, rounds=1)


@pytest.mark.parametrize(("precision", "limit"), [("highest", "174s"), ("medium", "95s")])
def test_minutes_of_tinyshakespeare(benchmark: Any, tmp_path: Path, precision: str, limit: str) -> None:
    """Wall time, start included, at which validation losses are reached by the defaults."""
    if CORPUS not in os.environ:
        pytest.skip(f"{CORPUS} does not name the text")
    reached: dict[float, float] = {}
    losses: list[float] = []

    def train() -> None:
        started = time.perf_counter()
        arguments = ["--data", os.environ[CORPUS], "--backend", "numba", "--max-time", limit, "--quiet"]
        arguments += ["--matmul-precision", precision]
        process = subprocess.Popen([*COMMAND, "train", *arguments, "--out", str(tmp_path / "run")])
        metrics = tmp_path / "run" / "metrics.jsonl"
        try:
            while process.poll() is None:
                time.sleep(0.1)
                lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
                losses[:] = [row["val_loss"] for row in map(json.loads, lines) if "val_loss" in row]
                for loss in LOSSES:
                    if losses and min(losses) <= loss:
                        reached.setdefault(loss, time.perf_counter() - started)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0

    benchmark.pedantic(train, rounds=1)
    for loss in LOSSES:
        benchmark.extra_info[f"seconds_to_{loss}"] = round(reached[loss], 1) if loss in reached else "never"
    benchmark.extra_info["best"] = round(min(losses), 4)
