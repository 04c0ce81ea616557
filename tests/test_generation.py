"""Drawing text."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_ops

import charlstm
from charlstm import CharacterTokenizer, DataError, SamplingConfig
from charlstm.backends import Ops
from charlstm.generation import PROMPT_CHUNK, generate, sample
from charlstm.model import LanguageModel


def test_the_same_seed_gives_the_same_text(small_run: charlstm.Run) -> None:
    text = small_run.generate("The ", length=80, seed=3)
    assert text.startswith("The ")
    assert len(text) == 84
    assert small_run.generate("The ", length=80, seed=3) == text
    assert small_run.generate("The ", length=80, seed=4) != text
    assert small_run.generate("The ", length=40, seed=3) == text[:44]


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


def test_draws_have_the_frequencies_of_the_posterior() -> None:
    """Pearson's chi-square at the 0.1 % level (16.27 for 3 degrees of freedom), two temperatures."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    for temperature in (1.0, 0.6):
        posterior = np.exp(logits / temperature)
        posterior /= posterior.sum()
        rng = np.random.default_rng(0)
        counts = np.bincount([sample(logits, temperature, rng) for _ in range(20_000)], minlength=4)
        assert np.sum((counts - 20_000 * posterior) ** 2 / (20_000 * posterior)) < 16.27


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-12])
def test_the_coldest_temperatures_take_the_most_probable(temperature: float) -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert all(sample(logits, temperature, np.random.default_rng(k)) == 1 for k in range(20))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"length": -1}])
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
