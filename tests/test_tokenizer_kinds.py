"""What each kind of tokenizer does: bytes, words, byte pairs."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizers import ANY, LINES, made

from charlstm import (
    BPETokenizer,
    ByteTokenizer,
    DataError,
    PretokenizedTokenizer,
    Tokenizer,
    UsageError,
    WordTokenizer,
)
from charlstm.data import coffee

# ---- bytes ----------------------------------------------------------------------------------


@given(st.binary())
def test_bytes_of_any_file(content: bytes) -> None:
    tokenizer = ByteTokenizer()
    text = content.decode("utf-8", tokenizer.decoding_errors)
    ids = tokenizer.encode(text)
    assert ids.tobytes() == content
    assert tokenizer.decode(ids) == text
    assert tokenizer.characters(ids) == len(text)
    decoder = tokenizer.decoder()
    shown = "".join(decoder.feed(ids[k : k + 1]) for k in range(len(ids))) + decoder.finish()
    assert shown == content.decode("utf-8", "replace")


@given(ANY)
def test_bytes_of_any_text(text: str) -> None:
    """What comes back has the same bytes; characters that have none are refused."""
    tokenizer = ByteTokenizer()
    if tokenizer.unknown(text):
        with pytest.raises(DataError, match=r"U\+D"):
            tokenizer.encode(text)
        assert "\ufffd" in tokenizer.decode(tokenizer.encode(text, "replace"))
        assert not tokenizer.unknown(tokenizer.decode(tokenizer.encode(text, "skip")))
    else:
        content = text.encode("utf-8", "surrogateescape")
        assert tokenizer.encode(text).tobytes() == content
        assert tokenizer.decode(tokenizer.encode(text)) == content.decode("utf-8", "surrogateescape")


# ---- words ----------------------------------------------------------------------------------


def test_rules_for_words() -> None:
    text = "It's \"EASY\": 3.5 (or more), isn't it?<br />Yes; <br/>no!\n\n \t\nend"
    tokenizer = made("words", text, min_count=1)
    expected = "it ' s easy 3 . 5 ( or more ) , isn ' t it ? yes no !"
    ids = tokenizer.encode(text)
    words = [*expected.split(), "<eos>", "<eos>", "<eos>", "end"]
    assert [tokenizer.vocabulary[k] for k in ids] == words
    assert tokenizer.decode(ids) == expected + "\n\n\nend"


def test_words_by_frequency() -> None:
    text = "b b b a a c c d\n<unk>"
    tokenizer = made("words", text)
    assert tokenizer.vocabulary == ("<unk>", "<eos>", "b", "a", "c")
    assert made("words", text, vocab_size=4).vocabulary == ("<unk>", "<eos>", "b", "a")
    assert made("words", text, min_count=3).vocabulary == ("<unk>", "<eos>", "b")
    assert tokenizer.encode("a d <unk>\n").tolist() == [3, 0, 0, 1]
    assert tokenizer.encode("a d <unk>\n", "skip").tolist() == [3, 0, 1]
    assert tokenizer.unknown("a d <unk>\n D") == Counter(d=2)
    with pytest.raises(DataError, match=r"occurs 9 times.*--min-count"):
        made("words", text, min_count=9)


def test_pretokenized_text_comes_back() -> None:
    text = "The <unk> F.C. @-@ s \n\n = x =\n"
    tokenizer = made("pretokenized", text)
    assert tokenizer.decode(tokenizer.encode(text)) == "The <unk> F.C. @-@ s\n\n= x =\n"
    assert tokenizer.encode("the F.C.\n").tolist() == [0, tokenizer.vocabulary.index("F.C."), 1]


def test_a_prompts_last_word_and_the_next_are_apart() -> None:
    tokenizer = made("words", "a b\n", min_count=1)
    ids = tokenizer.encode("a b\na")
    for prompt, expected in [("", "a b\na"), ("x", " a b\na"), ("x ", "a b\na"), ("x\n", "a b\na")]:
        decoder = tokenizer.decoder(prompt)
        assert "".join(decoder.feed([k]) for k in ids) + decoder.finish() == expected


def test_wikitext2(wikitext2: Path) -> None:
    """The numbers of tokens that everybody reports (Merity et al. 2016, arXiv 1609.07843)."""
    texts = {
        name: (wikitext2 / f"{name}.txt").read_text(encoding="utf-8") for name in ("train", "valid", "test")
    }
    tokenizer = made("pretokenized", texts["train"])
    assert len(tokenizer) == 33_278
    assert [len(tokenizer.encode(text)) for text in texts.values()] == [2_088_628, 217_646, 245_569]
    assert not any(tokenizer.unknown(text) for text in texts.values())


@pytest.mark.parametrize(
    "vocabulary",
    [
        [],
        ["a"],
        ["<eos>", "<unk>"],
        ["<unk>", "<eos>", "a", "a"],
        ["<unk>", "<eos>", ""],
        ["<unk>", "<eos>", 3],
        ["<unk>", "<eos>", "\ud83d\ude00"],  # JSON would make one character of them
    ],
)
def test_vocabularies_of_words_that_cannot_be(vocabulary: list[str]) -> None:
    for kind in (WordTokenizer, PretokenizedTokenizer):
        with pytest.raises(DataError):
            kind(vocabulary)


# ---- byte pairs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    pytest.importorskip("tokenizers")
    return made("bpe", vocab_size=400)


@given(text=st.text() | LINES)
@settings(max_examples=200, deadline=None)
def test_byte_pairs_of_any_text(bpe: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text


def test_byte_pairs(bpe: BPETokenizer) -> None:
    assert len(bpe) == 400
    text = coffee.text(5000, seed=3)
    assert len(bpe.encode(text)) < len(text) / 2
    again = made("bpe", vocab_size=400)
    assert again.hash == bpe.hash
    with pytest.raises(DataError, match=r"'\\ud800' \(U\+D800\) once"):
        bpe.encode("a\ud800")
    assert bpe.decode(bpe.encode("a\ud800b", "replace")) == "a\ufffdb"
    assert bpe.decode(bpe.encode("a\ud800b", "skip")) == "ab"
    with pytest.raises(DataError, match="surrogates"):
        made("bpe", "a\ud800 " * 50)


def test_merges_one_by_one(bpe: BPETokenizer) -> None:
    """Against the algorithm as its paper has it: again and again the first of the merges that applies."""
    from charlstm.data.bpe import SYMBOLS, WORD

    rank = {pair: k for k, pair in enumerate(bpe.merges)}
    expected = []
    text = coffee.text(2000, seed=5) + "  Ünïcödé\n"
    for word in WORD.findall(text):
        parts = [SYMBOLS[byte] for byte in word.encode()]
        while len(parts) > 1:
            first = min(pairwise(parts), key=lambda pair: rank.get(pair, len(rank)))
            if first not in rank:
                break
            merged, k = [], 0
            while k < len(parts):
                both = tuple(parts[k : k + 2]) == first
                merged.append(first[0] + first[1] if both else parts[k])
                k += 2 if both else 1
            parts = merged
        expected += [bpe.vocabulary.index(part) for part in parts]
    assert bpe.encode(text).tolist() == expected


def test_byte_pairs_that_cannot_be(bpe: BPETokenizer) -> None:
    for vocabulary, merges in [
        (bpe.vocabulary[1:], []),
        ((*bpe.vocabulary, bpe.vocabulary[0]), []),
        ((*bpe.vocabulary, "中"), []),
        ((*bpe.vocabulary, ""), []),
        (bpe.vocabulary, [("e", "no token")]),
    ]:
        with pytest.raises(DataError):
            BPETokenizer(vocabulary, merges)


def test_the_library_may_be_missing(bpe: BPETokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r'pip install "charlstm\[bpe\]"'):
        made("bpe")
    assert BPETokenizer(bpe.vocabulary, bpe.merges).decode([bpe.start_token]) == "\n"
