"""Dynamic evaluation: predicting first, then learning, on a copy of the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlstm
from charlstm import DataError, DivergedError, EvaluationConfig, LanguageModel, UsageError
from charlstm.backends import Ops
from charlstm.data import Windows
from charlstm.evaluation import measure
from charlstm.evaluation.dynamic import gradient_rms

V = 6


def model_on(backend: Any, **options: Any) -> LanguageModel:
    return LanguageModel(V, 5, 2, embedding_size=3, backend=backend, dtype="float64", seed=3, **options)


def dynamic(rule: Any = "sgd", rate: float = 0.5, decay: float = 0.02, steps: int = 7) -> EvaluationConfig:
    return EvaluationConfig(
        dynamic=True, dynamic_rule=rule, dynamic_rate=rate, dynamic_decay=decay, dynamic_steps=steps
    )


def plain_losses(tokens: np.ndarray, config: EvaluationConfig, training: np.ndarray) -> list[float]:
    """Losses of the pieces, each before it is learned from: the paper's equations with NumPy."""
    model, state, losses = model_on("numpy"), None, []
    theta_0, T = model.parameters.flat.copy(), config.dynamic_steps
    squares = []
    for place in training[:-1].reshape(10, -1):
        carried = None
        for n in range(0, len(place) - T, T):
            piece = place[n : n + T + 1, None]
            _, gradients, carried = model.loss_and_gradients(piece[:-1], piece[1:], carried)
            squares.append(gradients.flat**2)
    rms = np.sqrt(np.mean(squares, axis=0))
    for n in range(0, len(tokens) - 1, T):
        piece = tokens[n : n + T + 1, None]
        loss, gradients, state = model.loss_and_gradients(piece[:-1], piece[1:], state)
        losses += [loss] * (len(piece) - 1)
        theta, rate, decay = model.parameters.flat, config.dynamic_rate or 0, config.dynamic_decay
        if config.dynamic_rule == "sgd":
            theta[...] += decay * (theta_0 - theta) - rate * gradients.flat
        else:
            pull = np.minimum(decay * rms / rms.mean(), 1)
            scaled = gradients.flat * rms.mean() / (rms + 0.3 * rms.mean())
            theta[...] += pull * (theta_0 - theta) - rate * scaled
    return losses


@pytest.mark.parametrize(
    "config", [dynamic(), dynamic("rms"), dynamic("rms", decay=0.9)], ids=["sgd", "rms", "pulled"]
)
def test_the_papers_rules(ops: Ops, config: EvaluationConfig, rng: np.random.Generator) -> None:
    """The statistics are gathered at ten places of 15 tokens: of two pieces of 7."""
    tokens, training = rng.integers(0, V, 100), rng.integers(0, V, 151)
    found = measure(model_on(ops), tokens, config=config, training=training)
    losses = plain_losses(tokens, config, training)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-9)
    assert found.loss != pytest.approx(measure(model_on(ops), tokens, streams=1).loss, rel=1e-4)


def test_root_mean_square_of_gradients(ops: Ops, rng: np.random.Generator) -> None:
    """Of a text too short for ten places: two pieces."""
    model, tokens = model_on(ops), rng.integers(0, V, 21)
    squares = []
    for piece in (tokens[:11, None], tokens[10:, None]):
        _, gradients, _ = model.loss_and_gradients(piece[:-1], piece[1:])
        squares.append(np.asarray(ops.to_numpy(gradients.flat)) ** 2)
    expected = np.sqrt((squares[0] + squares[1]) / 2)
    assert np.allclose(ops.to_numpy(gradient_rms(model, tokens, 10)), expected, rtol=1e-12)
    assert np.isfinite(np.asarray(ops.to_numpy(gradient_rms(model, tokens[:2], 10)))).all()


def test_each_token_is_predicted_before_it_is_learned_from(rng: np.random.Generator) -> None:
    model, config = model_on("numpy"), dynamic(steps=250)
    tokens = rng.integers(0, V, 1000)
    found, static = measure(model, tokens, config=config), measure(model, tokens, streams=1)
    assert len(found.segments) == 5
    assert found.segments.nats[0] == pytest.approx(static.segments.nats[0], rel=1e-12)
    assert found.segments.nats[2] != pytest.approx(static.segments.nats[2], rel=1e-6)
    other = tokens.copy()
    other[700:] = rng.integers(0, V, 300)  # what is to come changes nothing before it
    again = measure(model, other, config=dynamic(steps=20))
    before = measure(model, tokens, config=dynamic(steps=20))
    assert np.array_equal(again.segments.nats[:3], before.segments.nats[:3])
    assert again.segments.nats[4] != before.segments.nats[4]


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_it_learns_what_is_new(rng: np.random.Generator, rule: str) -> None:
    """A text of one phrase, by a model that has seen nothing of the kind."""
    tokens = np.tile(rng.integers(0, V, 12), 120)
    config = dynamic(rule, {"sgd": 1.0, "rms": 1.0}[rule], 0.001, 12)
    found = measure(model_on("numpy"), tokens, config=config, training=rng.integers(0, V, 3000))
    assert found.loss < 0.8 * measure(model_on("numpy"), tokens).loss


def test_the_model_stays_as_it_is(ops: Ops, rng: np.random.Generator) -> None:
    model, tokens = model_on(ops), rng.integers(0, V, 100)
    before = np.array(ops.to_numpy(model.parameters.flat))
    measure(model, tokens, config=dynamic())
    with pytest.raises(DivergedError, match="smaller --dynamic-rate"), np.errstate(all="ignore"):
        measure(model, tokens, config=dynamic(rate=1e308))
    assert np.array_equal(np.asarray(ops.to_numpy(model.parameters.flat)), before)


def test_a_finite_loss_that_is_absurd_has_diverged(rng: np.random.Generator) -> None:
    model, tokens = model_on("numpy"), rng.integers(0, V, 300)
    with pytest.raises(DivergedError, match="smaller --dynamic-rate"):
        measure(model, tokens, config=dynamic(rate=1e6))


def test_nothing_is_dropped(rng: np.random.Generator) -> None:
    tokens = rng.integers(0, V, 300)
    options = {"dropout": 0.5, "input_dropout": 0.5, "output_dropout": 0.5, "weight_drop": 0.5}
    dropping = measure(model_on("numpy", embedding_dropout=0.5, **options), tokens, config=dynamic())
    assert dropping.loss == measure(model_on("numpy"), tokens, config=dynamic()).loss


def test_what_cannot_be(rng: np.random.Generator) -> None:
    model, tokens = model_on("numpy"), rng.integers(0, V, 100)
    with pytest.raises(UsageError, match="leave out --windows"):
        measure(model, Windows(tokens, 10), config=dynamic())
    with pytest.raises(DataError, match="--dynamic-rule sgd"):
        measure(model, tokens, config=dynamic("rms"))
    for options in (
        {"top_k": 0}, {"dynamic_rate": 0.0}, {"dynamic_rate": float("nan")}, {"dynamic_decay": 1.0},
        {"dynamic_decay": -0.1}, {"dynamic_steps": 0}, {"dynamic_steps": 10_001},
        {"dynamic_rule": "adam"}, {"bootstrap_seed": -1},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(options))):
            EvaluationConfig(**options, dynamic=True)  # type: ignore[arg-type]
    for name, value in (("dynamic_rule", "sgd"), ("dynamic_rate", 0.1), ("dynamic_steps", 5)):
        with pytest.raises(UsageError, match=f"{name} does nothing without dynamic"):
            EvaluationConfig(**{name: value})  # type: ignore[arg-type]


def test_of_a_run(small_run: charlstm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient statistics come from the run's own text, whatever text is evaluated."""
    monkeypatch.setattr("charlstm.evaluation.dynamic.PIECES", 3)
    other = tmp_path / "other.txt"
    other.write_text("The filter coffee tastes sweet.\n" * 30)
    options: dict[str, Any] = {"split": "all", "dynamic": True, "dynamic_rate": 0.2}
    found = small_run.evaluate(other, **options)
    tokens = small_run.corpus(other).whole
    assert tokens is not None
    expected = measure(
        small_run.model, tokens, config=found.config, training=small_run.corpus().train, streams=1
    )
    assert found.loss == expected.loss < small_run.evaluate(other, split="all").loss
    alone = shutil.copytree(small_run.directory / "checkpoints" / "best", tmp_path / "model")
    model = charlstm.load(alone, "numpy")
    with pytest.raises(DataError, match=r"need the text .*--dynamic-rule sgd"):
        model.evaluate(other, **options)
    assert model.evaluate(other, **options, dynamic_rule="sgd").tokens == found.tokens
