"""Measuring a model on text."""

from __future__ import annotations

import math

import numpy as np
import pytest

import charlstm
from charlstm import Corpus, DataError
from charlstm.backends import Ops
from charlstm.evaluation import evaluate
from charlstm.model import LanguageModel


def plain_figures(model: LanguageModel, tokens: np.ndarray) -> tuple[float, float]:
    """Loss and mean largest posterior, one forward pass over everything."""
    posterior, _ = model.posterior(tokens[:-1, np.newaxis])
    p = np.asarray(model.ops.to_numpy(posterior))[:, 0]
    return float(-np.log(p[np.arange(len(p)), tokens[1:]]).mean()), float(p.max(axis=1).mean())


@pytest.mark.parametrize("n", [2, 3, 130, 1500])
def test_figures_of_one_stream(ops: Ops, n: int, rng: np.random.Generator) -> None:
    model = LanguageModel(9, 8, 2, backend=ops, dtype="float64")
    tokens = rng.integers(0, 9, n)
    figures = evaluate(model, tokens, streams=1)
    loss, largest = plain_figures(model, tokens)
    assert figures.tokens == n - 1
    assert figures.loss == pytest.approx(loss, rel=1e-10)
    assert figures.mean_max_posterior == pytest.approx(largest, rel=1e-10)
    assert figures.perplexity == pytest.approx(math.exp(loss), rel=1e-10)
    assert figures.bits_per_char == pytest.approx(loss / math.log(2), rel=1e-10)


def test_streams_side_by_side_give_the_figures_of_one(small_run: charlstm.Run) -> None:
    """Each token counted once, with a state that has been carried: 48 pieces against one."""
    corpus = Corpus.load(small_run.config.data)
    tokens = corpus.val[:49_999]  # a number that the pieces do not divide
    wide, one = evaluate(small_run.model, tokens), evaluate(small_run.model, tokens, streams=1)
    assert wide.tokens == one.tokens == 49_998
    assert wide.loss == pytest.approx(one.loss, abs=2e-6)
    assert wide.mean_max_posterior == pytest.approx(one.mean_max_posterior, abs=2e-6)


def test_splits_and_other_texts(small_run: charlstm.Run, tmp_path) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other.txt"
    other.write_text("The filter coffee tastes sweet.\n" * 40)
    whole = small_run.evaluate(other, split="all")
    assert whole.tokens == 40 * 32 - 1
    parts = [small_run.evaluate(other, split=split).tokens for split in ("train", "val")]
    assert sum(parts) == whole.tokens - 1
    other.write_text("Thé filter coffee.\n" * 40)
    with pytest.raises(DataError, match="'é'"):
        small_run.evaluate(other)
    assert small_run.evaluate(other, split="all", on_unknown="skip").tokens == 40 * 18 - 1


def test_names_that_are_none(small_run: charlstm.Run) -> None:
    with pytest.raises(charlstm.UsageError, match="split must be"):
        small_run.evaluate(split="tests")  # type: ignore[arg-type]
    with pytest.raises(charlstm.UsageError, match="which must be"):
        charlstm.load(small_run.directory, which="first")  # type: ignore[arg-type]


def test_a_corpus_of_another_vocabulary_is_refused(small_run: charlstm.Run) -> None:
    with pytest.raises(DataError, match="another vocabulary"):
        small_run.evaluate(Corpus.from_text("abab" * 10))


def test_too_little_text(small_run: charlstm.Run) -> None:
    with pytest.raises(DataError, match="at least two"):
        evaluate(small_run.model, np.zeros(1, np.uint8))


def test_bits_per_character_compare_across_tokenizers(ops: Ops) -> None:
    """The bits of a whole text, divided by its characters, whatever the tokens are."""
    text = "naïve café\nb é " * 30
    for kind in ("bytes", "words", "characters"):
        tokenizer = charlstm.make_tokenizer(charlstm.DataConfig(tokenizer=kind), [text])
        model = LanguageModel(len(tokenizer), 6, 1, backend=ops, dtype="float64")
        tokens = tokenizer.encode(text)
        figures = evaluate(model, tokens, streams=1, tokenizer=tokenizer)
        characters = len(tokenizer.decode(tokens[1:]))
        assert figures.characters == characters
        assert figures.tokens != characters or kind == "characters"
        bits = plain_figures(model, tokens)[0] * (len(tokens) - 1) / math.log(2)
        assert figures.bits_per_char == pytest.approx(bits / characters, rel=1e-9)
