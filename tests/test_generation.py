"""Drawing text."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_ops

import charlstm
from charlstm import CharacterTokenizer, DataError, SamplingConfig
from charlstm.backends import Ops
from charlstm.generation import generate, generate_many
from charlstm.generation.reading import CHUNK
from charlstm.generation.streams import DRAWN_AT_ONCE
from charlstm.model import LanguageModel


def test_the_same_seed_gives_the_same_text(small_run: charlstm.Run) -> None:
    text = small_run.generate("The ", length=80, seed=3)
    assert text.startswith("The ")
    assert len(text) == 84
    assert small_run.generate("The ", length=80, seed=3) == text
    assert small_run.generate("The ", length=80, seed=4) != text
    assert small_run.generate("The ", length=70, seed=3) == text[:74]
    assert DRAWN_AT_ONCE < 70


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
    ids = rng.integers(0, 5, 2 * CHUNK + 100)
    logits, _ = model.forward(ids[:, np.newaxis])
    first = next(generate(model, tokenizer, tokenizer.decode(ids), SamplingConfig(1, temperature=0)))
    assert first == tokenizer.decode([int(np.argmax(logits[-1, 0]))])


def test_streams_side_by_side_draw_what_each_alone_would(small_run: charlstm.Run, ops: Ops) -> None:
    run = charlstm.load(small_run.directory, ops)
    prompts = ["The ", "", "A", "coffee"]
    texts = run.generate_many(prompts, length=50, seed=4)
    assert [len(text) for text in texts] == [len(prompt) + 50 for prompt in prompts]
    assert texts[0] == run.generate("The ", length=50, seed=4)
    assert run.generate_many(prompts[:3], length=50, seed=4) == texts[:3]
    assert run.generate_many(["A", "A"], length=50)[0] != run.generate_many(["A", "A"], length=50)[1]
    assert run.generate_many([]) == []


def test_logits_that_are_not_finite(ops: Ops) -> None:
    model = LanguageModel(2, 3, 1, backend=ops)
    model.parameters["head.bias"][...] = float("nan")
    with pytest.raises(charlstm.DivergedError, match="not finite"):
        list(generate(model, CharacterTokenizer("ab"), "a"))


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


def certain(tokenizer: charlstm.Tokenizer, order: list[int]) -> LanguageModel:
    """A model that goes through tokens in a circle: each is the only one that may follow the one before."""
    V = len(tokenizer)
    model = LanguageModel(V, V, 1, backend="numpy", dtype="float64")
    p = model.parameters
    p.flat[...] = 0
    p["cifg.0.b"][...] = 40  # the gates are open: the state is that of the last token alone
    p["cifg.0.b"][2 * V :] = -40
    p["cifg.0.W"][np.arange(V), 2 * V + np.arange(V)] = 80
    p["head.weight"][order, np.roll(order, -1)] = 100
    return model


def test_bytes_come_when_a_character_is_complete() -> None:
    tokenizer = charlstm.ByteTokenizer()
    model = certain(tokenizer, list("é😀".encode()))
    pieces = list(generate(model, tokenizer, "é", SamplingConfig(4, temperature=0)))
    assert pieces == ["😀"]
    assert "".join(generate(model, tokenizer, "é", SamplingConfig(5, temperature=0))) == "😀\ufffd"
    assert "".join(generate(model, tokenizer, "é", SamplingConfig(600, temperature=0))) == "😀é" * 100
    broken = certain(tokenizer, [0xFF, 0xC3, 0x41])
    text = "".join(generate(broken, tokenizer, "A", SamplingConfig(6, temperature=0)))
    assert text == "\ufffd\ufffdA\ufffd\ufffdA"


def test_words_are_joined_by_spaces() -> None:
    tokenizer = charlstm.WordTokenizer(["<unk>", "<eos>", "romeo", "sleeps", "."])
    model = certain(tokenizer, [1, 2, 3, 4])
    sampling = SamplingConfig(70, temperature=0)  # more than are drawn at once
    for prompt, expected in [
        ("", "romeo sleeps .\nromeo sleeps .\n"),
        ("Romeo", " sleeps .\nromeo"),
        ("sleeps ", ".\nromeo"),
        ("\n", "romeo sleeps"),
    ]:
        assert "".join(generate(model, tokenizer, prompt, sampling)).startswith(expected)
    many = zip(*generate_many(model, tokenizer, ["Romeo", "\n"], sampling), strict=True)
    alone = ["".join(generate(model, tokenizer, prompt, sampling)) for prompt in ("Romeo", "\n")]
    assert ["".join(parts) for parts in many] == alone


def test_unknown_words_of_a_prompt_are_known_as_such() -> None:
    tokenizer = charlstm.WordTokenizer(["<unk>", "<eos>", "b", "c"])
    model = certain(tokenizer, [0, 2, 3, 1])
    assert "".join(generate(model, tokenizer, "Xyzzy", SamplingConfig(2, temperature=0))) == " b c"


# ---- seeds, ends, and what the model thought -----------------------------------------------------


def test_a_sample_is_the_same_alone_and_in_a_batch(small_run: charlstm.Run, ops: Ops) -> None:
    run = charlstm.load(small_run.directory, ops)
    options = {
        "length": 90, "temperature": "1.2:0.5", "top_k": 12, "top_p": 0.95, "typical": 0.9, "min_p": 0.01,
        "repetition_penalty": 1.2, "no_repeat_ngram": 5, "repetition_window": 30, "logit_bias": {"e": 1.0},
        "redraw": True,
    }  # fmt: skip
    texts = run.generate_many(["The "] * 5, seed=3, **options)
    assert len(set(texts)) == 5
    for k, text in enumerate(texts):
        assert run.generate("The ", seed=3 + k, **options) == text


def test_stop_strings(small_run: charlstm.Run) -> None:
    whole = small_run.generate("The ", length=200, seed=2)[4:]
    (done,) = small_run.complete(["The "], length=200, seed=2, stop=("e", whole[30:33]))
    assert done.text == whole[: min(whole.find("e"), whole.find(whole[30:33]))]
    assert done.finish_reason == "stop"
    assert "".join(token.text for token in done.tokens).startswith(done.text)
    (never,) = small_run.complete(["The "], length=20, seed=2, stop=("\x00", "x" * 1000))
    assert (never.text, never.finish_reason) == (whole[:20], "length")


def test_streams_that_end_leave_the_others_alone(small_run: charlstm.Run, ops: Ops) -> None:
    run = charlstm.load(small_run.directory, ops)
    whole = run.generate_many(["A", "The ", "B"], length=150, seed=5)
    stopped = run.generate_many(["A", "The ", "B"], length=150, seed=5, stop=(whole[0][20:24],))
    for text, cut in zip(whole, stopped, strict=True):
        assert text.startswith(cut)
    assert len(stopped[0]) < len(whole[0])


def test_what_the_model_thought_of_its_draws(small_run: charlstm.Run, ops: Ops) -> None:
    """Log-probabilities and entropies against a forward pass over the whole text."""
    run = charlstm.load(small_run.directory, ops)
    (done,) = run.complete(["The "], length=70, alternatives=3, temperature=0.5, logit_bias={"e": 2.0})
    ids = run.tokenizer.encode("The " + done.text)
    posterior, _ = run.model.posterior(ids[:-1, np.newaxis])
    rows = run.model.ops.to_numpy(posterior)[3:, 0]
    assert len(done.tokens) == 70
    for token, row, wanted in zip(done.tokens, rows, ids[4:], strict=True):
        assert token.id == wanted
        assert token.text == run.tokenizer.decode([wanted])
        assert token.log_probability == pytest.approx(np.log(row[wanted]), abs=1e-6)
        assert token.entropy == pytest.approx(-np.sum(row * np.log(row)), abs=1e-6)
        assert [v for v, _ in token.alternatives] == np.argsort(-row, kind="stable")[:3].tolist()


def test_temperatures_go_with_the_tokens(small_run: charlstm.Run) -> None:
    greedy = small_run.generate("The ", length=150, temperature=0)
    assert small_run.generate("The ", length=150, temperature="0,0.0") == greedy
    assert small_run.generate("The ", length=150, temperature="0:0") == greedy
    turns = small_run.complete(["The "], length=150, temperature="3,0", alternatives=1)[0].tokens
    assert all(token.id == token.alternatives[0][0] for token in turns[1::2])
    assert any(token.id != token.alternatives[0][0] for token in turns[::2])
    falling = small_run.complete(["The "], length=150, temperature="3:0", alternatives=1)[0].tokens
    wrong = [token.id != token.alternatives[0][0] for token in falling]
    assert sum(wrong[:50]) > sum(wrong[100:])
    assert not wrong[-1]


def test_biases_and_repetitions(small_run: charlstm.Run) -> None:
    plain = small_run.generate(length=300)
    assert "e" in plain
    assert "e" not in small_run.generate(length=300, logit_bias={"e": -np.inf})
    text = small_run.generate(length=300, no_repeat_ngram=3, repetition_window=300)
    triples = [text[k : k + 3] for k in range(298)]
    assert len(set(triples)) == len(triples)
    prompted = small_run.generate("The the", length=100, no_repeat_ngram=2, repetition_window=100)
    assert not {"Th", "he", "e ", " t", "th"} & {prompted[k : k + 2] for k in range(6, 106)}
    for wrong in (
        {"ab": 1.0},
        {"é": 1.0},
        {"eé": 1.0},
        dict.fromkeys(small_run.tokenizer.vocabulary, -np.inf),
    ):
        with pytest.raises(charlstm.UsageError, match="logit_bias"):
            small_run.generate(logit_bias=wrong)


def test_one_token_at_a_time_is_as_many(small_run: charlstm.Run) -> None:
    """Draws do not depend on how many are made at once, and streams may join while others go on."""
    from charlstm.generation import Batch, Stream

    sampling = SamplingConfig(40, redraw=True, repetition_penalty=1.3, temperature="0.9:0.3")
    first, second = (Stream(small_run.tokenizer, "The ", sampling, seed=seed) for seed in (1, 2))
    batch, texts = Batch(small_run.model), {first: "", second: ""}
    batch.add([first])
    for count in range(1000):
        if count == 7:
            batch.add([second])
        for stream, text in batch.advance(1 + count % 3).items():
            texts[stream] += text
        if not batch.streams:
            break
    assert first.finish_reason == second.finish_reason == "length"
    for seed, text in zip((1, 2), texts.values(), strict=True):
        options = {"length": 40, "redraw": True, "repetition_penalty": 1.3, "temperature": "0.9:0.3"}
        assert "The " + text == small_run.generate("The ", seed=seed, **options)
