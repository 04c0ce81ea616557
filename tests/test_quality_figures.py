"""What texts are measured by, against sacrebleu, SciPy, plain versions and values counted by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm import DataError
from charlstm.data import coffee
from charlstm.quality.copying import copying
from charlstm.quality.figures import (
    bleu,
    chrf,
    distinct,
    divergence,
    in_loops,
    real_words,
    self_bleu,
    tokenization,
)
from charlstm.quality.ngrams import KneserNey
from charlstm.quality.texts import cut, spread, words

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


SHORT = st.one_of(
    st.text("ab", max_size=20),
    st.text("a\ud800é😀\0", max_size=20),
    st.sampled_from(["abab" * 5, "a" * 30, "b" * 26]),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(SHORT, max_size=3), SHORT, st.lists(SHORT, max_size=4), st.sampled_from([1, 2, 3, 5, 25]))
def test_copying_is_what_every_stretch_says(
    texts: list[str], other: str, pieces: list[str], at_least: int
) -> None:
    source = "".join(pieces)
    for group, found in zip(
        (texts, [other]), copying([texts, [other]], lambda: pieces, at_least), strict=True
    ):
        each = [plainly_copied(text, source, at_least) for text in group]
        characters = sum(map(len, group))
        assert found.longest == len(found.stretch) == max((longest for longest, _ in each), default=0)
        assert found.stretch in source
        assert any(found.stretch in text for text in group) or not found.stretch
        assert found.share == pytest.approx(
            sum(inside for _, inside in each) / characters if characters else 0
        )


def test_copying_of_a_longer_text_in_pieces() -> None:
    source = coffee.text(40_000)
    text = coffee.text(3_000, seed=5) + "§" + source[20_000:20_400]
    pieces = [source[k : k + 777] for k in range(0, len(source), 777)]
    (found,) = copying([[text]], lambda: pieces, 100)
    assert found.stretch in source
    assert found.longest >= 400
    assert found == copying([[text]], lambda: [source], 100)[0]
    single = copying([[text]], lambda: list(source[:20_500]), 100)[
        0
    ]  # pieces shorter than what is looked for
    assert single == copying([[text]], lambda: [source[:20_500]], 100)[0]


@pytest.mark.parametrize("at_least", [4, 24, 40])
def test_copying_of_many_stretches(at_least: int, rng: np.random.Generator) -> None:
    """Stretches of all lengths around those that are looked for first, by a table of all lengths of common ends."""
    source = "".join(rng.choice(list("ab "), 1_500))
    starts = rng.integers(0, 1_400, 25).tolist()
    text = "|".join(source[k : k + 10 + 2 * n] for n, k in enumerate(starts))
    lengths = np.zeros((len(text) + 1, len(source) + 1), int)
    for n, symbol in enumerate(text):
        same = np.array([symbol == other for other in source])
        lengths[n + 1, 1:] = np.where(same, lengths[n, :-1] + 1, 0)
    ends = lengths.max(axis=1)[1:]
    inside = {place for n, k in enumerate(ends) if k >= at_least for place in range(n - k + 1, n + 1)}
    (found,) = copying([[text]], lambda: [source[:700], source[700:]], at_least)
    assert found.longest == ends.max()
    assert found.share == len(inside) / len(text)


# ---- n-grams -----------------------------------------------------------------------------------


def plain_kneser_ney(text: str, symbols: str, order: int, context: str, symbol: str) -> float:
    """The probability of a symbol after a context, from dictionaries, as Chen & Goodman have it."""
    p = 1 / len(symbols)
    for k in range(1, order + 1):
        counts: Counter[str] = Counter(text[n : n + k] for n in range(len(text) - k + 1))
        if k < order:
            preceded = Counter(gram[1:] for gram in {text[n : n + k + 1] for n in range(len(text) - k)})
            counts = Counter({gram: preceded[gram] for gram in counts})
        n1, n2, n3, n4 = (sum(c == n for c in counts.values()) for n in (1, 2, 3, 4))
        discount = [0, 0.5, 1, 1.5]
        if n1 * n2 * n3:
            Y = n1 / (n1 + 2 * n2)
            estimates = [0, 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3]
            if min(estimates[1:]) > 0:
                discount = estimates
        before = context[len(context) - k + 1 :] if k > 1 else ""
        if len(before) < k - 1:
            break
        here = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == before}
        if total := sum(here.values()):
            taken = {s: min(discount[min(c, 3)], c) for s, c in here.items()}
            own = (here[symbol] - taken[symbol]) / total if symbol in here else 0.0
            p = own + sum(taken.values()) / total * p
    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_is_what_dictionaries_say(order: int) -> None:
    text, other = coffee.text(400), coffee.text(900)[850:] + "§§ the"
    symbols = "".join(sorted(set(text + other)))
    expected = [
        math.log(plain_kneser_ney(text, symbols, order, other[max(0, n - order + 1) : n], symbol))
        for n, symbol in enumerate(other)
    ]
    model = KneserNey(text, 5, also=other)
    assert model.alphabet == symbols
    assert model.log_probabilities(other, order) == pytest.approx(expected, abs=1e-9)
    assert KneserNey(text, order, also=other).log_probabilities(other) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.text("ab\ud800😀", min_size=4, max_size=60), st.text("ab\ud800😀", max_size=6))
def test_probabilities_sum_up_to_one(text: str, context: str) -> None:
    model = KneserNey(text, 4, also="ab\ud800😀")
    posterior = model.posterior(context)
    assert posterior.min() > 0
    assert posterior.sum() == pytest.approx(1)
    logarithms = [model.log_probabilities(context + symbol)[-1] for symbol in model.alphabet]
    assert np.log(posterior) == pytest.approx(logarithms)


def test_what_was_never_seen_is_possible() -> None:
    model = KneserNey(
        "ab" * 50, 2, also="c"
    )  # all counts are large: there is nothing to estimate discounts of
    assert np.isfinite(model.log_probabilities("aabca")).all()
    with pytest.raises(DataError, match="name them in `also`"):
        model.log_probabilities("abd")
    with pytest.raises(DataError, match="at least that long"):
        KneserNey("ab", 3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_frequencies_of_the_model(temperature: float, rng: np.random.Generator) -> None:
    model = KneserNey(coffee.text(3_000), 3)
    samples = model.sample(12_000, 3, rng, temperature)
    first = Counter(sample[:2] for sample in samples).most_common(1)[0][0]
    after = [sample[2] for sample in samples if sample.startswith(first)]
    weights = model.posterior(first) ** (1 / temperature)
    expected = len(after) * weights / weights.sum()
    observed = np.array([after.count(symbol) for symbol in model.alphabet])
    rare = expected < 5
    assert len(after) > 200
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (observed, expected))
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert chi_square < len(expected) + 5 * math.sqrt(2 * len(expected))


def test_temperature_0_takes_the_most_probable() -> None:
    model = KneserNey(coffee.text(3_000), 3)
    (sample, other) = model.sample(2, 20, np.random.default_rng(0), 0.0)
    assert sample == other
    assert sample[7] == model.alphabet[model.posterior(sample[:7]).argmax()]


def test_higher_orders_predict_better_until_they_know_too_little() -> None:
    model, held_out = KneserNey(coffee.text(30_000), 4), coffee.text(60_000)[50_000:]
    bits = [-model.log_probabilities(held_out, k).mean() / math.log(2) for k in (1, 2, 4)]
    assert bits[0] > bits[1] > bits[2] > coffee.entropy_per_character() / math.log(2)


# ---- words and characters ----------------------------------------------------------------------


def test_words_and_their_shares() -> None:
    assert words("Don't STOP, 3 o’clock—naïve_x") == ["don't", "stop", "o’clock", "naïve", "x"]
    known = Counter({"the": 5, "cat": 1})
    assert real_words(["a The cat b", "a the dog the b"], known) == 3 / 5
    assert real_words(["a The cat b"], known, at_least=1) == 1
    assert real_words(["at the ca"], known) == 1  # what a cut has left of words is no word
    assert real_words(["123 -- two words"], known) is None
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


def test_words_of_scripts_without_spaces_are_characters() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = ["我们明天去学校上课"], ["他们明天去学校"]
    assert tokenization(references) == "char"
    assert tokenization(["two words", "three more words"]) == tokenization([]) == "13a"
    assert bleu(texts, references, "char") == pytest.approx(
        sacrebleu.sentence_bleu(texts[0], references, tokenize="char", use_effective_order=True).score
    )
    assert bleu(texts, references, "char") > 20 > bleu(texts, references)


def test_pieces() -> None:
    assert cut("abcdefg", 2, 9) == ["ab", "cd", "ef"]
    assert cut("abcdefg", 2, 2) == ["ab", "cd"]
    assert cut("", 0, 5) == []
    assert spread(list("abcdefg"), 3) == ["a", "d", "g"]
    assert spread(list("abc"), 3) == ["a", "b", "c"]


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
