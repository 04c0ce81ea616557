"""`charlstm evaluate` as people use it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import charlstm
from charlstm import cli
from charlstm.data import coffee

FIGURES = {
    "loss", "perplexity", "bits_per_char", "bits_per_word", "word_perplexity", "mean_max_posterior",
    "top_1_accuracy", "top_k_accuracy", "expected_calibration_error",
}  # fmt: skip
OTHERS = {
    "top_k", "tokens", "characters", "words", "segments", "confidence", "intervals", "reliability", "options",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(small_run: charlstm.Run) -> Path:
    return small_run.directory


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text(coffee.text(6000, seed=9))
    return path


class Command:
    """`charlstm evaluate` on the NumPy backend, in this process, which spares the imports."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> str:
        """What it prints."""
        status = cli.run(["evaluate", *map(str, arguments), "--backend", "numpy"])
        out, err = self._capsys.readouterr()
        assert status == 0, err
        return out

    def fails(self, status: int, *arguments: object) -> str:
        """The error that it prints."""
        assert cli.run(["evaluate", *map(str, arguments), "--backend", "numpy"]) == status
        out, err = self._capsys.readouterr()
        assert out == ""
        assert err.startswith("charlstm: ")
        assert err.count("\n") == 1
        return err


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "80")
    return Command(capsys)


def test_a_table(evaluate: Command, run: Path, other: Path) -> None:
    text = evaluate(run, "--data", other, "--split", "all", "--top-k", 3)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    n = len(other.read_text())
    assert f"{n - 1:,} tokens, {n - 1:,} characters" in text
    for part in ("top-3 accuracy", "calibration error", "30 segments", "95 % interval", "0.0 to 0.1"):
        assert part in text
    found = charlstm.load(run, "numpy").evaluate(other, split="all", top_k=3)
    low, high = found.intervals["loss"]  # type: ignore[misc]
    row = next(line for line in lines if line.strip().startswith("loss"))
    assert row.split()[1:5] == [f"{found.loss:.4f}", f"{low:.4f}", "to", f"{high:.4f}"]


def test_json(evaluate: Command, run: Path, other: Path) -> None:
    command = (run, "--data", other, "--split", "all", "--json", "--bootstrap-seed", 3)
    found = json.loads(evaluate(*command))
    assert set(found) == FIGURES | OTHERS
    assert set(found["intervals"]) == FIGURES
    assert all(low <= found[name] <= high for name, (low, high) in found["intervals"].items())
    assert set(found["reliability"][0]) == {"above", "up_to", "tokens", "confidence", "accuracy"}
    assert sum(row["tokens"] for row in found["reliability"]) == found["tokens"]
    assert found["options"]["bootstrap_seed"] == 3
    assert json.loads(evaluate(*command)) == found


def test_dynamic_evaluation(evaluate: Command, run: Path, other: Path) -> None:
    command = (run, "--data", other, "--split", "all")
    dynamic = (*command, "--dynamic", "--dynamic-rule", "sgd", "--dynamic-rate", 0.2)
    assert "learned from while read" in evaluate(*dynamic)
    found = json.loads(evaluate(*dynamic, "--json"))
    assert found["options"]["dynamic_rate"] == 0.2
    assert found["loss"] < json.loads(evaluate(*command, "--json"))["loss"]


def test_texts_that_are_too_short(evaluate: Command, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    command = (run, "--data", path, "--split", "all")
    for text, problem in (("", "is empty"), ("T", "too short: 1 known characters")):
        path.write_text(text)
        assert problem in evaluate.fails(3, *command)
    path.write_text("The ")
    table = evaluate(*command)
    assert "3 tokens" in table
    assert "too short a text for intervals" in table
    assert not any(json.loads(evaluate(*command, "--json"))["intervals"].values())


def test_what_cannot_be(evaluate: Command, run: Path, other: Path) -> None:
    assert "top_k" in evaluate.fails(2, run, "--top-k", 0)
    assert "dynamic_rate" in evaluate.fails(2, run, "--dynamic", "--dynamic-rate", "nan")
    assert "leave out --windows" in evaluate.fails(2, run, "--dynamic", "--windows")
    command = ("--data", other, "--split", "all")
    other.write_text("Thé")
    assert "'é' (U+00E9)" in evaluate.fails(3, run, *command)
    other.write_text("The coffee")
    error = evaluate.fails(3, run / "checkpoints" / "best", *command, "--dynamic")
    assert "gradient statistics need the text" in error
    assert "--dynamic-rule sgd" in error


def test_windows_that_validate_cannot_be_learned_from(
    evaluate: Command, small_config: charlstm.Config, text: Path, tmp_path: Path
) -> None:
    data = replace(small_config.data, data=str(text), split="windows")
    training = charlstm.TrainingConfig(max_steps=1)
    config = replace(small_config, data=data, training=training)
    charlstm.train(text, config, out=tmp_path / "run", backend="numpy", quiet=True)
    assert "take --split all" in evaluate.fails(2, tmp_path / "run", "--dynamic")
