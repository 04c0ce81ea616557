"""Figures of texts, against sacrebleu, SciPy, plain versions and values counted by hand."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
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
    told: list[str] = []
    found = text_quality(longer_run, characters=9000, seed=1, copied_from=30, tell=told.append)
    assert found.characters == 3000  # half of what was held out, in pieces of a thousand
    for column in (found.model, found.held_out, found.ngram):
        assert list(column) == [figure.name for figure in FIGURES]
    real, floor = found.held_out, found.ngram
    assert real["real_words_1"] == 1
    assert found.model["real_words_2"] < floor["real_words_2"] <= real["real_words_2"]
    assert found.model["divergence_3"] > floor["divergence_3"]
    text = Path(longer_run.config.data.data).read_text()
    assert found.copy in text
    assert len(found.copy) == found.model["longest_copy"]
    held_out = text[len(longer_run.corpus().train) :]
    assert (
        real["copied"] == copying([cut(held_out, 1000, 3)], lambda: [text[: -len(held_out)]], 30)[0].share > 0
    )
    assert found.bits_per_char["model"] == pytest.approx(longer_run.evaluate().bits_per_char)
    grams = KneserNey(text[: -len(held_out)], 6, also=held_out)
    expected = {str(k): -grams.log_probabilities(held_out, k).mean() / math.log(2) for k in range(1, 7)}
    assert {k: found.bits_per_char[k] for k in expected} == pytest.approx(expected)
    assert found.temperature == 0.8
    assert {"generating", "comparing", "looking for copies: 0% of the training text"} <= set(told)


def test_of_long_held_out_text_the_beginning_is_read(
    longer_run: charlstm.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlstm.quality.report.PREDICTED", 2500)
    found, corpus = text_quality(longer_run, characters=1000), longer_run.corpus()
    beginning = replace(corpus, val=corpus.val[:2500])
    assert found.bits_per_char["model"] == pytest.approx(longer_run.evaluate(beginning).bits_per_char)
    assert found == text_quality(longer_run, beginning, characters=1000)


def test_another_text_and_all_of_it(longer_run: charlstm.Run, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(coffee.text(3_000, seed=3))
    other = longer_run.corpus(tmp_path / "other.txt")
    found = text_quality(longer_run, other, split="all", seed=1)
    assert found.characters == 1000
    assert found.bits_per_char["model"] == pytest.approx(
        longer_run.evaluate(other, split="all").bits_per_char
    )
    with pytest.raises(UsageError, match="not trained on"):
        text_quality(longer_run, split="all")
    with pytest.raises(DataError, match="too few to measure"):  # its last tenth
        text_quality(longer_run, other)
    with pytest.raises(DataError, match="no part test"):
        text_quality(longer_run, split="test")


@pytest.mark.parametrize("tokenizer", ["bytes", "words"])
def test_other_tokens(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(coffee.text(20_000).replace("a", "ä"), encoding="utf-8")
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(tokenizer=tokenizer, val_fraction=0.0, test_fraction=0.2),
        charlstm.TrainingConfig(max_steps=4),
    )  # fmt: skip
    run = charlstm.train(tmp_path / "text.txt", config, out=tmp_path / "run", backend="numpy", quiet=True)
    found = text_quality(run, split="test", characters=1000, temperature="1.2:0.4")
    assert found.characters == 1000
    assert found.temperature == 0.8
    assert found.held_out["real_words_1"] == 1
    real = found.model["real_words_1"]
    assert (
        real > 0.98 if tokenizer == "words" else real < 0.5
    )  # the vocabulary has a word of the test part alone
    assert found.bits_per_char["model"] == pytest.approx(run.evaluate(split="test").bits_per_char)
    with pytest.raises(DataError, match="no part val that was held out"):
        text_quality(run)
    (tmp_path / "latin.txt").write_bytes(coffee.text(2_000).replace("a", "ä").encode("latin-1"))
    command = ["evaluate", str(run.directory), "--backend", "numpy", "--text-quality", "--split", "test"]
    assert cli([*command, "--generated", str(tmp_path / "latin.txt"), "--encoding", "latin-1"]) == 0


def test_a_copy_is_found_out(
    longer_run: charlstm.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, path = Path(longer_run.config.data.data).read_text(), tmp_path / "[copy].txt"
    path.write_text(text[5000:7500])
    command = ["evaluate", str(longer_run.directory), "--backend", "numpy", "--text-quality", "--generated"]
    assert cli([*command, str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["copied"] == 1
    assert found["copy"] in text[5000:7500]
    assert cli([*command, str(path), "--copied-from", "33"]) == 0
    told = capsys.readouterr().out
    for figure in FIGURES:
        assert figure.label.format(copied_from=33) in told
    assert "[copy].txt" in told


def test_all_samplers_can_be_chosen(longer_run: charlstm.Run, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "evaluate",
        str(longer_run.directory),
        "--backend",
        "numpy",
        "--text-quality",
        "--characters",
        "1000",
    ]
    found = []
    for options in (["--sample-top-k", "1"], ["--temperature", "0"], ["--redraw", "--seed", "2"]):
        assert cli([*command, *options, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["model"])
    assert found[0] == found[1] != found[2]
    assert found[0]["in_loops"] > 0.5  # greedy, and hardly trained


@pytest.mark.parametrize("text", ["x" * 3000, "一二三四五六七" * 300, "word\n" * 500, " " * 3000])
def test_odd_texts_are_measured(longer_run: charlstm.Run, text: str) -> None:
    found = text_quality(longer_run, generated=text)
    assert found.model["in_loops"] == 1
    assert found.model["real_words_1"] in (0, None)
    assert found.model["copied"] == 0


def test_what_cannot_be_measured(longer_run: charlstm.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1,000 characters"):
        text_quality(longer_run, characters=10)
    with pytest.raises(UsageError, match="1 character or more"):
        text_quality(longer_run, copied_from=0)
    with pytest.raises(UsageError, match="stop ends texts"):
        text_quality(longer_run, stop=("x",))
    with pytest.raises(UsageError, match="number of characters"):
        text_quality(longer_run, length=1000)
    with pytest.raises(DataError, match="too few to measure"):
        text_quality(longer_run, generated="short")
    with pytest.raises(DataError, match="too few to measure"):
        text_quality(longer_run, generated="")
    model = charlstm.load(longer_run.directory / "checkpoints" / "best", "numpy")
    with pytest.raises(DataError, match="compared with what the model was trained on"):
        text_quality(model, longer_run.corpus())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--characters", "3000"], "--characters does nothing without --text-quality"),
        (["--sample-top-k", "3"], "--sample-top-k does nothing without --text-quality"),
        (["--text-quality", "--windows"], "--windows does nothing with --text-quality"),
        (["--text-quality", "--top-k", "3"], "--top-k does nothing with --text-quality"),
        (["--text-quality", "--split", "train"], "take --split val or test"),
        (
            ["--text-quality", "--generated", "FILE", "--top-p", "0.5"],
            "--top-p does nothing with --generated",
        ),
        (["--text-quality", "--generated", "FILE"], "latin.txt is not utf-8 text (byte 3"),
    ],
)
def test_options_that_do_nothing_are_refused(
    longer_run: charlstm.Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    options = [str(tmp_path / "latin.txt") if option == "FILE" else option for option in options]
    assert cli(["evaluate", str(longer_run.directory), "--backend", "numpy", *options]) in (2, 3)
    assert said in capsys.readouterr().err


def test_without_sacrebleu(longer_run: charlstm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    told: list[str] = []
    with pytest.raises(UsageError, match=r'pip install "charlstm\[quality\]"'):
        text_quality(longer_run, tell=told.append)
    assert not told  # before anything that takes time
