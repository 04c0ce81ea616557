"""`evaluate --text-quality`: generated text beside real text and text of an n-gram model."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import charlstm
from charlstm import DataError, UsageError
from charlstm.cli import run as cli
from charlstm.data import coffee
from charlstm.quality import FIGURES, text_quality
from charlstm.quality.copying import copying
from charlstm.quality.ngrams import KneserNey
from charlstm.quality.texts import cut

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


def test_the_floor_is_drawn_as_the_model_is(longer_run: charlstm.Run) -> None:
    plain = text_quality(longer_run, characters=2000).ngram
    for sampling in ({"top_k": 1}, {"top_p": 0.3}, {"temperature": 0}):
        cut = text_quality(longer_run, characters=2000, **sampling).ngram
        assert cut["distinct_3"] < 0.7 * plain["distinct_3"]


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
