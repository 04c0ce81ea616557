"""Drawing text."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_ops

import charlstm
from charlstm import CharacterTokenizer, DataError, SamplingConfig
from charlstm.backends import Ops, Sampler, draw, numba_ops
from charlstm.generation import DRAWN_AT_ONCE, PROMPT_CHUNK, generate, generate_many
from charlstm.model import LanguageModel


def test_the_same_seed_gives_the_same_text(small_run: charlstm.Run) -> None:
    text = small_run.generate("The ", length=80, seed=3)
    assert text.startswith("The ")
    assert len(text) == 84
    assert small_run.generate("The ", length=80, seed=3) == text
    assert small_run.generate("The ", length=80, seed=4) != text
    assert small_run.generate("The ", length=70, seed=3) == text[:74]
    assert DRAWN_AT_ONCE < 70


def test_every_backend_gives_the_same_text(small_run: charlstm.Run, ops: Ops) -> None:
    expected = small_run.generate("The ", length=60, seed=1)
    assert charlstm.load(small_run.directory, ops).generate("The ", length=60, seed=1) == expected


def test_generation_follows_the_posterior_of_the_whole_text() -> None:
    """Greedy text, one character at a time, against a forward pass over all that came before."""
    model = LanguageModel(5, 12, 2, backend="numpy", dtype="float64", seed=9)
    model.parameters["head.weight"][...] *= 8
    tokenizer = CharacterTokenizer("abcde")
    text = "ab" + "".join(generate(model, tokenizer, "ab", SamplingConfig(30, temperature=0)))
    for end in range(2, len(text)):
        logits, _ = model.forward(tokenizer.encode(text[:end])[:, np.newaxis])
        assert tokenizer.decode([int(np.argmax(logits[-1, 0]))]) == text[end]


def test_a_long_prompt_is_read_whole(rng: np.random.Generator) -> None:
    model = LanguageModel(5, 6, 2, backend="numpy", dtype="float64")
    tokenizer = CharacterTokenizer("abcde")
    ids = rng.integers(0, 5, 2 * PROMPT_CHUNK + 100)
    logits, _ = model.forward(ids[:, np.newaxis])
    first = next(generate(model, tokenizer, tokenizer.decode(ids), SamplingConfig(1, temperature=0)))
    assert first == tokenizer.decode([int(np.argmax(logits[-1, 0]))])


def compiled_draw(logits: np.ndarray, sampler: Sampler, uniform: float) -> int:
    from charlstm.kernels import sampling

    return int(sampling.draw(logits, *sampler, uniform, np.empty(len(logits))))


@pytest.mark.parametrize("draws", [draw, compiled_draw])
@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (Sampler(), 4),
        (Sampler(0.6), 4),
        (Sampler(top_k=2), 2),
        (Sampler(top_k=9), 4),
        (Sampler(top_p=0.5), 1),
        (Sampler(top_p=0.81), 3),
        (Sampler(top_p=0.8), 2),
        (Sampler(2.0, top_k=3, top_p=0.6), 2),  # of 0.39, 0.30, 0.21 of the three
    ],
)
def test_draws_have_the_frequencies_of_the_posterior(draws, sampler: Sampler, kept: int) -> None:  # type: ignore[no-untyped-def]
    """Pearson's chi-square at the 0.1 % level (16.27 for 3 degrees of freedom), nothing cut is drawn."""
    order = np.array([2, 0, 3, 1])
    posterior = np.array([0.5, 0.301, 0.15, 0.049])
    logits = np.log(posterior)[np.argsort(order)]  # not in the order of their probability
    expected = posterior ** (1 / sampler.temperature)
    expected[kept:] = 0
    expected = 20_000 * (expected / expected.sum())[np.argsort(order)]
    uniforms = np.random.default_rng(0).random(20_000)
    counts = np.bincount([draws(logits, sampler, u) for u in uniforms], minlength=4)
    assert not counts[expected == 0].any()
    some = expected > 0
    assert np.sum((counts[some] - expected[some]) ** 2 / expected[some]) < 16.27


@pytest.mark.parametrize("draws", [draw, compiled_draw])
@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-12])
def test_the_coldest_temperatures_take_the_most_probable(draws, temperature: float) -> None:  # type: ignore[no-untyped-def]
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    for uniform in (0.0, 0.3, np.nextafter(1, 0)):
        assert draws(logits, Sampler(temperature), uniform) == 1


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(top_k=3), Sampler(0.5, 0, 0.7), Sampler(1.5, 5, 0.9)])
def test_draws_at_the_ends_of_the_distribution(rng: np.random.Generator, sampler: Sampler) -> None:
    for _ in range(200):
        logits = (10 * rng.standard_normal(7)).round(0).astype(np.float32)  # with equal ones
        for uniform in (0.0, np.nextafter(1, 0), rng.random()):
            assert 0 <= draw(logits, sampler, uniform) == compiled_draw(logits, sampler, uniform) < 7


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("streams", [1, 3, 19])
def test_tokens_of_every_backend(
    ops: Ops,
    dtype: str,
    layers: int,
    streams: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same draws on each backend, at sizes that no vector divides, carried over two calls."""
    monkeypatch.setattr(numba_ops, "SMALLEST_PRODUCT", 1)  # streams on several threads
    uniforms = rng.random((40, streams))
    drawn = []
    sampler = Sampler(0.7, 9, 0.95)
    for each in (ops, make_ops("numpy")):
        model = LanguageModel(11, 37, layers, 5, backend=each, dtype=dtype, seed=2)  # type: ignore[arg-type]
        model.parameters["head.weight"][...] *= 6
        weights = model.step_weights()
        logits, state = model.forward(np.full((1, streams), 3))
        first = each.generate(weights, logits[0, ...], *state, uniforms[:25], sampler)
        second = each.generate(weights, *first[1:], uniforms[25:], sampler)
        drawn.append(np.concatenate((first[0], second[0])))
        shapes = [(streams, 11), (layers, streams, 37), (layers, streams, 37)]
        assert [tuple(x.shape) for x in second[1:]] == shapes
        again = each.generate(weights, logits[0, ...], *state, uniforms[:25], sampler)
        assert np.array_equal(again[0], first[0])  # what it was given stayed as it was
    assert np.array_equal(*drawn)
    assert len(set(drawn[0][:, 0])) > 3


def test_streams_side_by_side_draw_what_each_alone_would(small_run: charlstm.Run, ops: Ops) -> None:
    run = charlstm.load(small_run.directory, ops)
    prompts = ["The ", "", "A", "coffee"]
    texts = run.generate_many(prompts, length=50, seed=4)
    assert [len(text) for text in texts] == [len(prompt) + 50 for prompt in prompts]
    assert texts[0] == run.generate("The ", length=50, seed=4)
    assert run.generate_many(prompts[:3], length=50, seed=4) == texts[:3]
    assert run.generate_many(["A", "A"], length=50)[0] != run.generate_many(["A", "A"], length=50)[1]
    assert run.generate_many([]) == []


def test_logits_that_are_not_finite(ops: Ops) -> None:
    model = LanguageModel(2, 3, 1, backend=ops)
    model.parameters["head.bias"][...] = float("nan")
    with pytest.raises(charlstm.DivergedError, match="not finite"):
        list(generate(model, CharacterTokenizer("ab"), "a"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"length": -1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_sampling_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(charlstm.UsageError, match=next(iter(wrong))):
        SamplingConfig(**wrong)  # type: ignore[arg-type]


def test_prompts(small_run: charlstm.Run) -> None:
    assert len(small_run.generate("", length=20)) == 20
    assert small_run.generate("The", length=0) == "The"
    with pytest.raises(DataError, match="'é'"):
        small_run.generate("Thé", length=5)
    skipped = small_run.generate("Thé", length=20, on_unknown="skip")
    assert skipped[3:] == small_run.generate("Th", length=20)[2:]
    replaced = small_run.generate("Thé", length=20, on_unknown="replace")
    assert replaced[3:] == small_run.generate("Th?", length=20)[3:]
    assert len(small_run.generate("é", length=20, on_unknown="skip")) == 21


def test_the_prompt_is_checked_before_the_first_character() -> None:
    model = LanguageModel(2, 3, 1, backend=make_ops("numpy"))
    with pytest.raises(DataError):
        generate(model, CharacterTokenizer("ab"), "abc")


def certain(tokenizer: charlstm.Tokenizer, order: list[int]) -> LanguageModel:
    """A model that goes through tokens in a circle: each is the only one that may follow the one before."""
    V = len(tokenizer)
    model = LanguageModel(V, V, 1, backend="numpy", dtype="float64")
    p = model.parameters
    p.flat[...] = 0
    p["cifg.0.b"][...] = 40  # the gates are open: the state is that of the last token alone
    p["cifg.0.b"][2 * V :] = -40
    p["cifg.0.W"][np.arange(V), 2 * V + np.arange(V)] = 80
    p["head.weight"][order, np.roll(order, -1)] = 100
    return model


def test_bytes_come_when_a_character_is_complete() -> None:
    tokenizer = charlstm.ByteTokenizer()
    model = certain(tokenizer, list("é😀".encode()))
    pieces = list(generate(model, tokenizer, "é", SamplingConfig(4, temperature=0)))
    assert pieces == ["😀"]
    assert "".join(generate(model, tokenizer, "é", SamplingConfig(5, temperature=0))) == "😀\ufffd"
    assert "".join(generate(model, tokenizer, "é", SamplingConfig(600, temperature=0))) == "😀é" * 100
    broken = certain(tokenizer, [0xFF, 0xC3, 0x41])
    text = "".join(generate(broken, tokenizer, "A", SamplingConfig(6, temperature=0)))
    assert text == "\ufffd\ufffdA\ufffd\ufffdA"


def test_words_are_joined_by_spaces() -> None:
    tokenizer = charlstm.WordTokenizer(["<unk>", "<eos>", "romeo", "sleeps", "."])
    model = certain(tokenizer, [1, 2, 3, 4])
    sampling = SamplingConfig(70, temperature=0)  # more than are drawn at once
    for prompt, expected in [
        ("", "romeo sleeps .\nromeo sleeps .\n"),
        ("Romeo", " sleeps .\nromeo"),
        ("sleeps ", ".\nromeo"),
        ("\n", "romeo sleeps"),
    ]:
        assert "".join(generate(model, tokenizer, prompt, sampling)).startswith(expected)
    many = zip(*generate_many(model, tokenizer, ["Romeo", "\n"], sampling), strict=True)
    alone = ["".join(generate(model, tokenizer, prompt, sampling)) for prompt in ("Romeo", "\n")]
    assert ["".join(parts) for parts in many] == alone


def test_unknown_words_of_a_prompt_are_known_as_such() -> None:
    tokenizer = charlstm.WordTokenizer(["<unk>", "<eos>", "b", "c"])
    model = certain(tokenizer, [0, 2, 3, 1])
    assert "".join(generate(model, tokenizer, "Xyzzy", SamplingConfig(2, temperature=0))) == " b c"
