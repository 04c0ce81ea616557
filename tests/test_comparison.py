"""Runs beside each other: one text for all, paired intervals, what differs, the page and the command."""

from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_fails, charlstm_command
from test_report import Page

import charlstm
from charlstm import CheckpointError, Config, DataConfig, DataError, EvaluationConfig, ModelConfig, UsageError
from charlstm.comparison import Comparison, LeftOut, Measured, compare
from charlstm.comparison.page import comparison_page
from charlstm.comparison.tables import costs, letter, notes, options, quality
from charlstm.data import coffee
from charlstm.evaluation import Segments
from charlstm.evaluation.figures import summed_up
from charlstm.pages.charts import Curve, chart

Train = Callable[..., Path]
STEPS = charlstm.TrainingConfig(max_steps=12, eval_every=6, sample_threshold=1.0)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a small run on 9,000 characters; the same one only once."""
    folder, done = tmp_path_factory.mktemp("compared"), {}
    text = folder / "text.txt"
    text.write_text(coffee.text(9000))

    def run(name: str, hidden_size: int = 6, data: Path = text, **cut: object) -> Path:
        if name not in done:
            cut = {"data": str(data), "batch_size": 4, "seq_len": 16, **cut}
            config = Config(ModelConfig(hidden_size, 1), DataConfig(**cut), STEPS)  # type: ignore[arg-type]
            charlstm.train(data, config, out=folder / name, backend="numpy", quiet=True)
            done[name] = folder / name
        return done[name]

    return run


def compared(*runs: Path, **options: object) -> Comparison:
    return compare(runs, backend="numpy", **options)  # type: ignore[arg-type]


# ---- one text for all ---------------------------------------------------------------------------


def test_runs_on_one_text(train: Train) -> None:
    runs = [train("one"), train("two", 9), train("one")]
    found = compared(*runs, split="all")
    assert [run.directory for run in found.runs] == sorted(
        runs[:2], key=lambda run: charlstm.load(run, "numpy").evaluate(split="all").bits_per_char
    )
    for run in found.runs:
        alone = charlstm.load(run.directory, "numpy").evaluate(split="all")
        assert run.evaluation.to_dict() == alone.to_dict()
        assert run.notes == ["was trained on this text"]
        assert run.training["steps"] == 12
        assert run.training["tokens"] == 12 * 64
        assert run.training["best_val_loss"] == min(
            line["val_loss"] for line in run.metrics if "val_loss" in line
        )
    assert found.text == "all of text.txt"
    assert found.differing == {"model.hidden_size": [r.options["model.hidden_size"] for r in found.runs]}
    assert compared(*runs[:2]).text == "what validates of text.txt"


def test_texts_that_differ_are_refused(train: Train, tmp_path: Path) -> None:
    one, bytewise, less = train("one"), train("bytes", tokenizer="bytes"), train("less", val_fraction=0.2)
    windows, wider = train("windows", split="windows"), train("wider", split="windows", seq_len=8)
    text = tmp_path / "other.txt"
    text.write_text(coffee.text(9000)[::-1])
    other = train("other", data=text)
    assert compared(one, bytewise).text == "what validates of text.txt"  # ASCII: cut at the same byte
    with pytest.raises(
        UsageError, match=r"is not the same text in .* they cut the text otherwise: --split all"
    ):
        compared(one, less)
    with pytest.raises(
        UsageError, match=r"what validates of text.txt, .*other is measured on|other.txt; --data"
    ):
        compared(one, other)
    with pytest.raises(UsageError, match="in windows of 16 tokens"):
        compared(one, windows)
    with pytest.raises(UsageError, match=r"in windows of 16 tokens, .* in windows of 8 tokens"):
        compared(windows, wider)
    assert len(compared(windows).runs) == 1
    assert len(compared(one, bytewise, less, windows, wider, split="all").runs) == 5
    found = compared(one, other, bytewise, data=str(text))
    assert found.text == "all of other.txt"
    told = {run.directory.name: run.notes for run in found.runs}
    assert told == {"one": [], "other": ["was trained on this text"], "bytes": []}
    with pytest.raises(UsageError, match="stdin"):
        compared(one, data="-")


def test_one_text_in_several_vocabularies(train: Train, tmp_path: Path) -> None:
    """The bits per character of bytes and of characters are of the same characters."""
    text = tmp_path / "text.txt"
    text.write_text('naïve "café" – yes\n' * 703)
    one, bytewise = train("accents", data=text), train("accents-bytes", data=text, tokenizer="bytes")
    with pytest.raises(UsageError, match="--split all"):
        compared(one, bytewise)
    found = compared(one, bytewise, split="all")
    assert {run.evaluation.characters for run in found.runs} == {19 * 703 - 1}
    assert len({run.evaluation.tokens for run in found.runs}) == 2
    assert found.differences[1][1] is not None
    words = train("accents-words", data=text, tokenizer="words")
    told = {run.directory: run.notes for run in compared(one, words, data=str(text)).runs}
    assert told[one] == ["was trained on this text"]
    assert told[words][1:] == [
        f"its vocabulary keeps {17 * 703 - 5:,} of {19 * 703 - 1:,} characters: what is lost need not be predicted"
    ]


# ---- intervals ----------------------------------------------------------------------------------


def measured(name: str, nats: np.ndarray, characters: int = 200) -> Measured:
    segments = Segments.zeros(len(nats))
    segments.nats[:], segments.characters[:] = nats, characters
    segments.bin_tokens[:, 0] = characters
    evaluation = summed_up(segments, EvaluationConfig())
    return Measured(Path(name), evaluation, 1, {"model.num_layers": 1, "model.hidden_size": 2}, [], [])


def test_the_bootstrap_is_paired(rng: np.random.Generator) -> None:
    """Segments differ far more than the runs on each: only pairs tell these apart. Against plain resampling."""
    S = 100
    hard = 200 * rng.uniform(0.5, 3, S)
    first, second = hard, hard + 200 * (0.02 + 0.01 * rng.standard_normal(S))
    found = Comparison("", [measured("a", first), measured("b", second)], [])
    difference, interval = found.differences[1]
    assert found.differences[0] == (0, None)
    assert difference == pytest.approx((second - first).sum() / (200 * S * math.log(2)))
    draws = rng.integers(0, S, (4000, S))
    plain = ((second - first)[draws].sum(axis=1)) / (200 * S * math.log(2))
    assert interval == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=3e-4)
    assert interval is not None
    assert interval[0] > 0.02
    low, high = found.runs[0].evaluation.intervals["bits_per_char"]  # type: ignore[misc]
    assert high - low > 10 * (interval[1] - interval[0])


def test_where_there_are_no_intervals(rng: np.random.Generator) -> None:
    few = Comparison("", [measured("a", np.full(19, 1.0)), measured("b", np.full(19, 2.0))], [])
    assert few.differences[1] == (pytest.approx(1 / (200 * math.log(2))), None)
    unequal = Comparison("", [measured("a", np.full(30, 1.0)), measured("b", np.full(31, 2.0))], [])
    assert unequal.differences[1][1] is None
    assert quality(few)[1][3:] == ("–", "0.0072", "–")


# ---- runs that are not what they should be ------------------------------------------------------


def test_damaged_and_missing_runs_are_left_out(train: Train, tmp_path: Path) -> None:
    one, damaged, cut_off = train("one"), tmp_path / "damaged", tmp_path / "metrics"
    shutil.copytree(one, damaged)
    for path in damaged.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    shutil.copytree(one, cut_off)
    (cut_off / "metrics.jsonl").write_text('{"step": 1\n')
    found = compared(one, damaged, cut_off, tmp_path / "none")
    assert [run.directory for run in found.runs] == [one]
    assert [left.directory for left in found.left_out] == [damaged, cut_off, tmp_path / "none"]
    assert all(str(left.directory) in left.reason for left in found.left_out)
    assert len([note for note in notes(found) if note.startswith("left out: ")]) == 3
    with pytest.raises(CheckpointError):
        compared(damaged)
    with pytest.raises(UsageError, match="name one or more"):
        compared()


def test_model_directories_and_runs_that_have_just_begun(train: Train, tmp_path: Path) -> None:
    one, begun = train("one"), tmp_path / "begun"
    with pytest.raises(DataError, match=r"best: .*name a text with --data"):
        compared(one, one / "checkpoints" / "best")
    shutil.copytree(one, begun)
    shutil.rmtree(begun / "checkpoints" / "best")
    (begun / "metrics.jsonl").unlink()
    found = compared(one / "checkpoints" / "last", begun, data=str(train("one").parent / "text.txt"))
    model, run = sorted(found.runs, key=lambda run: run.directory != one / "checkpoints" / "last")
    assert model.training["steps"] is None
    assert set(model.options) == {f"model.{name}" for name in vars(ModelConfig())}
    assert "nothing has validated yet: its last checkpoint" in run.notes
    assert found.differing == {}  # what is not known does not differ
    assert costs(found)[0][3:] == ("–",) * 6
    page = comparison_page(found)
    assert "<svg" not in page
    (begun / "env.json").unlink()
    with pytest.raises(CheckpointError, match=r"begun: .*env\.json"):
        compared(one, begun)


# ---- the page and the command -------------------------------------------------------------------


def test_the_page(train: Train) -> None:
    found = compared(train("one"), train("two", 9))
    hostile = replace(found.runs[1], directory=Path("<script>\u202e&amp;"), notes=["<b>\x1b"])
    content = comparison_page(Comparison("<i>", [found.runs[0], hostile], [LeftOut(Path("x"), "<u>")]))
    page = Page(content)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "bdi", "div", "ul", "li", "figure",
        "figcaption", "svg", "path", "text", "polyline", "circle", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert not {name for _, attributes in page.tags for name in attributes} & {
        "href",
        "src",
        "style",
        "action",
    }
    assert "\x1b" not in content
    assert "&lt;script&gt;" in content
    for value in (
        f"{found.runs[0].bits_per_char:.4f}",
        f"{found.differences[1][0]:.4f}",
        "model.hidden_size",
    ):
        assert value in content
    first = found.runs[0]
    drawn = [float(value) for value in re.findall(r"<title>([\d.]+)</title></circle>", content)]
    bits = [line["val_loss"] / math.log(2) for line in first.metrics if "val_loss" in line]
    assert drawn[: len(bits)] == pytest.approx(bits, abs=1e-4)
    assert content.count('<text class="end r0"') == content.count('<text class="end r1"') == 2


def test_labels_of_curves_do_not_lie_on_each_other() -> None:
    curves = [Curve(f"r{k}", [(0, 5.0), (1, 1 + k / 1000)], label=letter(k)) for k in range(4)]
    svg = ElementTree.fromstring(chart("t", [*curves, Curve("r5", [], label="Z")], "x"))
    marks = svg.findall("text[@class]")
    heights = sorted(float(mark.attrib["y"]) for mark in marks if mark.attrib["class"].startswith("end"))
    assert len(heights) == 4
    assert min(np.diff(heights)) >= 12.9
    assert {mark.text for mark in marks} >= {"A", "B", "C", "D"}


def test_letters() -> None:
    assert [letter(k) for k in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_the_command(train: Train, tmp_path: Path) -> None:
    one, two = train("one"), train("two", 9)
    page = tmp_path / "compare.html"
    done = charlstm_command("compare", one, two, "--split", "all", "--output", page, "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    assert "on all of text.txt" in done.stdout
    assert re.search(r"model.hidden_size +[69] +[69]", done.stdout)
    assert done.stderr == "A was trained on this text\nB was trained on this text\n"
    assert page.is_file()
    found = compared(one, two, split="all")
    assert options(found)[0][0] == "model.hidden_size"
    assert f"{found.differences[1][0]:.4f}" in done.stdout
    done = charlstm_command("compare", one, two, tmp_path / "none", "--json", "--backend", "numpy")
    assert done.returncode == 1
    assert "left out: no run directory" in done.stderr
    result = json.loads(done.stdout)
    assert [run["bits_per_char"] for run in result["runs"]] == sorted(
        run["bits_per_char"] for run in result["runs"]
    )
    assert set(result) == {"text", "confidence", "runs", "differing_options", "left_out"}
    assert set(result["runs"][1]) == {
        "run", "bits_per_char", "interval", "difference", "difference_interval", "loss", "perplexity", "tokens",
        "characters", "parameters", "training", "options", "notes",
    }  # fmt: skip
    assert_fails(charlstm_command("compare", one, train("less", val_fraction=0.2)), 2, "--data FILE")
    assert_fails(charlstm_command("compare"), 2, "name one or more run directories")
