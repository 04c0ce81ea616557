"""Targets that count for more or less, and sequences that end before others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose

from charlstm import LanguageModel, SequenceClassifier, SequenceRegressor, UsageError
from charlstm.backends import Ops

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("N", "H", "V"), [(1, 3, 2), (37, 5, 7), (350, 16, 450)])
def test_weights_of_rows(
    ops: Ops, dtype: str, rng: np.random.Generator, N: int, H: int, V: int, transposed: bool, smoothing: float
) -> None:
    """Loss, largest posterior and all gradients of the head against a plain reference."""
    rows, bias = rng.standard_normal((N, H)), rng.standard_normal(V)
    weight = rng.standard_normal((V, H)).T if transposed else rng.standard_normal((H, V))
    targets, counts = rng.integers(0, V, N), rng.exponential(size=N)
    counts[1:2] = 0
    shares = (counts / counts.sum())[:, None]
    logits = rows @ weight + bias
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    goals = (1 - smoothing) * np.eye(V)[targets] + smoothing / V
    dlogits = (posterior - goals) * shares
    loss = float(-np.sum(shares[:, 0] * np.log(posterior[np.arange(N), targets])))

    given = [ops.asarray(np.asarray(x, dtype)) for x in (rows, weight.T if transposed else weight, bias)]
    given[1] = given[1].T if transposed else given[1]
    ids, row_weights = ops.asarray(targets), ops.asarray(counts.astype(dtype))
    found, confidence = ops.head_loss(*given, ids, row_weights)
    assert found == pytest.approx(loss, rel=1e-5)
    assert confidence == pytest.approx(np.sum(shares[:, 0] * posterior.max(axis=1)), rel=1e-5)
    dweight = ops.empty((V, H) if transposed else (H, V), given[0].dtype)
    dbias = ops.empty((V,), given[0].dtype)
    found, drows = ops.head_gradients(*given, ids, dweight, dbias, smoothing, transposed, row_weights)
    assert found == pytest.approx(loss, rel=1e-5)
    expected = dlogits.T @ rows if transposed else rows.T @ dlogits
    for ours, reference in ((drows, dlogits @ weight.T), (dweight, expected), (dbias, dlogits.sum(axis=0))):
        assert_allclose(ops.to_numpy(ours), reference, rtol=0, atol=TOLERANCE[dtype])
    found, ours = ops.softmax_cross_entropy(
        ops.asarray(logits.astype(dtype)), ids, smoothing, row_weights=row_weights
    )
    assert found == pytest.approx(loss, rel=1e-5)
    assert_allclose(ops.to_numpy(ours), dlogits, rtol=0, atol=TOLERANCE[dtype])


def test_weights_that_are_all_the_same_change_nothing(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(11, 8, 2, backend=ops, dtype="float64")
    x, y = rng.integers(0, 11, (2, 5, 4))
    loss, gradients, _ = model.loss_and_gradients(x, y)
    weighted, others, _ = model.loss_and_gradients(x, y, weights=np.full((5, 4), 1e-30))
    assert weighted == pytest.approx(loss, rel=1e-14)
    assert_allclose(ops.to_numpy(others.flat), ops.to_numpy(gradients.flat), rtol=0, atol=1e-16)


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_a_weight_of_two_is_a_sequence_twice(
    ops: Ops, rng: np.random.Generator, kind: type[SequenceClassifier] | type[SequenceRegressor]
) -> None:
    model = kind(3, 2, 6, 2, emit="last", backend=ops, dtype="float64")
    x = rng.standard_normal((4, 5, 3))
    y = rng.integers(0, 2, 5) if kind is SequenceClassifier else rng.standard_normal((5, 2))
    counts = np.array([2, 0, 1, 3, 1])
    loss, gradients, _ = model.loss_and_gradients(x, y, weights=counts)
    again, others, _ = model.loss_and_gradients(x.repeat(counts, axis=1), y.repeat(counts, axis=0))
    assert loss == pytest.approx(again, rel=1e-13)
    assert_allclose(ops.to_numpy(gradients.flat), ops.to_numpy(others.flat), rtol=0, atol=1e-14)
    assert model.loss(x, y, weights=counts)[0] == pytest.approx(loss, rel=1e-13)


@pytest.mark.parametrize("kind", [SequenceClassifier, SequenceRegressor])
def test_ragged_sequences_are_those_sequences_alone(
    ops: Ops, rng: np.random.Generator, kind: type[SequenceClassifier] | type[SequenceRegressor]
) -> None:
    model = kind(3, 4, 6, 2, emit="last", backend=ops, dtype="float64")
    lengths = np.array([3, 7, 1, 7, 5])
    x = rng.standard_normal((7, 5, 3))
    y = rng.integers(0, 4, 5) if kind is SequenceClassifier else rng.standard_normal((5, 4))
    together = ops.to_numpy(model.forward(x, lengths=lengths)[0])
    losses, dx = [], np.zeros_like(x)
    for k, length in enumerate(lengths):
        alone, at = x[:length, k : k + 1], slice(k, k + 1)
        assert_allclose(ops.to_numpy(model.forward(alone)[0])[0], together[k], rtol=0, atol=1e-13)
        loss, gradients, _ = model.loss_and_gradients(alone, y[at])
        dx[:length, at] = ops.to_numpy(gradients.inputs) / 5
        losses.append(loss)
    loss, gradients, _ = model.loss_and_gradients(x, y, lengths=lengths)
    assert loss == pytest.approx(np.mean(losses), rel=1e-13)
    assert_allclose(ops.to_numpy(gradients.inputs), dx, rtol=0, atol=1e-14)


def test_squared_error(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    outputs, targets = rng.standard_normal((2, 9, 3)).astype(dtype)
    counts = rng.exponential(size=9).astype(dtype)
    loss, doutputs = ops.squared_error(*(ops.asarray(a) for a in (outputs, targets, counts)))
    error = np.average(np.square(outputs - targets, dtype="f8").mean(axis=1), weights=counts) / 2
    assert loss == pytest.approx(error, rel=1e-5)
    expected = (outputs - targets) * (counts / counts.sum())[:, None] / 3
    assert_allclose(ops.to_numpy(doutputs), expected, rtol=0, atol=TOLERANCE[dtype])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"weights": np.ones(4)}, r"must be \(5,\)"),
    "turned": ({"weights": np.ones((1, 5))}, r"must be \(5,\)"),
    "negative": ({"weights": np.array([1, 1, -1, 1, 1])}, "below zero"),
    "no number": ({"weights": np.array([1, np.nan, 1, 1, 1])}, "finite"),
    "nothing": ({"weights": np.zeros(5)}, "not all zero"),
    "too long": ({"lengths": np.array([1, 2, 3, 4, 5])}, "within 1 to 4"),
    "empty": ({"lengths": np.array([0, 1, 1, 1, 1])}, "within 1 to 4"),
    "too few lengths": ({"lengths": np.ones(4, int)}, r"integers \(5,\)"),
    "not whole": ({"lengths": np.ones(5)}, "integers"),
}


@pytest.mark.parametrize("bad", BAD)
def test_weights_and_lengths_that_cannot_be(bad: str) -> None:
    model = SequenceClassifier(3, 2, 6, backend="numpy")
    given, problem = BAD[bad]
    for method in (model.loss_and_gradients, model.loss):
        with pytest.raises(ValueError, match=problem):
            method(np.zeros((4, 5, 3)), np.zeros(5, int), **given)


def test_lengths_are_of_networks_that_emit_once() -> None:
    model = SequenceClassifier(3, 2, 6, emit="every", backend="numpy")
    with pytest.raises(UsageError, match="weight 0"):
        model.forward(np.zeros((4, 5, 3)), lengths=np.ones(5, int))


@pytest.mark.parametrize("name", ["numba", "numba-generic"])
def test_compiled_heads_check_the_weights_that_they_read(name: str) -> None:
    ops = make_ops(name)
    logits, targets = np.zeros((6, 3)), np.zeros(6, int)
    for error, counts in ((ValueError, np.ones(5)), (TypeError, np.ones(6, "f4"))):
        with pytest.raises(error, match="weights of rows"):
            ops.softmax_cross_entropy(logits, targets, row_weights=counts)


def test_a_regressor_has_neither_posterior_nor_smoothed_classes() -> None:
    from charlstm import Penalties

    model, x = SequenceRegressor(3, 1, 4, backend="numpy"), np.zeros((2, 2, 3))
    assert model.forward(x)[0].shape == (2, 1)
    with pytest.raises(UsageError, match="no posterior"):
        model.posterior(x)
    with pytest.raises(UsageError, match="label_smoothing"):
        model.loss_and_gradients(x, np.zeros((2, 1)), penalties=Penalties(label_smoothing=0.1))
    with pytest.raises(ValueError, match="targets"):
        model.loss(x, np.zeros(2))
