"""The training loop: it learns, repeats to the byte, goes on exactly, and stops when it must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_ops

import charlstm
from charlstm import Config, DataConfig, ModelConfig, TrainingConfig
from charlstm.backends import Ops, Update
from charlstm.backends.numpy_ops import NumPyOps
from charlstm.data import Corpus, StreamBatches, coffee
from charlstm.model import CIFGModel
from charlstm.training import Reporter, prepare, reopen
from charlstm.training.schedule import learning_rate
from charlstm.training.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden_losses.json"
GOLDEN_CONFIG = ModelConfig(hidden_size=16, num_layers=2, embedding_size=6, dropout=0.0, dtype="float64")


def golden_losses(ops: Ops) -> list[float]:
    """Losses of 50 steps of Adam with clipping, state carried, from seed 0."""
    corpus = Corpus.from_text(coffee.text(20_000))
    model = CIFGModel(len(corpus.tokenizer), GOLDEN_CONFIG, backend=ops, seed=0)
    batches = StreamBatches(corpus.train, 4, 16)
    zeros = np.zeros(model.num_parameters)
    m, v = ops.asarray(zeros.copy()), ops.asarray(zeros.copy())
    losses, state = [], None
    for step in range(50):
        loss, gradients, state = model.loss_and_gradients(batches[step].x, batches[step].y, state)
        losses.append(loss)
        clipping = min(1.0, 0.5 / ops.global_norm(gradients.flat))
        update = Update("adam", step + 1, 0.01, clipping)
        ops.optimizer_update(update, model.parameters.flat, gradients.flat, (m, v))
    return losses


def test_golden_loss_curve(ops: Ops) -> None:
    expected = json.loads(GOLDEN.read_text())
    assert expected[0] == pytest.approx(np.log(55), abs=0.3)
    assert golden_losses(ops) == pytest.approx(expected, rel=1e-9)


def test_golden_loss_curve_is_that_of_pytorch() -> None:
    """The same network written with PyTorch's automatic differentiation and optimizer."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    corpus = Corpus.from_text(coffee.text(20_000))
    model = CIFGModel(len(corpus.tokenizer), GOLDEN_CONFIG, backend="numpy", seed=0)
    p = {name: torch.tensor(np.array(a), requires_grad=True) for name, a in model.parameters.items()}
    optimizer = torch.optim.Adam(p.values(), lr=0.01)
    batches = StreamBatches(corpus.train, 4, 16)
    h = [torch.zeros(4, 16, dtype=torch.float64) for _ in range(2)]
    c = [torch.zeros(4, 16, dtype=torch.float64) for _ in range(2)]
    losses = []
    for step in range(50):
        h, c = [x.detach() for x in h], [x.detach() for x in c]
        logits = []
        for t in range(16):
            x = p["embedding.weight"][torch.tensor(batches[step].x[t])]
            for k in range(2):
                a = x @ p[f"cifg.{k}.W"] + h[k] @ p[f"cifg.{k}.R"] + p[f"cifg.{k}.b"]
                i, o, g = torch.sigmoid(a[:, :16]), torch.sigmoid(a[:, 16:32]), torch.tanh(a[:, 32:])
                c[k] = (1 - i) * c[k] + i * g
                h[k] = x = o * torch.tanh(c[k])
            logits.append(x @ p["head.weight"] + p["head.bias"])
        targets = torch.tensor(batches[step].y).flatten()
        loss = torch.nn.functional.cross_entropy(torch.cat(logits), targets)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), 0.5)
        optimizer.step()
    # PyTorch's clipping divides by the norm plus 1e-6
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-5)


def test_training_comes_near_the_entropy_of_the_source(tmp_path: Path) -> None:
    """Within 0.08 nats per character of what no model can beat (a uniform guess: 3.9 above)."""
    config = Config(
        ModelConfig(hidden_size=96, num_layers=1),
        DataConfig(batch_size=32, seq_len=32),
        TrainingConfig(max_steps=1200, learning_rate=0.01, eval_every=600),
    )
    run = charlstm.train("coffee", config, out=tmp_path / "run", backend="numba", quiet=True)
    above = run.evaluate().loss - coffee.entropy_per_character()
    assert -0.005 < above < 0.08


def files_of(directory: Path, which: str = "last") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((directory / "checkpoints" / which).glob("*.safetensors"))}


def test_shards_repeat_to_the_byte_and_go_on_exactly(tmp_path: Path) -> None:
    """Sizes at which two threads share every operation of a step."""
    config = Config(
        ModelConfig(hidden_size=96, num_layers=2, dropout=0.2),
        DataConfig(batch_size=32, seq_len=32, val_fraction=0.01),
        TrainingConfig(max_steps=12, eval_every=6),
    )
    for name in ("a", "b"):
        charlstm.train("coffee", config, out=tmp_path / name, backend="numba", threads=2, quiet=True)
    cut = prepare("coffee", config, tmp_path / "cut", "numba", 2, Reporter())
    assert not cut.train(stop=lambda: cut.step >= 5)
    assert reopen(tmp_path / "cut").train()
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") == files_of(tmp_path / "cut")


def test_speed_and_losses_of_lines_between_validations(tmp_path: Path, small_config: Config) -> None:
    """Validations do not count as training time, and every step is in one line."""
    config = replace(small_config, training=replace(small_config.training, max_steps=15, eval_every=4))
    run = charlstm.train("coffee", config, out=tmp_path / "run", backend="numpy", quiet=True)
    steps = [line["step"] for line in run.metrics if "loss" in line]
    assert steps == [4, 8, 10, 12, 15]
    speeds = [line["tokens_per_second"] for line in run.metrics if "loss" in line]
    assert max(speeds[1:]) < 20 * min(speeds[1:])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, small_config: Config, backend: str) -> None:
    for name in ("a", "b"):
        charlstm.train("coffee", small_config, out=tmp_path / name, backend=backend, quiet=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    other = replace(small_config, training=replace(small_config.training, seed=1))
    charlstm.train("coffee", other, out=tmp_path / "c", backend=backend, quiet=True)
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stop_after", [1, 20, 37])
def test_resuming_is_exact(tmp_path: Path, small_config: Config, backend: str, stop_after: int) -> None:
    """Steps, a stop, and the rest give the same bytes as all steps at once; so do the metrics."""
    config = replace(small_config, model=replace(small_config.model, dropout=0.3))
    charlstm.train("coffee", config, out=tmp_path / "whole", backend=backend, quiet=True)
    first = prepare("coffee", config, tmp_path / "cut", backend, None, Reporter())
    assert not first.train(stop=lambda: first.step >= stop_after)
    second = reopen(tmp_path / "cut", backend=backend)
    assert second.step == stop_after
    assert second.train()
    for which in ("best", "last"):
        assert files_of(tmp_path / "cut", which) == files_of(tmp_path / "whole", which)
    volatile = {"seconds", "tokens_per_second"}
    cut, whole = (
        [
            {k: v for k, v in line.items() if k not in volatile}
            for line in charlstm.load(tmp_path / name).metrics
        ]
        for name in ("cut", "whole")
    )
    assert cut == whole


def test_resuming_with_more_steps(tmp_path: Path, small_config: Config) -> None:
    charlstm.train("coffee", small_config, out=tmp_path / "run", backend="numpy", quiet=True)
    with pytest.raises(charlstm.UsageError, match="has reached its limits"):
        reopen(tmp_path / "run")
    with pytest.raises(charlstm.UsageError, match="learning_rate belongs to the run"):
        reopen(tmp_path / "run", TrainingConfig(max_steps=80, learning_rate=0.1))
    trainer = reopen(tmp_path / "run", TrainingConfig(max_steps=80))
    assert trainer.train()
    assert trainer.step == 80
    assert Config.from_toml(tmp_path / "run" / "config.toml").training.max_steps == 80


def test_resuming_on_changed_text_is_refused(tmp_path: Path, small_config: Config) -> None:
    text = tmp_path / "text.txt"
    text.write_text(coffee.text(5000))
    charlstm.train(text, small_config, out=tmp_path / "run", backend="numpy", quiet=True)
    text.write_text(coffee.text(5000).replace("Anna", "Nana"))
    with pytest.raises(charlstm.DataError, match="has changed since"):
        reopen(tmp_path / "run", TrainingConfig(max_steps=80))
    with pytest.raises(charlstm.DataError, match="has changed since"):
        charlstm.load(tmp_path / "run").evaluate()


def test_the_run_directory(small_run: charlstm.Run, small_config: Config) -> None:
    names = {p.name for p in small_run.directory.iterdir()}
    assert names >= {
        "config.toml", "env.json", "tokenizer.json", "metrics.jsonl", "samples", "checkpoints", "README.md",
    }  # fmt: skip
    assert small_run.config == small_config
    environment = json.loads((small_run.directory / "env.json").read_text())
    assert environment["backend"] == "numpy"
    assert environment["versions"]["numpy"] == np.__version__
    steps = [line for line in small_run.metrics if "loss" in line]
    assert [line["step"] for line in steps] == [10, 20, 30, 40, 50, 60]
    assert set(steps[0]) == {
        "step", "tokens", "seconds", "loss", "learning_rate", "gradient_norm", "tokens_per_second",
    }  # fmt: skip
    assert [line["step"] for line in small_run.metrics if "val_loss" in line] == [20, 40, 60]
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[-1]["tokens"] == 60 * 8 * 20
    sample = (small_run.directory / "samples" / "step-000030.txt").read_text()
    assert len(sample) == 200
    assert "best validation loss" in (small_run.directory / "README.md").read_text()


def test_curves_are_drawn(small_run: charlstm.Run) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert (small_run.directory / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (small_run.directory / "plots" / "loss.svg").read_text()


def test_no_sample_below_the_threshold(tmp_path: Path, small_config: Config) -> None:
    """Source of the rule: a sample only once the mean of the largest posterior exceeds 0.35."""
    assert TrainingConfig().sample_threshold == 0.35
    unsure = replace(small_config, training=replace(small_config.training, sample_threshold=0.99))
    charlstm.train("coffee", unsure, out=tmp_path / "run", backend="numpy", quiet=True)
    assert not list((tmp_path / "run" / "samples").iterdir())


def test_best_is_the_lowest_validation_loss(small_run: charlstm.Run) -> None:
    lowest = min(line["val_loss"] for line in small_run.metrics if "val_loss" in line)
    assert small_run.evaluate().loss == pytest.approx(lowest, rel=1e-12)


def test_a_loss_that_is_no_number_stops_and_keeps_the_best(tmp_path: Path, small_config: Config) -> None:
    trainer = prepare("coffee", small_config, tmp_path / "run", "numpy", None, Reporter())

    class Poisoned(type(trainer.batches)):  # type: ignore[misc]
        def __getitem__(self, step: int):  # type: ignore[no-untyped-def]
            if step == 35:
                trainer.model.parameters["cifg.1.b"][3] = np.nan
            return super().__getitem__(step)

    trainer.batches.__class__ = Poisoned
    with pytest.raises(charlstm.DivergedError, match=r"step 35.*best checkpoint, of step 20, is kept"):
        trainer.train()
    run = charlstm.load(tmp_path / "run", "numpy")
    assert np.isfinite(run.model.parameters.flat).all()
    assert reopen(tmp_path / "run").step == 20


def test_learning_rates() -> None:
    cosine = TrainingConfig(learning_rate=1.0, warmup_steps=10)
    assert learning_rate(cosine, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(cosine, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(cosine, 100, 0.5) == pytest.approx(0.505)
    assert learning_rate(cosine, 100, 1.0) == pytest.approx(0.01)
    constant = replace(cosine, schedule="constant")
    assert learning_rate(constant, 100, 0.99) == 1.0
    assert learning_rate(replace(cosine, warmup_steps=0), 0, 0.0) == 1.0


def test_limits(tmp_path: Path, small_config: Config) -> None:
    def trainer(name: str, **limits: object) -> Trainer:
        training = TrainingConfig(eval_every=1000, **limits)  # type: ignore[arg-type]
        return prepare(
            "coffee", replace(small_config, training=training), tmp_path / name, "numpy", None, Reporter()
        )

    steps = trainer("steps", max_steps=7)
    assert steps.train()
    assert steps.step == 7
    epochs = trainer("epochs", epochs=0.05)
    assert epochs.train()
    assert epochs.step == round(0.05 * epochs.batches.steps_per_epoch)
    clock = trainer("clock", max_time="1s")
    assert clock.train()
    assert 1.0 <= clock.seconds < 30.0  # a slow machine may need long for the last validation
    assert clock.step > 0
    assert TrainingConfig().max_seconds == 60
    assert TrainingConfig(max_steps=5).max_seconds is None


def test_no_limit_of_time_pays_for_compiling(
    tmp_path: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the learning rate, which follows the clock, nor the tokens per second."""
    compiled, step = [0.0], Trainer.train_step
    monkeypatch.setattr(NumPyOps, "compile_seconds", lambda self: compiled[0])

    def compiling(self: Trainer, done: float) -> None:
        if self.step in (1, 5):
            time.sleep(0.5)
            compiled[0] += 0.5
        step(self, done)

    monkeypatch.setattr(Trainer, "train_step", compiling)
    training = replace(small_config.training, max_steps=None, max_time="0.8s", eval_every=1000)
    run = charlstm.train(
        "coffee", replace(small_config, training=training), out=tmp_path, backend="numpy", quiet=True
    )
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert compiled[0] == 1
    assert lines[-1]["step"] > 5
    assert 0.8 <= lines[-1]["seconds"] < 1.5


def test_training_starts_again_where_a_kill_stopped_it(tmp_path: Path) -> None:
    """SIGKILL at arbitrary moments; each time the last checkpoint loads and training goes on."""
    make_ops("numpy")
    command = [
        sys.executable, "-m", "charlstm", "train", "--out", str(tmp_path / "run"), "--backend", "numpy",
        "--hidden-size", "16", "--batch-size", "4", "--seq-len", "16", "--eval-every", "2", "--max-time", "10m",
        "--val-fraction", "0.002",
    ]  # fmt: skip
    record = tmp_path / "run" / "checkpoints" / "last" / "training.json"
    reached = 0
    for delay in (0.11, 0.23, 0.37):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while saved_step(record) <= reached and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        step = reopen(tmp_path / "run").step
        assert step > reached
        reached = step
        command[4:] = ["--resume", str(tmp_path / "run")]


INTERRUPTED = """
import os, signal, sys
import charlstm
from charlstm.training.trainer import Trainer

step = Trainer.train_step
def interrupted(self, done):
    step(self, done)
    if self.step == 7:
        os.kill(os.getpid(), signal.SIGINT)
Trainer.train_step = interrupted
config = charlstm.Config(charlstm.ModelConfig(8, 1), training=charlstm.TrainingConfig(max_steps=1000))
try:
    charlstm.train("coffee", config, out=sys.argv[1], backend="numpy", quiet=True)
except KeyboardInterrupt as error:
    print(error)
limits = charlstm.TrainingConfig(max_steps=9)
print(charlstm.resume(sys.argv[1], limits, quiet=True).metrics[-2]["step"])
"""


def test_an_interrupt_of_the_library_saves(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [f"saved at step 7: charlstm.resume('{tmp_path / 'run'}')", "9"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: TrainingConfig(max_time=300), "max_time cannot be 300"),  # type: ignore[arg-type]
        (lambda: TrainingConfig(max_steps=2.5), "max_steps"),  # type: ignore[arg-type]
        (lambda: ModelConfig(hidden_size=64.0), "hidden_size"),  # type: ignore[arg-type]
        (lambda: ModelConfig(hidden_size=True), "hidden_size"),
        (lambda: charlstm.train("coffee", TrainingConfig()), "must be a charlstm.Config"),  # type: ignore[arg-type]
    ],
)
def test_options_of_the_wrong_type(make, problem: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(charlstm.UsageError, match=problem):
        make()


def test_file_names(tmp_path: Path, small_config: Config) -> None:
    """Spaces of any kind and control characters come back from config.toml; bytes that are no text cannot."""
    for name in ("wide\u3000space.txt", 'tab\tand "quote".txt'):
        (tmp_path / name).write_text(coffee.text(3000))
        run = charlstm.train(
            tmp_path / name, small_config, out=tmp_path / f"{name}-run", backend="numpy", quiet=True
        )
        assert run.config.data.data == str(tmp_path / name)
        assert run.evaluate().tokens > 0
    bad = os.fsdecode(bytes(tmp_path) + b"/\xff.txt")
    Path(bad).write_text(coffee.text(3000))
    with pytest.raises(charlstm.DataError, match="not UTF-8: rename the file"):
        charlstm.train(bad, small_config, out=tmp_path / "bad", backend="numpy", quiet=True)


def saved_step(record: Path) -> int:
    """The step of a checkpoint that another process may be replacing; 0 where there is none."""
    try:
        return int(json.loads(record.read_text())["step"])
    except (OSError, ValueError):
        return 0


def test_a_corpus_object_can_be_trained_on(tmp_path: Path, small_config: Config) -> None:
    corpus = Corpus.from_text("to be or not to be " * 200, name="hamlet")
    run = charlstm.train(corpus, small_config, out=tmp_path / "run", backend="numpy", quiet=True)
    assert run.evaluate(corpus).tokens == len(corpus.val) - 1
    assert "hamlet" in repr(corpus.name)


def test_a_text_shorter_than_a_batch(tmp_path: Path, small_config: Config) -> None:
    notices: list[str] = []

    class Listening(Reporter):
        def notice(self, text: str) -> None:
            notices.append(text)

    text = tmp_path / "tiny.txt"
    text.write_text("hello world, hello word, hold the door, old world\n")
    trainer = prepare(text, small_config, tmp_path / "run", "numpy", None, Listening())
    assert trainer.train()
    assert "batch size 2 and sequence length 20 in place of 8 and 20" in notices[0]
    assert np.isfinite(charlstm.load(tmp_path / "run").evaluate().loss)
