"""What all kinds of tokenizers promise; characters, normalization, options."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlstm
from charlstm import (
    ASCIITokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    CheckpointError,
    DataConfig,
    DataError,
    Tokenizer,
    UsageError,
    load_tokenizer,
    make_tokenizer,
)
from charlstm.data import coffee
from charlstm.data.tokenizer import line_blocks

KINDS = ["characters", "ascii", "bytes", "words", "pretokenized", "bpe"]
SAMPLE = (
    coffee.text(20_000) + 'Überall naïve 天地玄黃 😀 cafe\u0301 Ünïted\t it\'s "3.5" (no)!\r\n\n  x\n' * 3
)
ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates included
LINES = st.lists(st.text() | st.text("aé \t\n\r'!\u0301中"), max_size=6).map("\n".join)


def made(kind: str, text: str = SAMPLE, **options: Any) -> Tokenizer:
    return make_tokenizer(DataConfig(tokenizer=kind, **options), [text])  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
    options = {"vocab_size": 400} if request.param == "bpe" else {}
    return made(request.param, **options)


# ---- what all kinds promise -----------------------------------------------------------------


@given(text=LINES, cuts=st.sets(st.integers(0, 30)))
@settings(max_examples=150, deadline=None)
def test_texts_cut_at_line_ends_give_the_tokens_of_the_whole(
    tokenizer: Tokenizer, text: str, cuts: set[int]
) -> None:
    chunks = [""]
    for k, line in enumerate(line_blocks(text, 0)):
        chunks[-1] += line
        if k in cuts:
            chunks.append("")
    assert "".join(chunks) == text
    pieces = [tokenizer.encode(chunk, "replace") for chunk in chunks]
    whole = tokenizer.encode(text, "replace")
    assert np.array_equal(np.concatenate(pieces), whole)
    assert all(piece.dtype == tokenizer.dtype == whole.dtype for piece in pieces)


@given(text=LINES, cuts=st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=150, deadline=None)
def test_decoding_piece_by_piece(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    ids = tokenizer.encode(text, "replace")
    decoder = tokenizer.decoder()
    pieces = [decoder.feed(piece) for piece in np.split(ids, sorted(cuts))]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_a_copied_decoder_goes_on_alone(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("1 中 3", "replace")
    decoder = tokenizer.decoder()
    shown = ""
    for k in range(len(ids)):
        other = decoder.copy()
        assert shown + other.feed(ids[k:]) + other.finish() == tokenizer.decode(ids)
        shown += decoder.feed(ids[k : k + 1])


@given(text=LINES)
@settings(max_examples=150, deadline=None)
def test_characters_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, "replace")
    assert tokenizer.characters(ids) == len(tokenizer.decode(ids))


@given(text=LINES, cuts=st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=50, deadline=None)
def test_tokens_are_located_in_their_text(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    """As token by token, however the text comes in blocks."""
    ids = tokenizer.encode(text, "replace")
    found = list(tokenizer.located(np.split(ids, sorted(cuts))))
    assert "".join(piece for piece, _ in found) == tokenizer.decode(ids)
    ((_, expected),) = Tokenizer.located(tokenizer, [ids])
    assert np.array_equal(np.concatenate([ends for _, ends in found]), expected)


def test_bytes_that_are_no_text_are_characters() -> None:
    ids = np.frombuffer(b"a\xff\xe2\x82b\xe2\x82\xac", np.uint8)
    ((text, ends),) = ByteTokenizer().located([ids])
    assert text == "a\udcff\udce2\udc82b\u20ac"
    assert ends.tolist() == [1, 2, 3, 4, 5, 5, 5, 6]


@given(text=LINES)
@settings(max_examples=100, deadline=None)
def test_what_is_skipped_or_replaced_is_what_is_unknown(tokenizer: Tokenizer, text: str) -> None:
    unknown = tokenizer.unknown(text)
    skipped, replaced = tokenizer.encode(text, "skip"), tokenizer.encode(text, "replace")
    if tokenizer.kind in ("characters", "ascii", "words", "pretokenized"):
        assert len(replaced) - len(skipped) == unknown.total()
    assert not tokenizer.unknown(tokenizer.decode(skipped))
    if unknown and tokenizer.unknown_token is None:
        with pytest.raises(DataError, match="not in the vocabulary"):
            tokenizer.encode(text)
    else:
        assert np.array_equal(tokenizer.encode(text), replaced)


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert (loaded.hash, len(loaded), loaded.dtype) == (tokenizer.hash, len(tokenizer), tokenizer.dtype)
    assert np.array_equal(loaded.encode(SAMPLE, "replace"), tokenizer.encode(SAMPLE, "replace"))
    assert loaded.decode(np.arange(len(loaded))) == tokenizer.decode(np.arange(len(tokenizer)))
    assert type(tokenizer).load(path).hash == tokenizer.hash
    other = ASCIITokenizer if tokenizer.kind != "ascii" else ByteTokenizer
    with pytest.raises(CheckpointError, match=f"holds a {tokenizer.kind} tokenizer"):
        other.load(path)


def test_ids_fit_their_type(tokenizer: Tokenizer) -> None:
    assert np.iinfo(tokenizer.dtype).max >= len(tokenizer) - 1
    assert tokenizer.dtype == (np.uint8 if len(tokenizer) <= 256 else np.uint16)
    assert tokenizer.decode([tokenizer.start_token]) == "\n"


def test_hashes_tell_kinds_and_normalizations_apart(tokenizer: Tokenizer) -> None:
    config = DataConfig(tokenizer=tokenizer.kind, normalize="NFC")
    normalizing = make_tokenizer(config, [coffee.text(5000)])
    plain = made(tokenizer.kind, coffee.text(5000))
    assert normalizing.hash != plain.hash
    assert len({made(kind, "b a\nb a\n").hash for kind in KINDS if kind != "bpe"}) == 5


@pytest.mark.parametrize("damage", ["hash", "kind", "normalize", "version", "nested", "vocabulary"])
def test_damaged_files(tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    content = json.loads(tokenizer.to_json())
    damages: dict[str, Callable[[], object]] = {
        "hash": lambda: content.update(hash="0" * 64),
        "kind": lambda: content.update(type="klingon"),
        "normalize": lambda: content.update(normalize=["NFC"]),
        "version": lambda: content.update(version=2),
        "nested": lambda: content.update(type="bpe", vocabulary=[[]], merges=[["a"]]),
        "vocabulary": lambda: content.update(type="words", vocabulary=["<unk>", "<eos>", "a b"]),
    }
    damages[damage]()
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(path)
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(path)


def test_only_some_vocabularies_can_be_extended(tokenizer: Tokenizer) -> None:
    if not tokenizer.extensible:
        with pytest.raises(DataError, match=f"{tokenizer.kind} tokenizer is fixed"):
            tokenizer.extended(["ß"])
        return
    longer = tokenizer.extended(["ß"])
    assert type(longer) is type(tokenizer)
    assert longer.vocabulary == (*tokenizer.vocabulary, "ß")
    assert np.array_equal(longer.encode(SAMPLE), tokenizer.encode(SAMPLE))
    assert longer.encode("ß").tolist() == [len(tokenizer)]


def test_line_blocks() -> None:
    text = "ab\n\ncdefghi\nj"
    assert list(line_blocks(text, 0)) == ["ab\n", "\n", "cdefghi\n", "j"]
    assert list(line_blocks(text, 3)) == ["ab\n\n", "cdefghi\n", "j"]
    assert list(line_blocks(text, 99)) == [text]
    assert not list(line_blocks("", 3))


# ---- characters -----------------------------------------------------------------------------


def test_characters_of_a_large_vocabulary_and_of_long_texts() -> None:
    """100,000 symbols; blocks with and without ASCII; against a look-up character by character."""
    points = [k for k in range(sys.maxunicode + 1) if not 0xD800 <= k < 0xE000][:: 1_112_064 // 100_000]
    many = "".join(map(chr, points[:100_000]))
    text = many + "a" * 40_000 + "\0é" + many[::-1]
    tokenizer = make_tokenizer(DataConfig(), [text[:70_000], text[70_000:]])
    assert tokenizer.vocabulary == tuple(sorted(set(text)))
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint32
    of = {s: k for k, s in enumerate(tokenizer.vocabulary)}
    assert ids.tolist() == [of[s] for s in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknown(text + "\ud800" * 3 + "\U0010ffff") == {"\ud800": 3, "\U0010ffff": 1}


def test_hashes_of_old_checkpoints_hold() -> None:
    for vocabulary, start in [("ab", "51c32404372ea973"), ("é\ud800😀", "fcb90f8648c70229")]:
        assert CharacterTokenizer(vocabulary).hash.startswith(start)


def test_ascii() -> None:
    tokenizer = ASCIITokenizer()
    assert tokenizer.encode("A\n\0").tolist() == [65, 10, 0]
    assert len(tokenizer) == 128
    assert tokenizer.decode(tokenizer.encode("naïve", "replace")) == "na?ve"
    with pytest.raises(DataError, match="'ï'"):
        tokenizer.encode("naïve")


# ---- normalization --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_prompts_are_normalized_as_the_text_was(kind: str, form: Any) -> None:
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    text = "cafe\u0301 café ﬁne 각 가\u11a8\n" * 30
    tokenizer = made(kind, text, normalize=form)
    expected = unicodedata.normalize(form, text)
    assert np.array_equal(tokenizer.encode(text, "skip"), tokenizer.encode(expected, "skip"))
    assert np.array_equal(tokenizer.encode(text, "skip"), made(kind, expected).encode(expected, "skip"))
    if kind != "ascii":
        assert not tokenizer.unknown(text)


def test_what_normalization_changed() -> None:
    text = "cafe\u0301 café e\u0301" + "x" * 100
    changes = made("bytes", text, normalize="NFC").changes
    assert changes is not None
    assert (changes.characters, changes.changed) == (len(text), 4)
    assert changes.replacements == {("e\u0301", "é"): 2}
    assert str(changes) == (
        f"NFC changed 4 of {len(text)} characters: 'e\u0301' (U+0065 U+0301) to 'é' (U+00E9) 2 times"
    )
    assert str(made("characters", "plain", normalize="NFKC").changes) == "NFKC changed nothing"
    assert made("characters", text).changes is None


@given(ANY, st.sampled_from(["NFC", "NFD", "NFKC"]))
@settings(max_examples=200, deadline=None)
def test_all_changes_are_counted(text: str, form: Any) -> None:
    """The replacements, made one by one, give the length of the normal form."""
    changes = made("bytes", text, normalize=form).changes
    assert changes is not None
    longer = sum(n * (len(after) - len(before)) for (before, after), n in changes.replacements.items())
    assert len(text) + longer == len(unicodedata.normalize(form, text))
    assert changes.changed == sum(n * len(before) for (before, _), n in changes.replacements.items())


# ---- options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"min_count": 2}, "min_count is an option of words"),
        ({"vocab_size": 100}, "characters has no vocab_size"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "at least 257"),
        ({"tokenizer": "words", "vocab_size": 2}, "at least 3"),
        ({"tokenizer": "words", "min_count": 0}, "min_count must be greater"),
        ({"tokenizer": "klingon"}, "one of characters, ascii, bytes"),
        ({"normalize": "NFX"}, "one of none, NFC"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        DataConfig(**options)


def test_they_are_public() -> None:
    assert charlstm.Tokenizer is Tokenizer
    assert {"ASCIITokenizer", "BPETokenizer", "ByteTokenizer", "WordTokenizer"} <= set(charlstm.__all__)
