"""The embedded corpus and its entropy, the tokenizer, reading text, and batches."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm import CharacterTokenizer, CheckpointError, Corpus, DataConfig, DataError
from charlstm.data import StreamBatches, coffee, fit_to, read_text

# ---- the grammar ----------------------------------------------------------------------------


def inside_probability(sentence: str) -> float:
    """The probability of a sentence, summed over all of its derivations (the inside algorithm)."""

    @cache
    def ends(symbol: str, start: int) -> dict[int, float]:
        if symbol not in coffee.GRAMMAR:
            return {start + len(symbol): 1.0} if sentence.startswith(symbol, start) else {}
        total = sum(weight for weight, _ in coffee.GRAMMAR[symbol])
        found: dict[int, float] = {}
        for weight, parts in coffee.GRAMMAR[symbol]:
            reached = {start: weight / total}
            for part in parts:
                further: dict[int, float] = {}
                for at, p in reached.items():
                    for end, q in ends(part, at).items():
                        further[end] = further.get(end, 0.0) + p * q
                reached = further
            for end, p in reached.items():
                found[end] = found.get(end, 0.0) + p
        return found

    return ends("SENTENCE", 0).get(len(sentence), 0.0)


def test_each_sentence_has_one_derivation() -> None:
    """Else the entropy of the derivations would lie above that of the text."""
    rng = Random(7)
    for _ in range(3000):
        sentence, nats = coffee.draw("SENTENCE", rng)
        assert -math.log(inside_probability(sentence)) == pytest.approx(nats, rel=1e-9)


def test_exact_entropy_agrees_with_a_long_sample() -> None:
    rng = Random(1)
    drawn = [coffee.draw("SENTENCE", rng) for _ in range(40_000)]
    sampled = sum(nats for _, nats in drawn) / sum(len(sentence) for sentence, _ in drawn)
    assert coffee.entropy_per_character() == pytest.approx(sampled, rel=0.005)


def test_sentences_end_with_the_only_line_feed() -> None:
    text = coffee.text(20_000)
    assert all(inside_probability(line + "\n") > 0 for line in text.splitlines())
    terminals = [p for alternatives in coffee.GRAMMAR.values() for _, parts in alternatives for p in parts]
    assert [p for p in terminals if "\n" in p] == ["\n"] * len(coffee.GRAMMAR["SENTENCE"])


def test_the_corpus_is_the_same_everywhere() -> None:
    text = coffee.text()
    assert 500_000 <= len(text) < 500_200
    assert Corpus.from_text(text).sha256 == Corpus.load(DataConfig()).sha256
    assert text != coffee.text(seed=1)
    assert text.startswith("Heat the oat milk to 60 degrees, then pour it slowly.\n")
    assert text.isascii()


# ---- the tokenizer --------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=()), min_size=1)  # lone surrogates included


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_encode_and_decode_are_inverse(text: str) -> None:
    tokenizer = CharacterTokenizer.from_text(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.vocabulary[k] for k in ids] == list(text)
    content = json.loads(tokenizer.to_json())
    assert tuple(content["vocabulary"]) == tokenizer.vocabulary


@given(TEXTS, st.text(st.characters(exclude_categories=())))
@settings(max_examples=200, deadline=None)
def test_unknown_characters(known: str, text: str) -> None:
    tokenizer = CharacterTokenizer.from_text(known)
    skipped = "".join(s for s in text if s in known)
    replaced = "".join(s if s in known else tokenizer.replacement for s in text)
    assert tokenizer.decode(tokenizer.encode(text, "skip")) == skipped
    assert tokenizer.decode(tokenizer.encode(text, "replace")) == replaced
    if skipped == text:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    else:
        with pytest.raises(DataError, match="not in the vocabulary"):
            tokenizer.encode(text)


def test_the_error_names_the_characters() -> None:
    with pytest.raises(DataError, match=r"'é' \(U\+00E9\) 2 times, 'ß' \(U\+00DF\) once"):
        CharacterTokenizer("abc").encode("aéßé")


def test_ids_are_as_small_as_they_can_be() -> None:
    assert CharacterTokenizer.from_text("ab").encode("ab").dtype == np.uint8
    many = "".join(map(chr, range(300)))
    assert CharacterTokenizer.from_text(many).encode(many).dtype == np.uint16


def test_the_hash_depends_on_the_order() -> None:
    assert CharacterTokenizer("ab").hash != CharacterTokenizer("ba").hash
    assert CharacterTokenizer("ab").hash == CharacterTokenizer(["a", "b"]).hash


@pytest.mark.parametrize("vocabulary", [[], ["ab"], ["a", "a"], [""], [1]])
def test_vocabularies_that_cannot_be(vocabulary: list[str]) -> None:
    with pytest.raises(DataError):
        CharacterTokenizer(vocabulary)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '{"type": "words", "version": 1}',
        '{"type": "characters", "version": 1, "vocabulary": ["b", "a"], "hash": "0"}',
        '{"type": "characters", "version": 1, "vocabulary": 3, "hash": "0"}',
        '{"type": "characters", "version": 1, "vocabulary": ["ab"], "hash": "0"}',
    ],
)  # fmt: skip
def test_damaged_tokenizer_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        CharacterTokenizer.load(path)


# ---- reading and cutting --------------------------------------------------------------------


def test_text_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\r\nb\tc é 😀".encode())
    assert read_text(path) == "a\r\nb\tc é 😀"
    path.write_bytes("é\x00".encode("latin-1"))
    assert read_text(path, "latin-1") == "é\x00"
    path.write_bytes("é".encode("latin-1"))
    assert read_text(path, "latin-1") == "é"


@pytest.mark.parametrize(
    ("content", "encoding", "problem"),
    [
        (b"\x80\x81\x00abc", "utf-8", "--encoding latin-1"),
        (b"abc", "klingon", "unknown encoding 'klingon'"),
        ("abc".encode("utf-16-le"), "utf-8", "NUL characters.*--encoding utf-16"),
        (b"a", "undefined", "is not undefined text"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, encoding: str, problem: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_text(path, encoding)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*none\.txt$"):
        read_text(tmp_path / "none.txt")
    for path in (tmp_path, tmp_path / ("long" * 100)):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)


def test_a_name_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coffee").write_text("black, no sugar. " * 20)
    monkeypatch.chdir(tmp_path)
    assert Corpus.load(DataConfig("coffee")).entropy == coffee.entropy_per_character()
    own = Corpus.load(DataConfig("./coffee"))
    assert own.entropy is None
    assert len(own.train) + len(own.val) == 20 * 17


@pytest.mark.parametrize(("text", "problem"), [("", "empty"), ("a", "no character but"), ("abc", "short")])
def test_texts_too_short_to_learn_from(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Corpus.from_text(text)


@given(st.integers(4, 300), st.floats(0.001, 0.999))
@settings(deadline=None)
def test_the_split_keeps_every_token_once(length: int, fraction: float) -> None:
    text = "".join(chr(97 + k % 7) for k in range(length))
    corpus = Corpus.from_text(text, val_fraction=fraction)
    assert corpus.tokenizer.decode(np.concatenate((corpus.train, corpus.val))) == text
    assert min(len(corpus.train), len(corpus.val)) >= 2
    assert abs(len(corpus.val) - fraction * length) <= 2


def test_the_customary_split(tinyshakespeare: Path) -> None:
    corpus = Corpus.load(DataConfig(str(tinyshakespeare)))
    assert (len(corpus.train), len(corpus.val), len(corpus.tokenizer)) == (1_003_854, 111_540, 65)


@given(st.integers(2, 2000), st.integers(1, 80), st.integers(1, 80))
@settings(deadline=None)
def test_batches_are_shrunk_until_they_fit(tokens: int, B: int, T: int) -> None:
    config = fit_to(tokens, DataConfig(batch_size=B, seq_len=T))
    assert 1 <= config.batch_size <= B
    assert 1 <= config.seq_len <= T
    StreamBatches(np.zeros(tokens, np.uint8), config.batch_size, config.seq_len)
    if tokens > B * T:
        assert (config.batch_size, config.seq_len) == (B, T)


# ---- batches --------------------------------------------------------------------------------


@given(st.integers(31, 400), st.integers(1, 5), st.integers(1, 6))
@settings(deadline=None)
def test_streams_are_contiguous_and_shifted_by_one(tokens: int, B: int, T: int) -> None:
    text = np.arange(tokens)
    batches = StreamBatches(text, B, T)
    last = None
    for step in range(3 * batches.steps_per_epoch):
        batch = batches[step]
        assert batch.x.shape == batch.y.shape == (T, B)
        assert np.array_equal(batch.y, batch.x + 1)
        assert np.array_equal(np.diff(batch.x, axis=0), np.ones((T - 1, B)))
        assert batch.fresh == (step % batches.steps_per_epoch == 0)
        if not batch.fresh:
            assert np.array_equal(batch.x[0], last + 1)
        last = batch.x[-1]


def test_no_token_is_left_out_of_every_epoch() -> None:
    batches = StreamBatches(np.arange(2 * 17 + 1), 2, 5)
    seen = {int(x) for step in range(4 * batches.steps_per_epoch) for x in batches[step].x.flat}
    assert seen == set(range(34))
