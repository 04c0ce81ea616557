"""Optimizers, schedules, averages, early stopping and rollbacks in the training loop."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlstm
from charlstm import Config, TrainingConfig
from charlstm.data import Corpus
from charlstm.evaluation import evaluate
from charlstm.training import Reporter, Trainer, find_learning_rate, prepare, reopen
from charlstm.training.divergence import JumpError
from charlstm.training.optimizer import WeightAverage
from charlstm.training.schedule import learning_rate

RECIPES: dict[str, dict[str, Any]] = {
    "adamw-ema": {"optimizer": "adamw", "weight_decay": 0.1, "averaging": "ema", "ema_decay": 0.9},
    "sgd-nt-asgd": {
        "optimizer": "sgd",
        "learning_rate": 20.0,
        "schedule": "constant",
        "warmup_steps": 5,
        "averaging": "nt-asgd",
        "average_after": 1,
        "eval_every": 2,
    },
    "momentum-step": {
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "momentum": 0.9,
        "schedule": "step",
        "decay_every": 20,
    },
    "adagrad-exponential": {"optimizer": "adagrad", "learning_rate": 0.05, "schedule": "exponential"},
    "rmsprop-one-cycle": {"optimizer": "rmsprop", "schedule": "one-cycle"},
    "plateau": {"schedule": "plateau", "plateau": 1, "learning_rate": 0.3},
}


def with_training(config: Config, **options: Any) -> Config:
    return replace(config, training=replace(config.training, **options))


def trainer_of(config: Config, directory: Path, backend: str = "numpy") -> Trainer:
    return prepare("coffee", config, directory, backend, None, Reporter())


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted((directory / "checkpoints").glob("*/*.safetensors"))
    }


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_learns_and_resumes_exactly(
    tmp_path: Path, small_config: Config, recipe: str, backend: str
) -> None:
    short = replace(small_config, data=replace(small_config.data, val_fraction=0.02))
    config = with_training(short, **{"eval_every": 10, "max_steps": 50, **RECIPES[recipe]})
    charlstm.train("coffee", config, out=tmp_path / "whole", backend=backend, quiet=True)
    first = trainer_of(config, tmp_path / "cut", backend)
    assert not first.train(stop=lambda: first.step >= 27)
    second = reopen(tmp_path / "cut", backend=backend)
    assert second.step == 27
    if first.average is not None:
        assert first.average.running
    assert second.train()
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    losses = [line["val_loss"] for line in charlstm.load(tmp_path / "whole").metrics if "val_loss" in line]
    assert min(losses) < math.log(55) - 0.3


def test_ema_is_the_weighted_mean_of_the_weights(tmp_path: Path, small_config: Config) -> None:
    config = with_training(small_config, averaging="ema", ema_decay=0.5, max_steps=12, eval_every=12)
    trainer = trainer_of(config, tmp_path / "run")
    expected = trainer.model.parameters.flat.copy()
    count = 0

    def follow() -> bool:
        nonlocal expected, count
        if trainer.step > count:
            count += 1
            share = 1 - min(0.5, (1 + count) / (10 + count))
            expected = expected + share * (trainer.model.parameters.flat - expected)
        return False

    trainer.train(stop=follow)
    follow()
    average = trainer.average
    assert average is not None
    np.testing.assert_allclose(average.arrays["average"], expected, rtol=0, atol=1e-6)
    run = charlstm.load(tmp_path / "run", "numpy")
    assert np.array_equal(run.model.parameters.flat, average.arrays["average"])  # what is kept as the best
    assert run.evaluate().loss == pytest.approx(trainer.best_val_loss)
    own = evaluate(trainer.model, trainer.corpus.val).loss  # training goes on from its own weights
    assert own != trainer.best_val_loss


def test_nt_asgd_begins_when_validations_get_worse(tmp_path: Path, small_config: Config) -> None:
    model = trainer_of(small_config, tmp_path / "run").model
    average = WeightAverage(model, TrainingConfig(averaging="nt-asgd", average_after=2))
    for loss, running in ((3.0, False), (2.0, False), (2.5, False), (2.4, False), (2.1, True)):
        average.validated(loss)
        assert average.running == running, loss
    mean = np.zeros_like(model.parameters.flat)
    for n in range(1, 4):
        model.parameters.flat[...] = n
        average.stepped()
        mean[...] = np.mean(range(1, n + 1))
        np.testing.assert_allclose(average.arrays["average"], mean)
    with average.in_place():
        assert np.all(model.parameters.flat == 2)
    assert np.all(model.parameters.flat == 3)


def test_schedules() -> None:
    base = TrainingConfig(learning_rate=1.0, warmup_steps=10, decay=0.1, decay_every=100)
    step = replace(base, schedule="step")
    assert [learning_rate(step, n, 0.5) for n in (0, 99, 100, 250)] == pytest.approx([0.1, 1, 0.1, 0.01])
    exponential = replace(base, schedule="exponential")
    assert [learning_rate(exponential, 50, p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.1, 0.01])
    cycle = replace(base, schedule="one-cycle")
    assert [learning_rate(cycle, 0, p) for p in (0, 0.15, 0.3, 1)] == pytest.approx([0.04, 0.52, 1, 1e-4])
    assert learning_rate(replace(base, schedule="plateau"), 50, 0.7) == 1


def test_the_plateau_schedule_lowers_the_rate(tmp_path: Path, small_config: Config) -> None:
    config = with_training(small_config, schedule="plateau", plateau=2, decay=0.5)
    trainer = trainer_of(config, tmp_path / "run")
    for loss, best, factor in ((2.0, True, 1), (2.1, False, 1), (2.2, False, 0.5), (1.0, True, 0.5)):
        trainer._validated(loss, best)
        assert trainer._rate_factor == factor


def test_early_stopping(tmp_path: Path, small_config: Config) -> None:
    """A learning rate too small to change anything: no validation is better than the first."""
    config = with_training(small_config, learning_rate=1e-30, eval_every=5, early_stopping=2, max_steps=1000)
    trainer = trainer_of(config, tmp_path / "run")
    assert trainer.train()
    assert (trainer.step, trainer.best_step) == (15, 5)
    with pytest.raises(charlstm.UsageError, match=r"has reached its limits.*early_stopping"):
        reopen(tmp_path / "run")
    longer = reopen(tmp_path / "run", TrainingConfig(early_stopping=4))
    assert longer.train()
    assert longer.step == 25
    assert longer.config.training.max_steps == 1000


def test_checkpoints_of_their_own(tmp_path: Path, small_config: Config) -> None:
    config = with_training(small_config, keep_every=20)
    charlstm.train("coffee", config, out=tmp_path / "run", backend="numpy", quiet=True)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["best", "last", "step-000020", "step-000040", "step-000060"]
    weights = [charlstm.load(tmp_path / "run" / "checkpoints" / n).model.parameters.flat for n in names[2:]]
    assert not np.array_equal(weights[0], weights[1])


def poison(trainer: Trainer, at: int, value: float, times: int = 1) -> None:
    """Spoil a weight when batch `at` is read, for the first few times."""
    left = times

    class Poisoned(type(trainer.batches)):  # type: ignore[misc]
        def __getitem__(self, step: int):  # type: ignore[no-untyped-def]
            nonlocal left
            if step == at and left:
                left -= 1
                trainer.model.parameters["head.bias"][3] = value
            return super().__getitem__(step)

    trainer.batches.__class__ = Poisoned


@pytest.mark.parametrize("value", [math.nan, 500.0])
def test_training_goes_back_and_on(tmp_path: Path, small_config: Config, value: float) -> None:
    """After a loss that is no number, and one that jumps: half the learning rate from the last checkpoint on."""
    notices: list[str] = []

    class Listening(Reporter):
        def notice(self, text: str) -> None:
            notices.append(text)

    config = with_training(small_config, schedule="constant")
    trainer = prepare("coffee", config, tmp_path / "run", "numpy", None, Listening())
    poison(trainer, 35, value)
    assert trainer.train()
    assert (trainer.step, trainer.rollbacks) == (60, 1)
    assert "back to step 20, at 0.5 of the learning rate (1 of 3 times)" in notices[-1]
    lines = charlstm.load(tmp_path / "run").metrics
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30, 40, 50, 60]
    assert [line["rolled_back_from"] for line in lines if "rolled_back_from" in line] == [35]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates[-1] == pytest.approx(0.5 * config.training.learning_rate)
    assert reopen(tmp_path / "run", TrainingConfig(max_steps=80)).rollbacks == 1


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path: Path, small_config: Config) -> None:
    """Samples and checkpoints of steps that are taken once more; but not the best checkpoint."""
    config = with_training(small_config, keep_every=5, sample_every=5, sample_threshold=0.0, max_steps=36)
    trainer = trainer_of(config, tmp_path / "run")
    poison(trainer, 33, math.nan)
    seen: list[set[str]] = []
    roll_back = trainer._roll_back

    def watched(*arguments: Any) -> None:
        trainer.best_val_loss, trainer.best_step = 0.5, 30  # as if of a validation that saved no "last"
        roll_back(*arguments)
        seen.append({path.stem for path in (tmp_path / "run").glob("*/step-*")})
        assert (trainer.best_val_loss, trainer.best_step) == (0.5, 30)

    trainer._roll_back = watched  # type: ignore[method-assign]
    assert trainer.train()
    assert seen == [{"step-000005", "step-000010", "step-000015", "step-000020"}]


def test_a_jump_that_is_let_be_leaves_the_state_as_it_was(tmp_path: Path, small_config: Config) -> None:
    trainer = trainer_of(with_training(small_config, max_rollbacks=0), tmp_path / "run")
    for _ in range(3):
        trainer.train_step(0.0)
    before = trainer.state.h.copy()
    trainer.model.parameters["head.bias"][3] = 500.0
    with pytest.raises(JumpError):
        trainer.train_step(0.0)
    assert np.array_equal(trainer.state.h, before)


def test_before_the_first_validation_training_goes_back_to_its_start(
    tmp_path: Path, small_config: Config
) -> None:
    whole = trainer_of(small_config, tmp_path / "whole")
    start = whole.model.parameters.flat.copy()
    poison(whole, 5, math.nan)
    stopped = whole.train(stop=lambda: whole.rollbacks == 1)
    assert not stopped
    assert whole.step == 0
    assert np.array_equal(whole.model.parameters.flat, start)


def ruin_after(trainer: Trainer, step: int) -> None:
    """Make a weight NaN right after a step, once."""
    update, left = trainer.optimizer.update, [True]

    def ruinous(number: int, *arguments: Any) -> None:
        update(number, *arguments)
        if number == step and left:
            left.clear()
            trainer.model.parameters["cifg.1.R"][0, 0] = math.nan

    trainer.optimizer.update = ruinous  # type: ignore[method-assign]


@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_weights_ruined_by_the_last_step(tmp_path: Path, small_config: Config, averaging: str) -> None:
    trainer = trainer_of(with_training(small_config, max_steps=35, averaging=averaging), tmp_path / "run")
    ruin_after(trainer, 35)
    assert trainer.train()
    assert (trainer.step, trainer.rollbacks) == (35, 1)
    assert np.isfinite(charlstm.load(tmp_path / "run", "numpy", which="last").model.parameters.flat).all()


def test_a_stop_right_after_weights_were_ruined(tmp_path: Path, small_config: Config) -> None:
    trainer = trainer_of(small_config, tmp_path / "run")
    ruin_after(trainer, 25)
    assert not trainer.train(stop=lambda: trainer.step == 25 or trainer.rollbacks == 1)
    assert reopen(tmp_path / "run").step == 20


def test_a_jump_before_a_validation_does_not_replace_the_last_checkpoint(
    tmp_path: Path, small_config: Config
) -> None:
    config = with_training(small_config, schedule="constant")
    trainer = trainer_of(config, tmp_path / "run")
    poison(trainer, 38, 15.0)
    assert trainer.train()
    assert trainer.rollbacks == 1
    lines = charlstm.load(tmp_path / "run").metrics
    assert [line["step"] for line in lines if "rolled_back_from" in line] == [20]


def test_a_text_that_changes_is_trained_on_all_the_same(tmp_path: Path, small_config: Config) -> None:
    """The loss jumps where another language begins, whatever the learning rate."""
    rng = np.random.default_rng(0)
    letters = "ab" * 5_000 + "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5_000))
    config = with_training(small_config, learning_rate=0.02, max_steps=170, eval_every=500)
    config = replace(config, data=replace(config.data, batch_size=1, seq_len=80, val_fraction=0.01))
    notices: list[str] = []

    class Listening(Reporter):
        def notice(self, text: str) -> None:
            notices.append(text)

    corpus = Corpus.from_text(letters, val_fraction=0.01)
    trainer = prepare(corpus, config, tmp_path / "run", "numpy", None, Listening())
    assert trainer.train()
    assert trainer.step == 170
    assert trainer.rollbacks == 3
    assert "training goes on as it is" in notices[-1]


def test_no_rollback_where_none_is_allowed(tmp_path: Path, small_config: Config) -> None:
    trainer = trainer_of(with_training(small_config, max_rollbacks=0), tmp_path / "run")
    poison(trainer, 35, math.nan)
    with pytest.raises(charlstm.DivergedError, match="no longer a finite number at step 35") as error:
        trainer.train()
    assert error.value.exit_code == 4


def test_the_learning_rate_finder(tmp_path: Path, small_config: Config) -> None:
    trainer = trainer_of(small_config, tmp_path / "run")
    finding = find_learning_rate(trainer)
    assert finding.rates[0] == pytest.approx(1e-6)
    assert len(finding.rates) == len(finding.losses) <= 300
    assert finding.losses[0] == pytest.approx(math.log(55), abs=0.3)
    assert 1e-3 < finding.suggestion < 0.1
    good, bad = (
        charlstm.train(
            "coffee", with_training(small_config, learning_rate=rate), out=tmp_path / f"{rate}", quiet=True
        ).evaluate()
        for rate in (finding.suggestion, 0.02 * finding.suggestion)
    )
    assert good.loss < bad.loss - 0.3
    saved = json.loads((tmp_path / "run" / "lr-finder.json").read_text())
    assert saved["suggestion"] == finding.suggestion


def test_nothing_to_find(tmp_path: Path, small_config: Config) -> None:
    """Letters drawn at random, each as likely as the others: no rate makes the loss fall."""
    letters = "".join(np.random.default_rng(0).choice(list("ab"), 30_000))
    corpus = Corpus.from_text(letters)
    trainer = prepare(corpus, small_config, tmp_path / "run", "numpy", None, Reporter())
    trainer.model.parameters["head.weight"][...] = 0
    with pytest.raises(charlstm.DataError, match="never falls"):
        find_learning_rate(trainer)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"optimizer": "lion"}, "optimizer cannot be 'lion': it is one of adam, adamw, sgd"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1"),
        ({"beta2": -0.1}, "beta2"),
        ({"decay": 1.5}, "decay must lie between 0 and 1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"early_stopping": 0}, "early_stopping"),
        ({"averaging": "swa"}, "averaging cannot be 'swa'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(charlstm.UsageError, match=problem):
        TrainingConfig(**options)
