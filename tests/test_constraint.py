"""Regular expressions over tokens, against `re` on every short text."""

from __future__ import annotations

import itertools
import re
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlstm.config import DataConfig
from charlstm.data import (
    ASCIITokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    PretokenizedTokenizer,
    Tokenizer,
    WordTokenizer,
    make_tokenizer,
)
from charlstm.data.byte_level import ByteLevelTokenizer
from charlstm.errors import UsageError
from charlstm.generation import constraints as module
from charlstm.generation.constraints import Constraint, constraint
from charlstm.generation.expressions import automaton

AB = CharacterTokenizer("ab\n")
WORDS = WordTokenizer(["<unk>", "<eos>", "a", "ab", "."])
TEXT = "Grüße! 中文, 中国. 🙂🙂 the theme of them 12 123 ｆ K\n" * 9


def text_of(tokenizer: Tokenizer, prompt: str, tokens: list[int]) -> str:
    decoder = tokenizer.decoder(prompt)
    return decoder.feed(tokens) + decoder.finish()


def walk(found: Constraint, tokens: list[int]) -> int:
    """The state after tokens; -1 once they cannot match."""
    state = 0
    for token in tokens:
        state = int(found.next[state, token]) if state >= 0 else -1
    return state


def complete(found: Constraint, state: int) -> list[int]:
    """The fewest tokens from a state to a whole match."""
    tokens = []
    while not found.final[state]:
        row = found.next[state]
        nearer = (row >= 0) & (found.distance[row] == found.distance[state] - 1)
        tokens.append(int(np.flatnonzero(nearer)[0]))
        state = int(row[tokens[-1]])
    return tokens


def matching(pattern: str, tokenizer: Tokenizer, prompt: str) -> Constraint | None:
    """The constraint, or None where it says that no text matches."""
    try:
        return constraint(pattern, tokenizer, prompt)
    except UsageError as error:
        if "matches no text" not in str(error):
            raise
        return None


def is_text(tokenizer: Tokenizer, tokens: list[int]) -> bool:
    """Whether tokens are well-formed UTF-8, where they are bytes."""
    if not isinstance(tokenizer, ByteLevelTokenizer):
        return True
    spelled = tokenizer.token_bytes()
    try:
        b"".join(spelled[token] for token in tokens).decode()
    except UnicodeDecodeError:
        return False
    return True


def check(pattern: str, tokenizer: Tokenizer, prompt: str, length: int) -> None:
    """Every sequence of up to `length` tokens, all prefixes of matches among them."""
    every = [
        list(tokens)
        for n in range(length + 1)
        for tokens in itertools.product(range(len(tokenizer)), repeat=n)
    ]
    matches = [tokens for tokens in every if re.fullmatch(pattern, text_of(tokenizer, prompt, tokens))]
    found = matching(pattern, tokenizer, prompt)
    if found is None:
        assert not matches
        return
    assert found.next.dtype == found.distance.dtype == np.int32
    fewest: dict[tuple[int, ...], int] = {}  # tokens that lead from a prefix to a match
    for tokens in matches:
        for n in range(len(tokens) + 1):
            prefix = tuple(tokens[:n])
            fewest[prefix] = min(fewest.get(prefix, length), len(tokens) - n)
    for tokens in every:
        state = walk(found, tokens)
        if state < 0:
            assert tuple(tokens) not in fewest
            continue
        rest = complete(found, state)
        assert found.final[state] == (not rest) == (tokens in matches)
        assert found.distance[state] == len(rest)
        assert re.fullmatch(pattern, text_of(tokenizer, prompt, [*tokens, *rest]))
        if len(tokens) + len(rest) <= length:
            assert fewest[tuple(tokens)] == len(rest)


leaves = st.sampled_from(
    [
        "a",
        "b",
        r"\n",
        ".",
        "[ab]",
        "[^a]",
        r"\w",
        r"\s",
        "(?s:.)",
        "(?i:B)",
        "(?i:[^B])",
        "",
        "[^ab]",
        "c",
        "^",
        "$",
        r"\A",
        r"\Z",
    ]
)
patterns = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds(
            "({}){}".format, inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{2,}"])
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(patterns)
@example(r"a$\n")
@example(r"(a$)?\n$")
@example(r"(?:|a)+b")
@example("")
def test_texts_of_characters(pattern: str) -> None:
    check(pattern, AB, "", 4)


@pytest.mark.parametrize("prompt", ["", "a", "a\n", "a "])
@pytest.mark.parametrize(
    "pattern",
    [" ?a( ab)*", r"a ab|\n\n", r" a\n(ab .|<unk>)", r"(.|\n)*b", r"a b", "a", r"\s*", r"( |\n)?[^ ]+\n?"],
)
@pytest.mark.parametrize("tokenizer", [WORDS, PretokenizedTokenizer(WORDS.vocabulary)], ids=["words", "pre"])
def test_texts_of_words(tokenizer: Tokenizer, pattern: str, prompt: str) -> None:
    check(pattern, tokenizer, prompt, 3)


def test_an_error_names_the_space_after_a_prompt() -> None:
    with pytest.raises(UsageError, match="begins with a space"):
        constraint("a ab", WORDS, "a")


@pytest.fixture(scope="module", params=["characters", "bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bpe":
        pytest.importorskip("tokenizers")
    size = 290 if request.param == "bpe" else None
    return make_tokenizer(DataConfig(tokenizer=request.param, vocab_size=size), [TEXT])


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+( \w+)*", r"[中文国]{2,3}[.,]?", "(?i)(the|k|ﬀ)+", "[^a-z]+", "🙂*|ü.", r"(?s).{1,3}", r"\d+|ß",
        r"(?a:\w)+é?", r"(?x) t h  [em]* # a comment",
    ],
)  # fmt: skip
def test_walks_over_any_tokens(tokenizer: Tokenizer, pattern: str) -> None:
    found, rng = constraint(pattern, tokenizer), np.random.default_rng(0)
    for _ in range(30):
        tokens: list[int] = []
        for _ in range(int(rng.integers(8))):
            onward = np.flatnonzero(found.next[walk(found, tokens)] >= 0)
            tokens.extend(rng.choice(onward, 1).tolist() if len(onward) else [])
        state = walk(found, tokens)
        matches = re.fullmatch(pattern, text_of(tokenizer, "", tokens)) is not None
        assert found.final[state] == (matches and is_text(tokenizer, tokens))
        rest = complete(found, state)
        whole = text_of(tokenizer, "", [*tokens, *rest])
        assert re.fullmatch(pattern, whole)
        assert is_text(tokenizer, [*tokens, *rest])
        assert found.final[walk(found, tokenizer.encode(whole).tolist())]


@pytest.mark.parametrize("pattern", [r"\w{1,3}", "(?i)[a-k]*", r"[^\w]+", "."])
def test_no_match_is_left_out(pattern: str) -> None:
    """Of bytes: every character, and every kind of bytes that are none."""
    found = constraint(pattern, ByteTokenizer())
    points = [
        *range(0x300),
        *np.random.default_rng(0).integers(0x300, 0x110000, 500).tolist(),
        0xFFFF,
        0x10FFFF,
    ]
    for character in map(chr, [*points, 0x800, 0x7FF, 0xD7FF, 0xE000, 0x212A]):
        spelled = character.encode("utf-8", "surrogatepass")
        state = walk(found, list(spelled))
        matches = re.fullmatch(pattern, character) is not None and not "\ud800" <= character <= "\udfff"
        assert (state >= 0 and bool(found.final[state])) == matches
    for wrong in (b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf",
                  b"\xf4\x90\x80\x80", b"\xff", b"\xc3a", b"\xe4\xb8a"):  # fmt: skip
        assert walk(found, list(wrong)) < 0


@pytest.mark.parametrize(
    "leaf",
    [
        r"\w", r"\D", r"\s", "(?i)k", "(?i)[^k]", r"(?i)[a-k\d]", "(?i)ß", ".", "(?s).", r"(?a)\W", r"[^\W\d_]",
        r"[\D\S]", "]",
    ],
)  # fmt: skip
def test_characters_are_those_of_re(leaf: str) -> None:
    states = automaton(leaf)
    points = np.unique([*range(0x250), 0x1E9E, 0x212A, 0xFB00, *range(0, 0x110000, 257)])
    after = states.next[0, states.classes_of(points)]
    expected = [re.fullmatch(leaf, chr(point)) is not None for point in points.tolist()]
    assert ((after >= 0) & states.final[after]).tolist() == expected


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a(b", "unterminated subpattern at character 2"),
        ("a**", "multiple repeat at character 3"),
        ("[z-a]", "bad character range z-a at character 2"),
        ("a{99999999999}", "cannot be read"),
        (r"(a)\1", "backreference"),
        (r"(?P<n>a)(?P=n)", "backreference"),
        ("(a)?(?(1)b|c)", "condition"),
        ("a(?=b)", "lookahead"),
        ("(?<!a)b", "negative lookahead or lookbehind"),
        ("(?>a)", "atomic"),
        ("a++", "possessive"),
        (r"\ba", "word boundary"),
        ("(?m)a$", "flag m"),
        ("(" * 5000 + ")" * 5000, "nested too deeply"),
        (r"a\Za", "matches no text at all"),
        (r"[^\s\S]", "matches no text at all"),
        ("c+", "vocabulary of 3 characters can write"),
    ],
)
def test_expressions_that_cannot_be_used(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        constraint(pattern, AB)


@pytest.mark.parametrize(
    "pattern",
    [
        "".join(f"[{chr(c)}-{chr(2 * c)}]" for c in range(100, 1200)),
        "(a|b)*a(a|b){20}",
        "((a{0,100}){0,100}){0,100}",
        "a{30000}",
        "(a?){4000}a{4000}",
        "(a{2}){999999}",
    ],
)
def test_what_is_too_large_is_refused_soon(pattern: str) -> None:
    before = time.process_time()
    with pytest.raises(UsageError, match="too large"):
        constraint(pattern, AB)
    assert time.process_time() - before < 30  # at most about two seconds, on a quiet machine


def test_large_counts_over_bytes_are_refused() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        constraint(r"\w{2000}", ByteTokenizer())


def test_a_large_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 1000)
    for tokenizer in (
        ASCIITokenizer(),
        ByteTokenizer(),
        WordTokenizer(["<unk>", "<eos>", *map(str, range(99))]),
    ):
        with pytest.raises(UsageError, match="table of more than"):
            constraint("(1|2){20}", tokenizer)


def test_what_looks_exponential_and_is_not() -> None:
    found = constraint("(a?){150}a{150}", AB)
    assert found.distance[0] == 150
    assert found.final.sum() == 151
    assert constraint("(a*)*b", AB).next.shape == (2, 3)
    assert constraint("(?:){1000000000}", AB).final.tolist() == [True]


def test_states_from_which_the_vocabulary_cannot_match_are_trimmed() -> None:
    found = constraint("ac|ab|bc", AB)
    assert found.next.tolist() == [[1, -1, -1], [-1, 2, -1], [-1, -1, -1]]
    assert found.distance.tolist() == [2, 1, 0]
