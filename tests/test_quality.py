"""Figures of texts, against sacrebleu, SciPy, plain versions and values counted by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_fails, charlstm_command
from hypothesis import given, settings
from hypothesis import strategies as st

import charlstm
from charlstm import DataError, UsageError
from charlstm.cli import run as cli
from charlstm.data import coffee
from charlstm.quality import FIGURES, text_quality
from charlstm.quality.copying import copying
from charlstm.quality.figures import (
    bleu,
    chrf,
    distinct,
    divergence,
    in_loops,
    real_words,
    self_bleu,
    words,
)  # fmt: skip
from charlstm.quality.ngrams import KneserNey

# ---- copying -----------------------------------------------------------------------------------


def plainly_copied(text: str, source: str, at_least: int) -> tuple[int, int]:
    """The longest stretch, and how many characters lie in long ones: every stretch is looked for."""
    longest, inside = 0, set()
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            if text[start:end] in source:
                longest = max(longest, end - start)
                if end - start >= at_least:
                    inside |= set(range(start, end))
    return longest, len(inside)


SHORT = st.one_of(st.text("ab", max_size=20), st.text("a\ud800é😀\0", max_size=20), st.just("abab" * 5))


@settings(max_examples=150, deadline=None)
@given(st.lists(SHORT, max_size=3), SHORT, st.lists(SHORT, max_size=4), st.integers(1, 5))
def test_copying_is_what_every_stretch_says(
    texts: list[str], other: str, pieces: list[str], at_least: int
) -> None:
    source = "".join(pieces)
    for group, found in zip((texts, [other]), copying([texts, [other]], pieces, at_least), strict=True):
        each = [plainly_copied(text, source, at_least) for text in group]
        characters = sum(map(len, group))
        assert found.longest == len(found.stretch) == max((longest for longest, _ in each), default=0)
        assert found.stretch in source
        assert any(found.stretch in text for text in group) or not found.stretch
        assert found.share == pytest.approx(
            sum(inside for _, inside in each) / characters if characters else 0
        )


def test_copying_of_a_longer_text_in_pieces(rng: np.random.Generator) -> None:
    source = coffee.text(40_000)
    text = coffee.text(3_000, seed=5) + "§" + source[20_000:20_400]
    pieces = [source[k : k + 777] for k in range(0, len(source), 777)]
    (found,) = copying([[text]], pieces, 100)
    assert found.stretch in source
    assert found.longest >= 400
    assert found == copying([[text]], [source], 100)[0]


# ---- n-grams -----------------------------------------------------------------------------------


def plain_kneser_ney(text: str, order: int, context: str, symbol: str) -> float:
    """The probability of a symbol after a context, from dictionaries, as Chen & Goodman have it."""
    p = 1 / len(set(text))
    for k in range(1, order + 1):
        counts: Counter[str] = Counter(text[n : n + k] for n in range(len(text) - k + 1))
        if k < order:
            longer = {text[n : n + k + 1] for n in range(len(text) - k)}
            counts = Counter({gram: sum(other[1:] == gram for other in longer) for gram in counts})
        n1, n2, n3, n4 = (sum(c == n for c in counts.values()) for n in (1, 2, 3, 4))
        share = n1 / max(1, n1 + 2 * n2)
        steps = ((1, n1, n2), (2, n2, n3), (3, n3, n4))
        discount = {
            n: max(0.0, n - (n + 1) * share * above / here) if here else 0.0 for n, here, above in steps
        }
        before = context[len(context) - k + 1 :] if k > 1 else ""
        if len(before) < k - 1:
            break
        here = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == before}
        taken = {s: min(discount.get(min(c, 3), 0.0), c) for s, c in here.items()}
        total = sum(here.values())
        if total:
            own = (here[symbol] - taken[symbol]) / total if symbol in here else 0.0
            p = own + sum(taken.values()) / total * p
    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_is_what_dictionaries_say(order: int) -> None:
    text, other = coffee.text(400), coffee.text(900)[820:]
    model = KneserNey(text, order)
    known = "".join(s for s in other if s in set(text))
    expected = [
        math.log(plain_kneser_ney(text, order, known[max(0, n - order + 1) : n], symbol))
        for n, symbol in enumerate(known)
    ]
    assert model.log_probabilities(other) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.text("abcd ", min_size=6, max_size=60), st.lists(st.integers(0, 1), max_size=6))
def test_probabilities_sum_up_to_one(text: str, context: list[int]) -> None:
    symbols = [s for s in context if s < len(set(text))]
    posterior = KneserNey(text, 4).posterior(symbols)
    assert posterior.min() >= 0
    assert posterior.sum() == pytest.approx(1)


def test_samples_have_the_frequencies_of_the_model(rng: np.random.Generator) -> None:
    model = KneserNey(coffee.text(5_000), 3)
    sample = model.sample(6_000, rng)
    assert -model.log_probabilities(sample).mean() == pytest.approx(
        np.mean([-np.sum(p * np.log(p)) for p in map(model.posterior, pairs(model, sample))]), rel=0.05
    )


def pairs(model: KneserNey, text: str) -> list[list[int]]:
    symbols = np.searchsorted(model.alphabet, list(text)).tolist()
    return [symbols[n - 2 : n] for n in range(2, len(symbols), 10)]


def test_higher_orders_predict_better_until_they_know_too_little() -> None:
    text, held_out = coffee.text(30_000), coffee.text(60_000)[50_000:]
    bits = [-KneserNey(text, k).log_probabilities(held_out).mean() / math.log(2) for k in (1, 2, 4)]
    assert bits[0] > bits[1] > bits[2] > coffee.entropy_per_character() / math.log(2)
    with pytest.raises(DataError, match="at least that long"):
        KneserNey("ab", 3)


# ---- words and characters ----------------------------------------------------------------------


def test_words_and_their_shares() -> None:
    assert words("Don't STOP, 3 o’clock—naïve_x") == ["don't", "stop", "o’clock", "naïve", "x"]
    known = Counter({"the": 5, "cat": 1})
    assert real_words(["The cat", "the dog the"], known) == 3 / 5
    assert real_words(["The cat"], known, at_least=1) == 1
    assert real_words(["123 --"], known) is None
    assert distinct(["a b a b", "a b"], 1) == 2 / 6
    assert distinct(["a b a b", "a b"], 2) == 2 / 4  # none from one text to the next
    assert distinct(["a"], 2) is None


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "the dog lay there"]
    single = [sacrebleu.sentence_bleu(text, references, use_effective_order=True).score for text in texts]
    assert bleu(texts, references) == pytest.approx(np.mean(single))
    assert chrf(texts, references) == pytest.approx(
        np.mean([sacrebleu.sentence_chrf(text, references).score for text in texts])
    )
    assert self_bleu(["the same words here"] * 3) == pytest.approx(100)
    two = ["the cat sat on it", "my big cat lay down"]
    assert self_bleu(two) == pytest.approx(np.mean([bleu(two[:1], two[1:]), bleu(two[1:], two[:1])]))
    assert self_bleu(["alone"]) is None


def test_divergence_is_that_of_scipy() -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    p, q = Counter("abcab"), Counter("abbbd")
    rows = [[count[s] for s in "abcd"] for count in (p, q)]
    assert divergence(["abcab"], ["abbbd"], 1) == pytest.approx(distance.jensenshannon(*rows, base=2) ** 2)
    assert divergence(["ab", "ab"], ["ab"], 2) == 0
    assert divergence(["aaaa"], ["bbbb"], 2) == 1
    assert divergence(["a"], ["a"], 3) == 0
    assert divergence(["aaaa"], ["a"], 3) == 1


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        ("abc " * 10, 40),
        ("x" * 19, 0),  # too short
        ("x" * 20, 20),
        ("once upon a time there was " * 2, 0),  # twice only
        ("before: " + "na" * 10 + " batman", 20),
        ("".join(map(chr, range(100, 400))), 0),
        ("", None),
    ],
)
def test_loops(text: str, looped: int | None) -> None:
    share = in_loops([text])
    assert share == (None if looped is None else looped / len(text))


# ---- the report --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A run whose held-out text is long enough to be measured."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "text.txt").write_text(coffee.text(60_000))
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=16, num_layers=1), training=charlstm.TrainingConfig(max_steps=20)
    )
    return charlstm.train(folder / "text.txt", config, out=folder / "run", backend="numpy", quiet=True)


def test_the_report(longer_run: charlstm.Run) -> None:
    found = text_quality(longer_run, characters=9000, seed=1)
    assert found.characters == 3000  # half of what was held out, in pieces of a thousand
    for column in (found.model, found.held_out, found.ngram):
        assert set(column) == {figure.name for figure in FIGURES}
    real, floor = found.held_out, found.ngram
    assert real["real_words"] > 0.95  # all but those that a piece ends in
    assert found.model["real_words"] < floor["real_words"] <= real["real_words"]
    assert found.model["divergence_3"] > floor["divergence_3"]
    assert found.copy in Path(longer_run.config.data.data).read_text()
    assert len(found.copy) == found.model["longest_copy"]
    assert found.bits_per_char["model"] == pytest.approx(longer_run.evaluate().bits_per_char)
    assert found.bits_per_char["4"] < found.bits_per_char["1"]


def test_a_copy_is_found_out(
    longer_run: charlstm.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(longer_run.config.data.data).read_text()
    (tmp_path / "copy.txt").write_text(text[5000:7500])
    command = ["evaluate", str(longer_run.directory), "--backend", "numpy", "--text-quality", "--generated"]
    assert cli([*command, str(tmp_path / "copy.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["copied"] == 1
    assert found["copy"] in text[5000:7500]
    assert cli([*command, str(tmp_path / "copy.txt")]) == 0
    told = capsys.readouterr().out
    for figure in FIGURES:
        assert figure.label in told


def test_what_cannot_be_measured(longer_run: charlstm.Run, small_run: charlstm.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1,000 characters"):
        text_quality(longer_run, characters=10)
    with pytest.raises(DataError, match="too few to measure"):
        text_quality(longer_run, generated="short")
    with pytest.raises(DataError, match="too few to measure"):
        text_quality(longer_run, generated="")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    command = ("evaluate", longer_run.directory, "--backend", "numpy")
    done = charlstm_command(*command, "--text-quality", "--generated", tmp_path / "latin.txt")
    assert_fails(done, 3, "latin.txt is not UTF-8", "byte 3")
    assert_fails(charlstm_command(*command, "--characters", 3000), 2, "does nothing without --text-quality")


def test_without_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UsageError, match=r'pip install "charlstm\[quality\]"'):
        bleu(["a"], ["a"])
