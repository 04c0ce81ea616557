"""What is dropped and penalised in training: masks, tied embeddings, smoothed targets, activations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import charlstm_command, make_ops
from numpy.testing import assert_allclose
from test_ops import TOLERANCE

import charlstm
from charlstm import Config, LanguageModel, ModelConfig, Penalties, SequenceClassifier, checkpoint
from charlstm.backends import Ops, mask_key
from charlstm.data import CharacterTokenizer
from charlstm.generation import generate
from charlstm.model.regularization import Masks, draw_masks
from charlstm.training import Reporter, prepare, reopen

RATES = {
    "dropout": 0.2,
    "input_dropout": 0.3,
    "output_dropout": 0.4,
    "embedding_dropout": 0.1,
    "weight_drop": 0.5,
}
V, T, B, H, E, SEED = 13, 7, 5, 9, 6, (3, 1)


def lm(ops: Ops, embedding: int | None = E, **options: Any) -> LanguageModel:
    return LanguageModel(V, H, 2, embedding, backend=ops, dtype="float64", **options)


def masks_of(model: LanguageModel, seed: tuple[int, ...] = SEED) -> Masks:
    E = model.config.embedding_size or 0
    return draw_masks(model.ops, model.config, T, B, T, V, E, model.ops.asarray(mask_key(seed)))


@pytest.fixture
def tokens(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, V, (2, T, B))


def arrays(masks: Masks) -> list[np.ndarray]:
    return [masks.embedding, masks.input, *masks.between, *masks.weights, masks.output]  # type: ignore[list-item]


@pytest.mark.parametrize("variational", [False, True])
def test_masks(variational: bool) -> None:
    """Right shapes, shares and scale; none is like another, or like itself in the next step."""
    ops = make_ops("numpy")
    config = ModelConfig(40, 3, 30, dtype="float64", variational=variational, **RATES)  # type: ignore[arg-type]
    masks = draw_masks(ops, config, 25, 50, 25, 2000, 30, mask_key((0, 7)))
    steps = 1 if variational else 25
    assert masks.embedding is not None
    assert masks.embedding.shape == (2000, 1)
    assert masks.input is not None
    assert masks.input.shape == (steps, 50, 30)
    assert [mask.shape for mask in masks.between] == [(steps, 50, 40)] * 2
    assert [mask.shape for mask in masks.weights] == [(40, 120)] * 3
    rates = [0.1, 0.3, 0.2, 0.2, 0.5, 0.5, 0.5, 0.4]
    for mask, rate in zip(arrays(masks), rates, strict=True):
        assert np.mean(mask == 0) == pytest.approx(rate, abs=0.03)
        assert np.unique(mask[mask > 0]) == pytest.approx(1 / (1 - rate), rel=1e-4)
    later = arrays(draw_masks(ops, config, 25, 50, 25, 2000, 30, mask_key((0, 8))))
    for mask, again in zip(arrays(masks), later, strict=True):
        assert not np.array_equal(mask, again)
    assert not np.array_equal(*masks.between)
    assert not np.array_equal(masks.weights[0], masks.weights[1])
    # not a case of one stream of draws cut at different rates
    kept = [mask.reshape(-1)[:1500] > 0 for mask in arrays(masks)]
    for k, one in enumerate(kept):
        for other in kept[:k]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.12
    last_only = draw_masks(ops, config, 25, 50, 1, 2000, 30, mask_key((0, 7)))
    assert last_only.output is not None
    assert last_only.output.shape == (1, 50, 40)
    nothing = draw_masks(
        ops, replace(config, **dict.fromkeys(RATES, 0.0)), 25, 50, 25, 2000, 30, mask_key((0, 7))
    )
    assert nothing == Masks()._replace(between=[], weights=[])


def test_every_backend_drops_the_same(ops: Ops) -> None:
    ours = masks_of(lm(ops, variational=True, **RATES))
    expected = masks_of(lm(make_ops("numpy"), variational=True, **RATES))
    for one, other in zip(arrays(ours), arrays(expected), strict=True):
        assert np.array_equal(ops.to_numpy(one), other)


def test_factors_of_every_shape(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    for shape, factors in (
        ((7, 5, 9), (7, 5, 9)),
        ((7, 5, 9), (1, 5, 9)),
        ((50, 3000), (50, 1)),
        ((4, 3), (4, 3)),
    ):
        x, by = rng.standard_normal(shape).astype(dtype), rng.standard_normal(factors).astype(dtype)
        there = ops.asarray(x.copy())
        product = ops.multiply(there, ops.asarray(by))
        assert np.array_equal(ops.to_numpy(product), x * by)
        assert np.array_equal(ops.to_numpy(there), x)
        assert ops.multiply(there, ops.asarray(by), out=there) is there
        assert np.array_equal(ops.to_numpy(there), x * by)


def losses_and_gradients(
    model: LanguageModel, tokens: np.ndarray, **keywords: Any
) -> tuple[float, dict[str, np.ndarray]]:
    loss, gradients, _ = model.loss_and_gradients(tokens[0], tokens[1], dropout_seed=SEED, **keywords)
    return loss, {name: model.ops.to_numpy(array) for name, array in gradients.items()}


@pytest.mark.parametrize(
    ("option", "embedding", "names"),
    [
        ("weight_drop", E, ["cifg.0.R", "cifg.1.R"]),
        ("embedding_dropout", E, ["embedding.weight"]),
        ("embedding_dropout", None, ["cifg.0.W"]),
    ],
)
def test_dropped_weights_are_those_of_another_model(
    ops: Ops, tokens: np.ndarray, option: str, embedding: int | None, names: list[str]
) -> None:
    """The same as without dropout once the weights are multiplied by their masks, gradients too."""
    dropped, plain = lm(ops, embedding, **{option: 0.4}), lm(ops, embedding)
    masks = masks_of(dropped)
    factors = masks.weights if option == "weight_drop" else [masks.embedding]
    for name, mask in zip(names, factors, strict=True):
        plain.parameters[name][...] = ops.multiply(plain.parameters[name], mask)
    loss, gradients = losses_and_gradients(dropped, tokens)
    expected, reference = losses_and_gradients(plain, tokens)
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, mask in zip(names, factors, strict=True):
        assert np.any(ops.to_numpy(mask) == 0)
        reference[name] *= ops.to_numpy(mask)
    for name, gradient in gradients.items():
        assert_allclose(gradient, reference[name], rtol=0, atol=1e-13)
    undropped = dropped.forward(tokens[0])[0]  # nothing is dropped where no gradients are asked for
    assert_allclose(
        ops.to_numpy(undropped), ops.to_numpy(lm(ops, embedding).forward(tokens[0])[0]), atol=1e-14
    )


@pytest.mark.parametrize("variational", [False, True])
def test_dropped_inputs_are_other_vectors(ops: Ops, tokens: np.ndarray, variational: bool) -> None:
    """The same as a network that reads the embedding's rows as they are after dropout."""
    model = lm(ops, input_dropout=0.4, embedding_dropout=0.2, variational=variational)
    reader = SequenceClassifier(E, V, H, 2, emit="every", backend=ops, dtype="float64")
    for name, array in reader.parameters.items():
        array[...] = model.parameters[name]
    masks = masks_of(model)
    assert masks.embedding is not None
    assert masks.input is not None
    embedding = ops.to_numpy(model.parameters["embedding.weight"]) * ops.to_numpy(masks.embedding)
    vectors = embedding[tokens[0]] * ops.to_numpy(masks.input)
    loss, gradients = losses_and_gradients(model, tokens)
    expected, reference, _ = reader.loss_and_gradients(vectors, tokens[1])
    assert loss == pytest.approx(expected, rel=1e-12)
    assert_allclose(gradients["cifg.0.W"], ops.to_numpy(reference["cifg.0.W"]), rtol=0, atol=1e-13)


def top_of(model: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """h of the top layer (T, B, H), by single steps."""
    state, rows = None, []
    for t in range(T):
        _, state = model.forward(tokens[t : t + 1], state)
        rows.append(model.ops.to_numpy(state.h)[-1])
    return np.array(rows)


def test_dropped_outputs_and_activation_penalties(ops: Ops, tokens: np.ndarray) -> None:
    """Loss and penalties written out, from the top layer's h and the mask."""
    model = lm(ops, output_dropout=0.4)
    mask = ops.to_numpy(masks_of(model).output)
    h = top_of(model, tokens[0])
    read = h * mask
    weight, bias = (ops.to_numpy(model.parameters[f"head.{name}"]) for name in ("weight", "bias"))
    logits = read @ weight + bias
    log_posterior = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    expected = -np.take_along_axis(log_posterior, tokens[1][..., None], axis=2).mean()
    for activation, temporal in ((0.0, 0.0), (2.0, 0.0), (0.0, 3.0), (2.0, 3.0)):
        loss, gradients, _ = model.loss_and_gradients(
            tokens[0], tokens[1], dropout_seed=SEED, penalties=Penalties(0.0, activation, temporal)
        )
        assert loss == pytest.approx(expected, rel=1e-12)  # the penalties are not in it
        size, roughness = np.mean(read**2), np.mean((h[1:] - h[:-1]) ** 2)
        assert gradients.penalty == pytest.approx(activation * size + temporal * roughness, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 1, 5), (40, 33, 70)])
def test_activation_gradients(ops: Ops, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    h, dh = rng.standard_normal((2, *shape)).astype(dtype)
    expected = dh + 2 * 0.7 * h / h.size
    penalty = 0.7 * np.mean(h.astype("float64") ** 2)
    change = np.diff(h.astype("float64"), axis=0)
    if change.size:
        penalty += 0.3 * np.mean(change**2)
        expected[1:] += 2 * 0.3 * change / change.size
        expected[:-1] -= 2 * 0.3 * change / change.size
    there = ops.asarray(dh.copy())
    assert ops.activation_gradients(there, ops.asarray(h), 0.7, 0.3) == pytest.approx(penalty, rel=1e-5)
    assert_allclose(ops.to_numpy(there), expected, rtol=0, atol=TOLERANCE[dtype])


# ---- smoothed targets -----------------------------------------------------------------------


def smoothed_gradient(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = np.full_like(logits, smoothing / logits.shape[1])
    wanted[np.arange(len(logits)), targets] += 1 - smoothing
    return (posterior - wanted) / len(logits)


def test_label_smoothing(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    logits, targets = (3 * rng.standard_normal((700, 30))).astype(dtype), rng.integers(0, 30, 700)
    plain, _ = ops.softmax_cross_entropy(ops.asarray(logits), ops.asarray(targets))
    loss, dlogits = ops.softmax_cross_entropy(ops.asarray(logits), ops.asarray(targets), 0.1)
    assert loss == plain  # cross-entropy as it is without
    expected = smoothed_gradient(logits.astype("float64"), targets, 0.1)
    assert_allclose(ops.to_numpy(dlogits), expected, rtol=0, atol=TOLERANCE[dtype] / 100)


def test_label_smoothing_is_that_of_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    logits, targets = 3 * rng.standard_normal((50, 30)), rng.integers(0, 30, 50)
    there = torch.tensor(logits, requires_grad=True)
    torch.nn.functional.cross_entropy(there, torch.tensor(targets), label_smoothing=0.1).backward()
    for name in ("numpy", "numba"):
        _, dlogits = make_ops(name).softmax_cross_entropy(logits, targets, 0.1)
        assert_allclose(dlogits, there.grad.numpy(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(1, 1, 2), (40, 9, 13), (350, 16, 200), (200, 70, 2100)])
def test_heads_either_way_round(
    ops: Ops, dtype: str, shape: tuple[int, int, int], smoothing: float, rng: np.random.Generator
) -> None:
    """The head's op with the matrix as it is, and as the transpose of an embedding (V, H)."""
    N, H, V = shape
    rows, bias = (rng.standard_normal(s).astype(dtype) for s in ((N, H), (V,)))
    weight = (rng.standard_normal((H, V)) / math.sqrt(H)).astype(dtype)
    targets = rng.integers(0, V, N)
    dlogits = smoothed_gradient(rows.astype("float64") @ weight + bias, targets, smoothing)
    straight, turned = ops.asarray(weight), ops.asarray(np.ascontiguousarray(weight.T)).T
    for there, transposed, matrix in ((straight, False, (H, V)), (turned, True, (V, H))):
        arrays = [ops.asarray(rows), there, ops.asarray(bias), ops.asarray(targets)]
        dweight, dbias = ops.empty(matrix, there.dtype), ops.empty((V,), there.dtype)
        _, drows = ops.head_gradients(*arrays, dweight, dbias, smoothing, transposed)
        expected = rows.T.astype("float64") @ dlogits
        for ours, reference in (
            (dweight, expected.T if transposed else expected),
            (dbias, dlogits.sum(axis=0)),
            (drows, dlogits @ weight.T.astype("float64")),
        ):
            assert_allclose(ops.to_numpy(ours), reference, rtol=0, atol=TOLERANCE[dtype])


# ---- tied embeddings ------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", [H, E])
@pytest.mark.parametrize("few", [False, True])  # tokens: more than the vocabulary, or fewer
def test_a_tied_model_is_an_untied_one(ops: Ops, tokens: np.ndarray, embedding: int, few: bool) -> None:
    """With the weights copied: the same loss, and the sum of the gradients of both uses."""
    tokens = tokens[:, :2] if few else tokens
    tied, untied = lm(ops, embedding, tied_embeddings=True), lm(ops, embedding)
    assert untied.num_parameters - tied.num_parameters == (H * V if embedding == H else H * V - H * E)
    matrix = tied.parameters["embedding.weight"].T
    if embedding != H:
        matrix = ops.matmul(tied.parameters["head.projection"], matrix)
    for name, array in untied.parameters.items():
        array[...] = matrix if name == "head.weight" else tied.parameters[name]
    loss, gradients = losses_and_gradients(tied, tokens)
    expected, reference = losses_and_gradients(untied, tokens)
    assert loss == pytest.approx(expected, rel=1e-12)
    d_matrix = reference.pop("head.weight")
    if embedding != H:
        projection = ops.to_numpy(tied.parameters["head.projection"])
        reference["head.projection"] = d_matrix @ ops.to_numpy(tied.parameters["embedding.weight"])
        d_matrix = projection.T @ d_matrix
    reference["embedding.weight"] += d_matrix.T
    assert set(gradients) == set(reference)
    for name, gradient in gradients.items():
        assert_allclose(gradient, reference[name], rtol=0, atol=1e-13)
    assert tied.loss(tokens[0], tokens[1])[0] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("embedding", [H, E])
def test_a_tied_model_draws_and_is_kept(tmp_path: Path, tokens: np.ndarray, embedding: int) -> None:
    texts, tokenizer = [], CharacterTokenizer("abcdefghijklm")
    for name in ("numpy", "numba", "numba-generic"):
        model = lm(make_ops(name), embedding, tied_embeddings=True)
        checkpoint.save(tmp_path / name, model, tokenizer, "")
        kept, _ = checkpoint.load(tmp_path / name, "numpy")
        assert np.array_equal(kept.parameters.flat, model.parameters.flat)
        logits, _ = model.forward(tokens[0])
        weights, (h, c) = model.step_weights(), model.zero_state(B)
        for t in range(T):
            one, h, c = model.ops.stack_step(weights, tokens[0][t], h, c)
            assert_allclose(one, logits[t], rtol=0, atol=1e-13)
        texts.append("".join(generate(model, tokenizer, "a", charlstm.SamplingConfig(length=40))))
    assert texts[0] == texts[1] == texts[2]


def test_a_tied_model_begins_near_a_uniform_guess(rng: np.random.Generator) -> None:
    """With a variance of 1, as an embedding of its own has, it would begin nats above."""
    model = LanguageModel(500, 64, 1, 64, backend="numpy", tied_embeddings=True)
    tokens = rng.integers(0, 500, (2, 30, 8))
    assert model.loss(tokens[0], tokens[1])[0] == pytest.approx(math.log(500), abs=0.1)
    model.parameters["embedding.weight"][...] *= math.sqrt(3) / 0.1
    assert model.loss(tokens[0], tokens[1])[0] > math.log(500) + 0.5


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: ModelConfig(tied_embeddings=True), "tied_embeddings needs .* embedding_size"),
        (
            lambda: LanguageModel(5, 4, input_dropout=0.1, backend="numpy"),
            "embedding_dropout, which drops whole",
        ),
        (lambda: SequenceClassifier(3, 2, 4, embedding_dropout=0.1, backend="numpy"), "use input_dropout"),
        (lambda: ModelConfig(weight_drop=1.0), "weight_drop must be at least 0 and less than 1"),
        (lambda: ModelConfig(variational=0.5), "variational cannot be 0.5"),  # type: ignore[arg-type]
        (lambda: charlstm.TrainingConfig(label_smoothing=-0.1), "label_smoothing"),
        (lambda: charlstm.TrainingConfig(activation_regularization=-1.0), "activation_regularization"),
    ],
)
def test_options_that_cannot_be(make: Any, problem: str) -> None:
    with pytest.raises(charlstm.UsageError, match=problem):
        make()


# ---- in training ----------------------------------------------------------------------------


def awd(config: Config) -> Config:
    """Everything at once."""
    model = replace(config.model, embedding_size=10, variational=True, tied_embeddings=True, **RATES)
    training = replace(
        config.training, label_smoothing=0.1, activation_regularization=2.0, temporal_activation_regularization=1.0,
        random_seq_len=True, max_steps=24, eval_every=10,
    )  # fmt: skip
    return Config(model, replace(config.data, val_fraction=0.01), training)


def weights_of(directory: Path) -> dict[str, bytes]:
    return {
        f"{p.parent.name}/{p.name}": p.read_bytes()
        for p in (directory / "checkpoints").glob("*/*.safetensors")
    }


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resuming_with_everything_on_is_exact(tmp_path: Path, small_config: Config, backend: str) -> None:
    config = awd(small_config)
    whole = prepare("coffee", config, tmp_path / "whole", backend, None, Reporter())
    assert whole.train()
    cut = prepare("coffee", config, tmp_path / "cut", backend, None, Reporter())
    assert not cut.train(stop=lambda: cut.step >= 13)
    again = reopen(tmp_path / "cut", backend=backend)
    assert (again.step, again.tokens) == (13, cut.tokens)
    assert again.train()
    assert again.tokens == whole.tokens
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_every_option_changes_the_training(tmp_path: Path, small_config: Config) -> None:
    config = awd(small_config)
    config = replace(config, training=replace(config.training, max_steps=4))
    seen = set()
    for number, (part, option, value) in enumerate(
        [("model", None, None), *(("model", name, 0.0) for name in RATES), ("model", "variational", False),
         ("training", "label_smoothing", 0.0), ("training", "activation_regularization", 0.0),
         ("training", "temporal_activation_regularization", 0.0), ("training", "random_seq_len", False)]
    ):  # fmt: skip
        changed = (
            getattr(config, part) if option is None else replace(getattr(config, part), **{option: value})
        )
        trainer = prepare(
            "coffee", replace(config, **{part: changed}), tmp_path / str(number), "numpy", None, Reporter()
        )
        for _ in range(4):
            trainer.train_step(0.0)
        seen.add(trainer.model.parameters.flat.tobytes())
    assert len(seen) == 11


def test_on_the_command_line(tmp_path: Path, text: Path) -> None:
    options = ["--embedding-size", 8, "--hidden-size", 12, "--batch-size", 4, "--seq-len", 16, "--variational",
               "--tied-embeddings", "--weight-drop", 0.2, "--embedding-dropout", 0.1, "--label-smoothing", 0.1,
               "--random-seq-len", "--temporal-activation-regularization", 1]  # fmt: skip
    run = tmp_path / "run"
    done = charlstm_command(
        "train", "--data", text, *options, "--max-steps", 3, "--backend", "numpy", "--quiet", "--out", run
    )
    assert done.returncode == 0, done.stderr
    assert charlstm.load(run, "numpy").config.model.tied_embeddings
    assert (
        len(charlstm_command("generate", run, "--length", 20, "--backend", "numpy").stdout.strip("\n")) <= 21
    )
    fresh = ["train", "--data", text, "--init-from", run, "--max-steps", 2, "--backend", "numpy", "--quiet"]
    done = charlstm_command(*fresh, "--output-dropout", 0.5, "--out", tmp_path / "tuned")
    assert done.returncode == 0, done.stderr
    tuned = charlstm.load(tmp_path / "tuned", "numpy").config.model
    assert (tuned.tied_embeddings, tuned.output_dropout, tuned.weight_drop) == (True, 0.5, 0.0)
