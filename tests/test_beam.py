"""Beam search, against all texts there are."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from charlstm import LanguageModel
from charlstm.backends import Ops
from charlstm.data import ByteTokenizer, CharacterTokenizer, Tokenizer, WordTokenizer
from charlstm.errors import DataError, DivergedError, UsageError
from charlstm.generation.beam import Hypothesis, beam_search
from charlstm.generation.constraints import constraint

CHARACTERS = CharacterTokenizer("abc")
WORDS = WordTokenizer(["<unk>", "<eos>", "a"])


def sharp(model: LanguageModel, factor: float = 4.0) -> LanguageModel:
    """With logits that differ enough for a search to matter."""
    for name in model.parameters:
        model.parameters[name][...] *= factor
    return model


def make(ops: Ops | str = "numpy", V: int = 3, seed: int = 0) -> LanguageModel:
    return sharp(LanguageModel(V, hidden_size=5, num_layers=2, dtype="float64", backend=ops, seed=seed))


def log_probabilities(model: LanguageModel, ids: np.ndarray, texts: list[tuple[int, ...]]) -> np.ndarray:
    """Of texts of the same number of tokens after those of a prompt, by reading both at once."""
    read = np.array([[*ids, *tokens] for tokens in texts], dtype=np.int64).T
    logits = model.ops.to_numpy(model.forward(read)[0])[len(ids) - 1 : -1]
    logarithms = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    return np.take_along_axis(logarithms, read[len(ids) :, :, np.newaxis], axis=2).sum(axis=(0, 2))


def exhaustive(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    length: int,
    penalty: float,
    stop: str | None = None,
    pattern: str | None = None,
) -> list[Hypothesis]:
    """Every text, scored; those that a stop string or the pattern ends earlier in their place.

    To end a match that could go on takes a token that does not go on.
    """

    def text_of(tokens: tuple[int, ...]) -> str:
        decoder = tokenizer.decoder(prompt)
        return decoder.feed(list(tokens)) + decoder.finish()

    every = [
        tokens for n in range(length + 1) for tokens in itertools.product(range(len(tokenizer)), repeat=n)
    ]
    stopped = {tokens for tokens in every if stop is not None and stop in text_of(tokens)}
    matched = {tokens for tokens in every if pattern is None or re.fullmatch(pattern, text_of(tokens))}
    open_texts = {
        tokens[:n] for tokens in matched for n in range(len(tokens))
    }  # some match goes on from here
    onward = matched | open_texts
    found = []
    ids = tokenizer.encode(prompt) if prompt else np.array([tokenizer.start_token])
    log_p_of: dict[tuple[int, ...], float] = {}
    for n in range(1, length + 1):
        texts = [tokens for tokens in every if len(tokens) == n]
        log_p_of.update(zip(texts, log_probabilities(model, ids, texts).tolist(), strict=True))
    log_p_of[()] = 0.0
    for tokens in every:
        if any(tokens[:n] in stopped for n in range(len(tokens))):
            continue
        if tokens in stopped and (tokens in matched or tokens in open_texts):
            text, finished = text_of(tokens)[: text_of(tokens).find(stop or "")], True
            log_p = log_p_of[tokens]
        elif tokens in matched and (pattern or len(tokens) == length):
            text, finished = text_of(tokens), pattern is not None
            log_p = log_p_of[tokens]
            if tokens in open_texts:
                left = [(*tokens, v) for v in range(len(tokenizer)) if (*tokens, v) not in onward]
                if not left:
                    continue
                log_p = float(np.log(np.exp([log_p_of[longer] for longer in left]).sum()))
        else:
            continue
        found.append(Hypothesis(text, log_p, log_p / ((5 + len(tokens)) / 6) ** penalty, finished))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "stop", "pattern", "penalty"),
    [
        (CHARACTERS, "abca", None, None, 0.7),
        (CHARACTERS, "", "ba", None, 0.0),
        (CHARACTERS, "", "ba", None, 3.0),
        (CHARACTERS, "c", None, "(ab|ca|b)*c?", 0.7),
        (CHARACTERS, "c", "bb", "a?b+(c|a)*", 0.7),
        (WORDS, "a", "> a", None, 1.0),
        (WORDS, "a a", None, "( a|\n)*(<unk> a)?", 0.2),
    ],
)
def test_with_many_beams_it_is_exhaustive_search(
    ops: Ops, tokenizer: Tokenizer, prompt: str, stop: str | None, pattern: str | None, penalty: float
) -> None:
    model, length = make(ops), 4
    expected = exhaustive(model, tokenizer, prompt, length, penalty, stop, pattern)
    found = beam_search(
        model, tokenizer, prompt, beams=150, length=length, length_penalty=penalty,
        stop=() if stop is None else [stop],
        constraint=None if pattern is None else constraint(pattern, tokenizer, prompt),
    )  # fmt: skip
    assert [(h.text, h.finished) for h in found] == [(h.text, h.finished) for h in expected]
    np.testing.assert_allclose([h[1:3] for h in found], [h[1:3] for h in expected], rtol=1e-10)
    if not stop and not pattern:
        assert len(found) == 81
        assert np.exp([h.log_probability for h in found]).sum() == pytest.approx(1)


def plain(model: LanguageModel, tokenizer: Tokenizer, prompt: str, beams: int, length: int) -> list[str]:
    """Beam search without state: every beginning is read from the start."""
    ids, live = tokenizer.encode(prompt), [()]
    for _ in range(length):
        longer = [(*tokens, v) for tokens in live for v in range(len(tokenizer))]
        order = np.argsort(-log_probabilities(model, ids, longer), kind="stable")
        live = [longer[k] for k in order[:beams]]
    return [tokenizer.decode(list(tokens)) for tokens in live]


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_a_few_beams(ops: Ops, beams: int) -> None:
    tokenizer = CharacterTokenizer("abcdefg")
    model = make(ops, 7)
    found = beam_search(model, tokenizer, "bad", beams=beams, length=8, length_penalty=1.0)
    assert [h.text for h in found] == plain(model, tokenizer, "bad", beams, 8)
    assert not any(h.finished for h in found)


def test_one_beam_takes_the_most_probable_token() -> None:
    model = make(V=3)
    text = ""
    for _ in range(12):
        logits, _ = model.forward(CHARACTERS.encode("a" + text)[:, np.newaxis])
        text += "abc"[int(np.argmax(logits[-1, 0]))]
    (found,) = beam_search(model, CHARACTERS, "a", beams=1, length=12, length_penalty=0.0)
    assert found.text == text


def test_more_beams_find_what_one_beam_misses() -> None:
    gains = []
    for seed in range(8):
        model = make(V=3, seed=seed)
        scores = [
            beam_search(model, CHARACTERS, "a", beams=b, length=6, length_penalty=0.0)[0].score
            for b in (1, 729)
        ]
        gains.append(scores[1] - scores[0])
    assert min(gains) >= 0
    assert max(gains) > 0.01


def test_ties_go_to_the_smaller_token(ops: Ops) -> None:
    model = make(ops)
    for name in model.parameters:
        model.parameters[name][...] = 0
    found = beam_search(model, CHARACTERS, "a", beams=4, length=3, length_penalty=0.6)
    assert [h.text for h in found] == ["aaa", "aab", "aac", "aba"]


def test_length_penalty_prefers_longer_texts() -> None:
    model, pattern = make(V=3), constraint("a|b(a|b|c){5}", CHARACTERS)

    def best(penalty: float) -> str:
        found = beam_search(
            model, CHARACTERS, "b", beams=8, length=6, length_penalty=penalty, constraint=pattern
        )
        return found[0].text

    assert len(best(0.0)) == 1
    assert len(best(20.0)) == 6


def test_it_stops_early_where_nothing_can_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(V=3)
    steps, step = [], model.ops.stack_step
    monkeypatch.setattr(model.ops, "stack_step", lambda *args: steps.append(1) or step(*args))
    found = beam_search(model, CHARACTERS, "b", beams=2, length=500, length_penalty=0.0, stop=["a", "b", "c"])
    assert [h.text for h in found] == ["", ""]
    assert len(steps) < 5


def test_to_end_where_one_could_go_on_has_a_probability() -> None:
    model = make(V=3)
    found = beam_search(
        model, CHARACTERS, "b", beams=9, length=5, length_penalty=0.0, constraint=constraint("a*", CHARACTERS)
    )
    logits, _ = model.forward(CHARACTERS.encode("b")[:, np.newaxis])
    posterior = model.ops.softmax(logits[-1])[0]
    of_text = {h.text: h.log_probability for h in found}
    assert of_text.keys() == {"a" * n for n in range(6)}
    assert of_text[""] == pytest.approx(np.log(posterior[1] + posterior[2]))
    assert np.exp(list(of_text.values())).sum() == pytest.approx(1)


def test_bytes_of_a_character_come_together() -> None:
    model = make(V=256)
    found = beam_search(
        model, ByteTokenizer(), "é", beams=3, length=4, length_penalty=0.0,
        constraint=constraint("[à-ÿ]{2}|中", ByteTokenizer()),
    )  # fmt: skip
    assert all(re.fullmatch("[à-ÿ]{2}|中", h.text) for h in found)
    assert len({h.text for h in found}) == 3


def test_what_the_constraint_leaves() -> None:
    model = make(V=3)
    keywords = {"beams": 2, "length": 3, "length_penalty": 0.6}
    assert beam_search(model, CHARACTERS, "a", constraint=constraint("", CHARACTERS), **keywords) == [
        Hypothesis("", 0.0, 0.0, True)
    ]
    (only,) = beam_search(
        model, CHARACTERS, "a", constraint=constraint("abc?", CHARACTERS), **keywords | {"length": 2}
    )
    assert (only.text, only.finished) == ("ab", True)
    with pytest.raises(UsageError, match=r"takes 4 tokens or more.*--length"):
        beam_search(model, CHARACTERS, "a", constraint=constraint("a{4}", CHARACTERS), **keywords)


@pytest.mark.parametrize(
    "wrong",
    [{"beams": 0}, {"length": 0}, {"length_penalty": -0.1}, {"length_penalty": float("nan")}, {"stop": [""]}],
)
def test_bad_values(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        beam_search(make(), CHARACTERS, "a", **({"beams": 2, "length": 3, "length_penalty": 0.6} | wrong))


def test_a_prompt_or_weights_that_cannot_be_used() -> None:
    model = make()
    with pytest.raises(DataError, match="not in the vocabulary"):
        beam_search(model, CHARACTERS, "x", beams=1, length=1, length_penalty=0.0)
    model.parameters["head.bias"][...] = np.nan
    with pytest.raises(DivergedError):
        beam_search(model, CHARACTERS, "a", beams=1, length=1, length_penalty=0.0)
