"""The network as a whole: gradients, agreement between backends, shapes, initial values."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose

import charlstm
from charlstm import LanguageModel, SequenceClassifier, State
from charlstm.backends import Ops, Update
from charlstm.verification import (
    AGREEMENT_ERROR,
    CASES,
    GRADIENT_ERROR,
    Case,
    agreement_error,
    check_backend,
    gradient_errors,
    results,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients(ops: Ops, case: Case) -> None:
    if "shared out over threads" in case.name and ops.name != "numba":
        pytest.skip("only the numba backend shares a batch out; the smaller cases hold the others")
    errors = dict(gradient_errors(case, ops))
    assert {"head.bias", "cifg.0.R", "h0", "c0"} <= set(errors)
    assert all(error <= GRADIENT_ERROR for error in errors.values()), errors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agreement_with_numpy(ops: Ops, dtype: str, case: Case) -> None:
    ours, reference = results(case, ops, dtype), results(case, make_ops("numpy"), "float64")
    assert agreement_error(ours, reference) <= AGREEMENT_ERROR[dtype]


def test_agreement_at_a_size_that_is_shared_out(dtype: str) -> None:
    case = Case("large", T=12, B=33, hidden=100, embedding=20, vocabulary=65)
    ours = results(case, charlstm.get_ops("numba", threads=2), dtype)
    assert agreement_error(ours, results(case, make_ops("numpy"), "float64")) <= AGREEMENT_ERROR[dtype]


def test_a_wrong_gradient_is_noticed() -> None:
    class WrongOps(type(make_ops("numpy"))):  # type: ignore[misc]
        def gates_backward(self, *args: object) -> tuple[object, object]:
            da, dc = super().gates_backward(*args)
            return da * (1 + 1e-6), dc

    figures = check_backend(WrongOps())
    assert not all(figure.passed for figure in figures if figure.check.startswith("gradients"))
    assert not all(figure.passed for figure in figures if "float64" in figure.check[-7:])


def test_a_gradient_that_is_no_number_is_noticed() -> None:
    class NaNOps(type(make_ops("numpy"))):  # type: ignore[misc]
        def matmul(self, a, b, out=None):  # type: ignore[no-untyped-def]
            product = super().matmul(a, b, out)
            if out is not None and out.shape == (9, 27):  # dR
                product[...] = np.nan
            return product

    figures = check_backend(NaNOps())
    assert not any(figure.passed for figure in figures if "layers, one-hot" in figure.check)
    assert not any(figure.passed for figure in figures if figure.check.startswith("agreement"))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3, 4), (2, 2, 4), (2, 3, 5)])
def test_a_state_of_another_shape_is_refused(shape: tuple[int, int, int]) -> None:
    model = LanguageModel(5, 4, 2, backend="numpy")
    state = State(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"must be \(2, 3, 4\)"):
        model.forward(np.zeros((6, 3), dtype=np.int64), state)


def test_lists_are_taken_as_tokens() -> None:
    model = LanguageModel(5, 4, 1, backend="numpy", dtype="float64")
    loss, _, _ = model.loss_and_gradients([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    assert loss == model.loss_and_gradients(np.array([[0, 1], [2, 3]]), np.array([[1, 2], [3, 4]]))[0]


def test_look_up_and_plain_product_agree(ops: Ops, rng: np.random.Generator) -> None:
    """The same tokens in one call (a table pays) and one at a time (it does not)."""
    for embedding in (None, 6):
        model = LanguageModel(13, 8, 2, embedding, backend=ops, dtype="float64")
        tokens = rng.integers(0, 13, (20, 2))
        together, _ = model.forward(tokens)
        state, rows = None, []
        for t in range(20):
            logits, state = model.forward(tokens[t : t + 1], state)
            rows.append(ops.to_numpy(logits)[0])
        assert_allclose(np.array(rows), ops.to_numpy(together), rtol=0, atol=1e-13)


@pytest.mark.parametrize("streams", [1, 4, 19])
def test_step_equals_forward(ops: Ops, rng: np.random.Generator, streams: int) -> None:
    model = LanguageModel(13, 8, 3, 5, backend=ops, dtype="float64")
    tokens = rng.integers(0, 13, (6, streams))
    logits, last = model.forward(tokens)
    weights, (h, c) = model.step_weights(), model.zero_state(streams)
    for t in range(6):
        before = ops.to_numpy(h).copy(), ops.to_numpy(c).copy()
        step_logits, h_next, c_next = ops.stack_step(weights, ops.asarray(tokens[t]), h, c)
        assert_allclose(ops.to_numpy(step_logits), ops.to_numpy(logits)[t], rtol=0, atol=1e-13)
        assert np.array_equal(before, (ops.to_numpy(h), ops.to_numpy(c)))
        h, c = h_next, c_next
    assert_allclose(ops.to_numpy(h), ops.to_numpy(last.h), rtol=0, atol=1e-13)
    assert_allclose(ops.to_numpy(c), ops.to_numpy(last.c), rtol=0, atol=1e-13)


def test_feature_vectors_cannot_be_stepped_through() -> None:
    with pytest.raises(charlstm.UsageError, match="no tokens"):
        SequenceClassifier(4, 2, 3, backend="numpy").step_weights()


def test_chunks_with_carried_state_equal_the_whole(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(13, 8, 2, backend=ops, dtype="float64")
    tokens = rng.integers(0, 13, (10, 3))
    whole, last = model.forward(tokens)
    first, state = model.forward(tokens[:4])
    second, state = model.forward(tokens[4:], state)
    both = np.concatenate((ops.to_numpy(first), ops.to_numpy(second)))
    assert_allclose(both, ops.to_numpy(whole), rtol=0, atol=1e-13)
    assert state.h.shape == (2, 3, 8)
    assert_allclose(ops.to_numpy(state.h), ops.to_numpy(last.h), rtol=0, atol=1e-13)


def test_posterior_every_step_and_last(ops: Ops, rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 3, 4))
    every = SequenceClassifier(4, 5, 6, emit="every", backend=ops, dtype="float64")
    last = SequenceClassifier(4, 5, 6, emit="last", backend=ops, dtype="float64")
    posteriors, _ = every.posterior(x)
    final, _ = last.posterior(x)
    assert posteriors.shape == (7, 3, 5)
    assert final.shape == (3, 5)
    assert_allclose(ops.to_numpy(posteriors)[-1], ops.to_numpy(final), atol=1e-14)
    assert_allclose(ops.to_numpy(posteriors).sum(axis=2), 1, atol=1e-12)


def test_a_classifier_learns_which_feature_came_first(rng: np.random.Generator) -> None:
    """A task that needs the memory: the class is the sign of the first of ten steps."""
    x = rng.standard_normal((10, 128, 3))
    classes = (x[0, :, 1] > 0).astype(np.int64)
    model = SequenceClassifier(3, 2, 16, 1, backend="numpy", dtype="float64")
    m, v = np.zeros(model.num_parameters), np.zeros(model.num_parameters)
    for step in range(1, 151):
        loss, gradients, _ = model.loss_and_gradients(x, classes)
        model.ops.optimizer_update(Update("adam", step, 0.02), model.parameters.flat, gradients.flat, (m, v))
    posterior, _ = model.posterior(x)
    assert loss < 0.1
    assert np.mean(posterior.argmax(axis=1) == classes) > 0.97


def test_parameters_are_writable_views_of_one_buffer(ops: Ops) -> None:
    model = LanguageModel(vocab_size=7, hidden_size=5, num_layers=2, embedding_size=3, backend=ops)
    assert list(model.parameters) == [
        "embedding.weight", "cifg.0.W", "cifg.0.R", "cifg.0.b", "cifg.1.W", "cifg.1.R", "cifg.1.b",
        "head.weight", "head.bias",
    ]  # fmt: skip
    assert model.parameters["cifg.1.W"].shape == (5, 15)
    assert model.num_parameters == sum(int(np.prod(a.shape)) for a in model.parameters.values())
    model.parameters["head.bias"][...] = 9.0
    assert np.all(ops.to_numpy(model.parameters.flat)[-7:] == 9.0)


def test_initial_values() -> None:
    model = LanguageModel(50, 40, 2, 30, backend="numpy", dtype="float64", seed=3)
    R = model.parameters["cifg.1.R"]
    for k in range(3):
        block = R[:, 40 * k : 40 * (k + 1)]
        assert_allclose(block @ block.T, np.eye(40), atol=1e-12)
    bias = model.parameters["cifg.0.b"]
    assert np.all(bias[:40] == -1)
    assert not bias[40:].any()
    W = model.parameters["cifg.0.W"]
    limit = np.sqrt(6 / (30 + 40))
    assert 0.9 * limit < np.abs(W).max() <= limit
    assert W.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
    same = LanguageModel(50, 40, 2, 30, backend="numba", dtype="float64", seed=3)
    assert np.array_equal(same.parameters.flat, model.parameters.flat)
    other = LanguageModel(50, 40, 2, 30, backend="numpy", dtype="float64", seed=4)
    assert not np.array_equal(other.parameters.flat, model.parameters.flat)


def test_gradients_of_the_state_can_be_left_out(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(vocab_size=7, hidden_size=5, num_layers=2, embedding_size=3, backend=ops)
    x, y = rng.integers(0, 7, (2, 6, 4))
    loss, whole, _ = model.loss_and_gradients(x, y)
    same_loss, gradients, _ = model.loss_and_gradients(x, y, state_gradients=False)
    assert gradients.initial_state is None
    assert whole.initial_state is not None
    assert same_loss == loss
    assert np.array_equal(ops.to_numpy(gradients.flat), ops.to_numpy(whole.flat))


def test_gradients_of_two_calls_do_not_share_memory(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(65, 64, 2, backend=ops)
    tokens = rng.integers(0, 65, (2, 16, 8))
    _, first, _ = model.loss_and_gradients(tokens[0], tokens[1])
    kept = ops.to_numpy(first.flat).copy()
    model.loss_and_gradients(tokens[1], tokens[0])
    assert np.array_equal(ops.to_numpy(first.flat), kept)


def test_dropout_differs_between_calls_unless_seeded(rng: np.random.Generator) -> None:
    model = LanguageModel(13, 32, 2, dropout=0.5, backend="numpy", dtype="float64")
    tokens = rng.integers(0, 13, (8, 4))
    losses = [model.loss_and_gradients(tokens, tokens)[0] for _ in range(2)]
    assert losses[0] != losses[1]
    seeded = [model.loss_and_gradients(tokens, tokens, dropout_seed=(5,))[0] for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_bad_input_is_refused(ops: Ops) -> None:
    model = LanguageModel(5, 4, 1, backend=ops)
    good = np.zeros((3, 2), dtype=np.int64)
    for tokens, problem in (
        (np.full((3, 2), 5), "0 to 4"),
        (np.full((3, 2), -1), "0 to 4"),
        (np.zeros((3, 2)), "integers"),
        (np.zeros(3, dtype=np.int64), r"\(T, B\)"),
    ):
        with pytest.raises(ValueError, match=problem):
            model.forward(tokens)
    with pytest.raises(ValueError, match="0 to 4"):
        model.loss_and_gradients(good, good + 5)
    with pytest.raises(ValueError, match="targets"):
        model.loss_and_gradients(good, good[:2])
    with pytest.raises(ValueError, match="not empty"):
        model.loss_and_gradients(good[:0], good[:0])
    with pytest.raises(ValueError, match="feature vectors"):
        SequenceClassifier(4, 2, 3, backend=ops).forward(np.zeros((2, 2, 5)))


@pytest.mark.parametrize(
    "keywords",
    [{"hidden_size": 0}, {"num_layers": -1}, {"embedding_size": 0}, {"dropout": 1.0}, {"dtype": "float16"}],
)
def test_sizes_that_cannot_be(keywords: dict[str, object]) -> None:
    with pytest.raises(charlstm.UsageError, match=next(iter(keywords))):
        LanguageModel(5, backend="numpy", **keywords)  # type: ignore[arg-type]


def test_state_of_numpy_arrays_is_taken(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(5, 4, 2, backend=ops, dtype="float64")
    state = State(rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4)))
    _, carried = model.forward(np.zeros((0, 3), dtype=np.int64), state)
    assert np.array_equal(ops.to_numpy(carried.h), state.h)
