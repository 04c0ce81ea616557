"""Training killed at random moments, saving included: every time the last checkpoint loads, and the
steps that were lost are made again, to the byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

import charlstm
from charlstm import Config, DataConfig, ModelConfig, TrainingConfig, checkpoint
from charlstm.data import Corpus, coffee
from charlstm.run import read_metrics
from charlstm.training import Reporter, prepare, reopen
from charlstm.training.trainer import Trainer

SESSION = """
import sys
from charlstm.training import reopen
trainer = reopen(sys.argv[1])
print("on", flush=True)
trainer.train()
"""
CONFIG = Config(
    ModelConfig(hidden_size=8, num_layers=2, dropout=0.3),
    DataConfig(batch_size=2, seq_len=8, val_fraction=0.02),
    TrainingConfig(eval_every=2, sample_every=25, sample_threshold=0.0, keep_every=500, averaging="ema"),
)


class Moment(NamedTuple):
    """What a kill found: where training stood, and whether a checkpoint was being written."""

    step: int
    while_saving: bool


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a kill loses nothing that was written, flushed to disk or not,
    and thousands of checkpoints need not wait for a disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


def killed(run: Path, rng: random.Random) -> Moment:
    """Go on with the run in a process of its own and kill it: at any time since its start, at any time while
    it trains, or as soon as a checkpoint is seen being written."""
    before = leftovers(run)
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    kind = rng.choice(["start", "train", "save", "save"])
    if kind != "start":
        process.stdout.readline()
    time.sleep(rng.uniform(0, 0.6 if kind == "start" else 0.1))
    deadline = time.monotonic() + 20
    while kind == "save" and not leftovers(run) - before and time.monotonic() < deadline:
        pass
    time.sleep(rng.choice([0, 0, 0.001, 0.003]))
    ended = process.poll()
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert ended is None, errors.decode()  # it was killed, it did not end by itself
    while_saving = bool(leftovers(run) - before)
    return Moment(checked_step(run), while_saving)


def leftovers(run: Path) -> set[tuple[str, int]]:
    """Directories of checkpoints that are being written, or were when a process ended: name and inode."""
    return {
        (entry.name, entry.inode())
        for entry in os.scandir(run / "checkpoints")
        if entry.name.startswith(".") and entry.name.endswith((".partial", ".old"))
    }


def checked_step(run: Path) -> int:
    """The step of the last checkpoint, everything in the run being readable."""
    last = run / "checkpoints" / "last"
    model, _ = checkpoint.load(last, "numpy")
    state = checkpoint.load_training(last, model, ["optimizer.m", "optimizer.v", "average"])
    if checkpoint.exists(run / "checkpoints" / "best"):
        checkpoint.load(run / "checkpoints" / "best", "numpy")
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl")]
    assert steps == sorted(steps)
    assert Config.from_toml(run / "config.toml") == charlstm.load(run, "numpy").config
    return int(state.progress["step"])


def lasting(directory: Path) -> dict[str, Any]:
    """What a run leaves, but for times: weights and buffers, samples, lines of metrics."""
    files = [*directory.glob("checkpoints/*/*.safetensors"), *directory.glob("samples/*.txt")]
    content: dict[str, Any] = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    content["metrics"] = [
        {key: value for key, value in line.items() if key not in ("seconds", "tokens_per_second")}
        for line in read_metrics(directory / "metrics.jsonl")
    ]
    return content


def kill_often(room: Path, kills: int, max_steps: int) -> list[Moment]:
    """Kill one run so many times, let it end, and compare it with one that was not killed."""
    text = room / "text.txt"
    text.write_text(coffee.text(6000))
    config = replace(CONFIG, training=replace(CONFIG.training, max_steps=max_steps))
    prepare(text, config, room / "killed", "numpy", 1, Reporter()).save("last")
    rng = random.Random(0)
    moments = []
    for _ in range(kills):
        moments.append(killed(room / "killed", rng))
        assert moments[-1].step < max_steps, "it ended before it was killed: more steps are needed"
    steps = [moment.step for moment in moments]
    assert steps == sorted(steps)  # nothing is lost but the steps since the last checkpoint
    assert reopen(room / "killed").train()
    whole = prepare(text, config, room / "whole", "numpy", 1, Reporter())
    assert whole.train()
    expected = lasting(room / "whole")
    assert lasting(room / "killed") == expected
    assert len([name for name in expected if name.startswith("samples")]) == max_steps // 25
    assert not leftovers(room / "killed")
    return moments


def test_a_few_kills(room: Path) -> None:
    kill_often(room, 6, 600)


@pytest.mark.slow
def test_two_hundred_kills(room: Path) -> None:
    """The figures that it prints are seen with -s."""
    moments = kill_often(room, 200, 8000)
    saving = sum(moment.while_saving for moment in moments)
    print(
        f"\n200 kills, {saving} of them while a checkpoint was written; the last at step {moments[-1].step}"
    )
    assert saving >= 40


def test_a_checkpoint_is_written_once_where_training_ends_with_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, int]] = []
    save = Trainer.save

    def counted(self: Trainer, which: str) -> None:
        save(self, which)
        saved.append((which, self.step))

    monkeypatch.setattr(Trainer, "save", counted)
    config = replace(CONFIG, training=TrainingConfig(max_steps=4, eval_every=2))
    corpus = Corpus.from_text(coffee.text(6000))
    assert prepare(corpus, config, tmp_path / "run", "numpy", 1, Reporter()).train()
    assert [step for which, step in saved if which == "last"] == [0, 2, 4]
    stopped = prepare(corpus, config, tmp_path / "stopped", "numpy", 1, Reporter())
    assert not stopped.train(stop=lambda: stopped.step == 3)
    assert [step for which, step in saved[len(saved) - 2 :] if which == "last"] == [2, 3]
