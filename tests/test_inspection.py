"""Looking inside: what is read from a model, which cells go with what, and the page that shows it."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_fails, charlstm_command
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import HOSTILE, Page

import charlstm
from charlstm import DataConfig, DataError, DivergedError, LanguageModel, UsageError
from charlstm.backends import Ops
from charlstm.data import read_beginning
from charlstm.evaluation import evaluate
from charlstm.inspection import Cell, Reading, correlations, read, search
from charlstm.inspection.page import inspection_page, label, quantised, visible
from charlstm.inspection.properties import of_tokens, properties

TEXT = 'He said: "Go on (if you\ndare)", and 12 went.\n\n  Naïve "café\n\nEnd of it\n' * 4


def made(kind: str, text: str = TEXT, backend: str | Ops = "numpy") -> tuple[LanguageModel, Any]:
    tokenizer = charlstm.make_tokenizer(DataConfig(tokenizer=kind), [text])  # type: ignore[arg-type]
    return LanguageModel(len(tokenizer), 6, 2, backend=backend, dtype="float64", seed=3), tokenizer


def test_a_reading_is_that_of_single_steps(ops: Ops, rng: np.random.Generator) -> None:
    """Surprise, alternatives and states against `stack_step`, token by token, over several chunks."""
    model, tokenizer = made("characters", backend=ops)
    tokens = rng.integers(0, len(tokenizer), 300)
    reading = read(model, tokenizer, tokens, alternatives=3)
    weights, (h, c) = model.step_weights(), model.zero_state(1)
    for n, token in enumerate([tokenizer.start_token, *tokens.tolist()]):
        logits, h, c = ops.stack_step(weights, ops.asarray(np.array([token])), h, c)
        if n:
            np.testing.assert_allclose(reading.h[n - 1], ops.to_numpy(h)[:, 0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(reading.c[n - 1], ops.to_numpy(c)[:, 0], rtol=0, atol=1e-12)
        if n < 300:
            p = np.exp(ops.to_numpy(logits)[0])
            p /= p.sum()
            assert reading.surprise[n] == pytest.approx(-math.log2(p[tokens[n]]), abs=1e-9)
            assert reading.entropy[n] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-9)
            assert reading.alternatives[n].tolist() == np.argsort(-p)[:3].tolist()
            np.testing.assert_allclose(reading.probabilities[n], np.sort(p)[::-1][:3], atol=1e-12)


def test_the_mean_surprise_is_what_evaluation_gives(small_run: charlstm.Run) -> None:
    reading = small_run.inspect(length=500)
    tokens = np.concatenate(([small_run.tokenizer.start_token], reading.tokens))
    assert small_run.tokenizer.decode(reading.tokens) == reading.text
    loss = evaluate(small_run.model, tokens, streams=1).loss
    assert reading.bits_per_token == pytest.approx(loss / math.log(2), rel=1e-9)
    assert small_run.inspect(reading.text, length=20).surprise == pytest.approx(reading.surprise[:20])


@pytest.mark.parametrize("kind", ["characters", "bytes", "words", "bpe"])
def test_texts_of_tokens_join_to_the_text(kind: str) -> None:
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    model, tokenizer = made(kind)
    tokens = tokenizer.encode(TEXT)[:-1]
    reading = read(model, tokenizer, tokens)
    assert reading.text == tokenizer.decode(tokens)
    assert len(reading.texts) == len(tokens)
    assert all(values.shape == tokens.shape for values in of_tokens(reading.texts).values())
    assert search(reading).found


def test_tokens_that_are_parts_of_characters() -> None:
    model, tokenizer = made("bytes")
    tokens = np.frombuffer("é\xff€".encode() + b"\xff\xe2\x82", np.uint8)
    reading = read(model, tokenizer, tokens)
    assert reading.texts == ["", "é", "", "ÿ", "", "", "€", "\ufffd", "", "\ufffd"]
    assert [tokenizer.name_of(token) for token in (0xC3, ord("a"))] == ["<C3>", "a"]


def test_what_cannot_be_read(small_run: charlstm.Run) -> None:
    with pytest.raises(UsageError, match="length must be 2 to"):
        small_run.inspect(length=1)
    with pytest.raises(UsageError, match="length must be 2 to"):
        small_run.inspect(length=20_001)
    with pytest.raises(DataError, match="at least two characters"):
        small_run.inspect("a")
    with pytest.raises(DataError, match="not in the vocabulary"):
        small_run.inspect("naïve")
    assert small_run.inspect("naïve", on_unknown="skip").text == "nave"
    model, tokenizer = made("characters")
    model.parameters["head.bias"][0] = math.inf
    with pytest.raises(DivergedError):
        read(model, tokenizer, np.array([1, 2]))


# ---- properties and correlations ----------------------------------------------------------------


def marked(name: str, text: str) -> str:
    """Where a property holds, as a line of signs below the text."""
    return "".join("^" if value else "." for value in properties(text)[name])


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("inside quotes", 'a "b" c', "..^^..."),
        ("inside quotes", "a “b” «c»", "..^^..^^."),
        ("inside quotes", 'a "b\nc\n\nd', "..^^^^^.."),  # an empty line closes
        ("inside brackets", "f([a]{b) c", ".^^^^^^..."),  # ) closes the {
        ("inside brackets", ":) a)", "....."),
        ("line end", "a\nb\n", ".^.^"),
        ("first of a line", "ab\n c\n\nd", "^..^...^"),
        ("upper case", "aBÉ1", ".^^."),
        ("vowel", "baYé É", ".^.^.^"),
        ("digit", "a1٣", ".^^"),
        ("punctuation", "a,b+_", ".^.^^"),
        ("space", "a b\tc\n", ".^.^.."),
        ("first of a word", "ab c1 d", "^..^..^"),
        ("inside a word", "abc de", "^^..^."),
        ("last of a word", "abc de", "..^..^"),
        ("last of a word", "e\u0301 x", ".^.^"),  # what combines belongs to it
    ],
)
def test_properties_that_hold_or_not(name: str, text: str, where: str) -> None:
    assert marked(name, text) == where


def test_properties_that_are_numbers() -> None:
    found = properties("ab\n\t c d\n x")
    assert found["length of the line so far"].tolist() == [1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert found["indentation"].tolist() == [0, 0, 0, 4, 5, 5, 5, 5, 0, 1, 1]
    assert found["length of the word so far"].tolist() == [1, 2, 0, 0, 0, 1, 0, 1, 0, 0, 1]


def test_a_token_has_the_properties_of_its_last_character() -> None:
    found = of_tokens(["", "He", " 1", "", "\n"])
    assert found["upper case"].tolist() == [1, 0, 0, 0, 0]  # the first one: of the character to come
    assert found["digit"].tolist() == [0, 0, 1, 1, 0]
    assert found["length of the line so far"].tolist() == [1, 2, 4, 4, 0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(2, 40),
    st.sampled_from([1e-200, 1e-3, 1.0, 1e150]),
    st.floats(-1e3, 1e3),
)
def test_correlations_are_those_of_numpy(seed: int, N: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((N, 4)) + shift) * scale
    y = np.stack([np.arange(N) % 2, np.arange(N), rng.standard_normal(N)], axis=1).astype(np.float64)
    largest = np.abs(x).max()  # NumPy's own has squares that vanish or overflow
    expected = np.corrcoef(x / largest, y, rowvar=False)[:4, 4:]
    np.testing.assert_allclose(correlations(x, y), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(correlations(x[:, :1], x[:, :1]), 1.0)


def test_what_does_not_change_goes_with_nothing() -> None:
    x = np.array([[1.0, 0.1, 3.0], [2.0, 0.1, 3.0], [4.0, 0.1, 3.0]], np.float32)
    found = correlations(x, np.array([[0.0, 7.0], [1.0, 7.0], [1.0, 7.0]]))
    assert np.isnan(found).tolist() == [[False, True], [True, True], [True, True]]


def of_states(texts: list[str], c: np.ndarray) -> Reading:
    """A reading with states of one's own."""
    N, (_, L, H) = len(texts), c.shape
    likely, none = np.zeros((N, 1), np.int64), np.zeros(N)
    return Reading(np.zeros(N, np.int64), texts, none, none, likely, np.ones((N, 1)), np.zeros((N, L, H)), c)


def test_the_search_finds_the_cell_and_says_what_stays(rng: np.random.Generator) -> None:
    texts = list("Ab cD 'e' F gh I. " * 20)
    c = 0.3 * rng.standard_normal((len(texts), 2, 5))
    upper = of_tokens(texts)["upper case"]
    half = len(texts) // 2
    c[:, 1, 3] -= 2 * upper
    c[:half, 0, 2] += 1.5 * upper[:half]  # on the first half only
    found = search(of_states(texts, c), best=3)
    first, second, _ = found.found["upper case"]
    assert first.cell == Cell("c", 1, 3)
    assert first.r == pytest.approx(np.corrcoef(c[:half, 1, 3], upper[:half])[0, 1], abs=1e-12)
    assert first.held_out == pytest.approx(np.corrcoef(c[half:, 1, 3], upper[half:])[0, 1], abs=1e-12)
    assert first.r < -0.9
    assert second.cell == Cell("c", 0, 2)
    assert second.held_out is not None
    assert abs(second.held_out) < 0.3 < second.r
    assert found.found["digit"] == []
    assert all(
        one.cell.kind == "c" for findings in found.found.values() for one in findings
    )  # h is 0 throughout
    assert found.strength.shape == (2, 2, 5)
    once = search(of_states(["A", *"bcdefg"], c[:7]))
    assert once.found["upper case"][0].held_out is None


# ---- the page -----------------------------------------------------------------------------------


def data_of(page: str) -> dict[str, Any]:
    found = json.loads(
        page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    )
    assert isinstance(found, dict)
    return found


def test_the_page_holds_every_cell(small_run: charlstm.Run) -> None:
    reading = small_run.inspect(length=150)
    found = search(reading)
    page = inspection_page("a run", "a text", small_run.tokenizer, reading, found)
    data = data_of(page)
    states = np.concatenate([reading.c.reshape(150, -1), reading.h.reshape(150, -1)], axis=1).T
    rows = np.concatenate([states, list(found.properties.values())])
    values = np.frombuffer(base64.b64decode(data["values"]), np.int8).reshape(rows.shape)
    scales = np.array(data["scales"])[:, np.newaxis]
    assert (np.abs(values * scales / 127 - rows) <= scales / 254 + 1e-3 * scales).all()
    assert data["kept"] == list(range(96))
    assert data["properties"] == list(found.properties)
    assert "".join(data["texts"]) == reading.text
    assert [data["names"][k] for k in data["tokens"]] == [label(text) for text in reading.texts]
    levels = [int(level) for level in re.findall(r"<span class=p(\d)>", page)]
    assert levels == np.minimum(8, np.floor(reading.surprise)).astype(int).tolist()
    assert len(re.findall(r"<button data-cell=\d+>", page)) == sum(map(len, found.found.values()))


def test_the_page_is_bounded(monkeypatch: pytest.MonkeyPatch, small_run: charlstm.Run) -> None:
    reading = small_run.inspect(length=100)
    found = search(reading)
    monkeypatch.setattr("charlstm.inspection.page.VALUES", 1000)
    page = inspection_page("a run", "a text", small_run.tokenizer, reading, found)
    assert "room for 10 of 96 cells" in page
    kept = data_of(page)["kept"]
    assert sorted(kept) == kept
    strength = found.strength.ravel()
    assert min(strength[kept]) >= max(np.delete(strength, kept))
    shown = {int(cell) for cell in re.findall(r"<button data-cell=(\d+)>", page)}
    assert shown <= set(kept)
    assert re.search(r"<button data-cell=\d+ disabled>", page)


def test_rows_that_are_zero_are_quantised() -> None:
    values, scales = quantised(np.array([[0.0, 0.0], [-0.5, 0.25]]))
    assert values.tolist() == [[0, 0], [-127, 64]]
    assert scales.tolist() == [0, 0.5]


def test_hostile_text_in_the_page() -> None:
    text = HOSTILE + "\u202eاب\u200fجد\u0085\u2028\r\t\U000e0001 é"
    model, tokenizer = made("characters", text)
    reading = read(model, tokenizer, tokenizer.encode(text))
    content = inspection_page("<b>", "<script>", tokenizer, reading, search(reading))
    page = Page(re.sub(r"<input[^>]*>", "", content))
    calm = read(model, tokenizer, tokenizer.encode("a" * len(text), "replace"))
    other = Page(re.sub(r"<input[^>]*>", "", inspection_page("b", "s", tokenizer, calm, search(calm))))
    within = ("button", "span", "b")  # as many as there are findings
    assert [t for t, _ in page.tags if t not in within] == [t for t, _ in other.tags if t not in within]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", content)
    assert "".join(data_of(content)["texts"]) == text
    content.encode()  # no surrogate is left
    names = {name for _, attributes in page.tags for name in attributes}
    assert not names & {"href", "src", "style", "action"}
    assert not any(name.startswith("on") for name in names)


def test_signs() -> None:
    assert visible("a\n\tb \x00\x7f\u202e\ud800\u200d") == "a↵\n⇥\tb ␀␡\ufffd\ufffd\u200d"
    assert label(" \n\u202e\ufffd") == "␣↵U+202E\ufffd"


# ---- the command --------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, small_run: charlstm.Run) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The filter coffee tastes sweet.\n" * 20 + "café")  # the end is not read
    common = ("inspect", small_run.directory, "--text", text, "--length", 200, "--backend", "numpy")
    done = charlstm_command(*common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^upper case +[ch]\d\.\d+ [+-]\d\.\d\d \([+-]\d\.\d\d\)", done.stdout, re.MULTILINE)
    assert re.search(r"^digit +the same everywhere$", done.stdout, re.MULTILINE)
    assert "the page is inspect.html" in done.stderr
    page = (tmp_path / "inspect.html").read_text()
    assert "text.txt" in page
    assert "200 characters" in page
    done = charlstm_command(*common, "--json", "--output", "other.html", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert result["output"] == "other.html"
    assert (tmp_path / "other.html").is_file()
    assert result["bits_per_token"] == pytest.approx(np.mean([one["bits"] for one in result["tokens"]]))
    assert "".join(one["text"] for one in result["tokens"]) == text.read_text()[:200]
    assert len(result["tokens"][0]["alternatives"]) == 5
    assert set(result["cells"]["upper case"][0]) == {"kind", "layer", "unit", "r", "held_out"}
    piped = charlstm_command(
        "inspect", small_run.directory, "--text", "-", "--json", input="The coffee is sweet."
    )
    assert piped.returncode == 0, piped.stderr
    assert len(json.loads(piped.stdout)["tokens"]) == 20
    assert json.loads(piped.stdout)["output"] is None


def test_the_beginning_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo")
    (tmp_path / "b.txt").write_text("three\n")
    assert read_beginning(str(tmp_path / "a.txt"), 100) == ("a.txt", "one\ntwo")
    assert read_beginning(str(tmp_path), 9)[1] == "one\ntwoth"


def test_the_command_refuses(tmp_path: Path, small_run: charlstm.Run) -> None:
    run, empty = small_run.directory, tmp_path / "empty"
    empty.write_text("")
    assert_fails(charlstm_command("inspect", run, "--text", empty), 3, "empty is empty")
    assert_fails(charlstm_command("inspect", run, "--length", "1"), 2, "length must be 2 to 20,000")
    model = run / "checkpoints" / "best"
    assert_fails(charlstm_command("inspect", model), 3, "--text")
    nowhere = empty / "page.html"  # below a file
    assert_fails(
        charlstm_command("inspect", run, "--length", "9", "--output", nowhere), 1, "cannot be written"
    )
