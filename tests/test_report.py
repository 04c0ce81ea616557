"""What a run tells afterwards: report.html, the README, curves, TensorBoard."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, assert_fails, charlstm_command

import charlstm
from charlstm import Config, TrainingConfig
from charlstm.pages.charts import MOST, Curve, chart
from charlstm.training import Reporter, Trainer, prepare, reopen, write_report

HOSTILE = (
    '\n</pre><script>alert(1)</script><img src=x onerror="alert(2)">&lt;'
    "\x00\x1b[31m\u202e\ud800 <!-- \n\n}</style>"
)
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails where tags do not close in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)
        if tag == "pre":
            self.blocks.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "pre":
            self.blocks[-1] += data


def page_of(directory: Path) -> Page:
    return Page((directory / "report.html").read_text(encoding="utf-8"))


def test_a_report_holds_everything(small_run: charlstm.Run) -> None:
    content = (small_run.directory / "report.html").read_text()
    for part in ("Training is over", "best validation loss", "hidden_size", "SHA-256", "numpy", "Step 30", "Step 60",
                 "charlstm train --resume", "a call from Python", "3 validations", "0.1486"):  # fmt: skip
        assert part in content, part
    page = page_of(small_run.directory)
    sample = (small_run.directory / "samples" / "step-000030.txt").read_text()
    assert "\n" + sample in page.blocks
    assert [tag for tag, _ in page.tags].count("svg") == 3
    assert re.search(r"<td class=changed>24</td>", content)  # hidden_size: not the default


def test_the_page_needs_nothing_and_allows_nothing(small_run: charlstm.Run) -> None:
    content = (small_run.directory / "report.html").read_text()
    tags = page_of(small_run.directory).tags
    assert {tag for tag, _ in tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "bdi", "b", "span", "div", "pre",
        "figure", "figcaption", "svg", "path", "text", "polyline", "circle", "details", "summary", "table", "tr",
        "th", "td",
    }  # fmt: skip
    names = {name for _, attributes in tags for name in attributes}
    assert not names & {"href", "src", "style", "action"}
    assert not any(name.startswith("on") for name in names)
    style = content.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in style
    assert "http" not in content.replace("http-equiv", "")


def test_hostile_text_stays_text(tmp_path: Path, small_run: charlstm.Run) -> None:
    run = tmp_path / '<b onclick="x">&amp;'
    shutil.copytree(small_run.directory, run)
    sample = run / "samples" / "step-000030.txt"
    sample.write_text(HOSTILE, encoding="utf-8", errors="backslashreplace", newline="")
    started = json.loads((run / "env.json").read_text())
    started.update(command="charlstm train --data '<script>'", device="<i>", working_directory="</pre>")
    started["text"]["name"] = "<script src=//x>"
    (run / "env.json").write_text(json.dumps(started))
    write_report(run, "<script>")
    before, page = page_of(small_run.directory), page_of(run)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in before.tags]
    shown = HOSTILE.replace("\ud800", "\\ud800").replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert "\n" + shown in page.blocks


def test_at_most_twenty_samples(tmp_path: Path, small_run: charlstm.Run) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.directory, run)
    for step in range(1000, 2_000_000, 20_000):
        (run / "samples" / f"step-{step:06d}.txt").write_text(f"at {step}")
    (run / "samples" / "step-notes.txt").write_text("the user's own")
    write_report(run, "is over")
    shown = [
        int(step.replace(",", ""))
        for step in re.findall(r"<h3>Step ([\d,]+)", (run / "report.html").read_text())
    ]
    assert len(shown) == 20
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (30, 1_981_000)


def test_windows_are_told_with_their_leak(tmp_path: Path, small_config: Config) -> None:
    data = replace(small_config.data, split="windows")
    config = replace(small_config, data=data, training=TrainingConfig(max_steps=2))
    charlstm.train("coffee", config, out=tmp_path / "run", backend="numpy", quiet=True)
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"[\d,]+ windows of \d+ characters train, [\d,]+ validate", page)
    assert re.search(r"[\d.]+ % of what validates stands in windows that train", page)


def stopped(trainer: Trainer, step: int) -> bool:
    return trainer.train(stop=lambda: trainer.step >= step)


def test_reports_of_runs_that_end_otherwise(tmp_path: Path, small_config: Config) -> None:
    def made(name: str, **options: Any) -> Trainer:
        config = replace(small_config, training=replace(small_config.training, **options))
        return prepare("coffee", config, tmp_path / name, "numpy", None, Reporter())

    assert not stopped(made("stopped"), 3)  # before the first validation and the first line of metrics
    content = (tmp_path / "stopped" / "report.html").read_text()
    assert "was stopped before its limits" in content
    assert "Nothing was measured yet" in content
    assert made("early", learning_rate=1e-30, eval_every=5, early_stopping=2).train()
    assert "ended early: 2 validations without" in (tmp_path / "early" / "report.html").read_text()
    diverging = made("diverged", max_rollbacks=1)
    step = diverging.train_step

    def poisoned(done: float) -> None:
        if diverging.step == 35:
            diverging.model.parameters["head.bias"][3] = math.nan
        step(done)

    diverging.train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(charlstm.DivergedError):
        diverging.train()
    content = (tmp_path / "diverged" / "report.html").read_text()
    assert "was ended by an error: the loss is no longer a finite number at step 35" in content
    assert "times gone back" in content
    assert '<path class="event"' in content


def test_an_interrupted_command_reports(tmp_path: Path, text: Path) -> None:
    program = (
        "import os, signal, sys\nfrom charlstm.training.trainer import Trainer\n"
        "step = Trainer.train_step\n"
        "def interrupted(self, *arguments):\n"
        "    step(self, *arguments)\n"
        "    if self.step == 25:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "Trainer.train_step = interrupted\n"
        "from charlstm.cli import main\nmain(sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "train",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "run"),
        *TINY,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    content = (tmp_path / "run" / "report.html").read_text()
    assert "was stopped before its limits" in content
    assert f"charlstm train --data {text}" in content


def test_the_readme_says_how_to_go_on(tmp_path: Path, text: Path) -> None:
    """Its commands work as they stand."""
    assert charlstm_command("train", "--data", text, "--out", "a run", "--max-steps", 3, *TINY,
                            cwd=tmp_path).returncode == 0  # fmt: skip
    readme = (tmp_path / "a run" / "README.md").read_text()
    commands = re.findall(r"^    charlstm (.*'a run.*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(commands) == 5
    for command in commands[1:3]:
        done = charlstm_command(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    repeat = [*shlex.split(commands[4]), "--backend", "numpy", "--out", "again"]
    assert charlstm_command(*repeat, cwd=tmp_path).returncode == 0


def test_curves_without_matplotlib_are_drawn_from_the_figures() -> None:
    line = [(x / 10, 5 - x / 10) for x in range(30)]
    svg = ElementTree.fromstring(
        chart("t<", [Curve("train", line), Curve("val", line[::10], True)], "x<", level=0.5)
    )
    assert svg.attrib["aria-label"] == "t<"
    lines = svg.findall("polyline")
    assert [len(one.attrib["points"].split()) for one in lines] == [30, 3]
    places = [tuple(map(float, place.split(","))) for place in lines[0].attrib["points"].split()]
    rises = [later[0] > one[0] and later[1] > one[1] for one, later in itertools.pairwise(places)]
    assert all(rises)  # to the right, and down
    ticks = {mark.text: float(mark.attrib["y"]) for mark in svg.findall("text[@class='y']")}
    assert set(ticks) == {"1", "2", "3", "4", "5"}
    assert ticks["5"] == pytest.approx(places[0][1])
    assert ticks["3"] == pytest.approx(places[20][1], abs=0.2)
    assert [dot.find("title").text for dot in svg.findall("circle")] == ["5.0000", "4.0000", "3.0000"]  # type: ignore[union-attr]


def test_logarithmic_curves_and_odd_ones() -> None:
    svg = ElementTree.fromstring(
        chart("norm", [Curve("norm", [(0, 1e-3), (1, 1.0), (2, 1e3)])], "x", logarithmic=True)
    )
    heights = [float(place.split(",")[1]) for place in svg.find("polyline").attrib["points"].split()]  # type: ignore[union-attr]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert chart("none", [Curve("train", [])], "x") == ""
    assert chart("none", [Curve("train", [(0, math.nan), (1, math.inf)])], "x") == ""
    assert "polyline" in chart("one", [Curve("train", [(1, 2.0)])], "x")
    assert "polyline" in chart("zero", [Curve("norm", [(1, 0.0), (2, 0.0)])], "x", logarithmic=True)
    many = chart("many", [Curve("train", [(k, math.sin(k)) for k in range(12_345)])], "x")
    assert MOST / 2 < len(re.findall(r"\d,\d", many)) <= MOST


def test_plots_show_the_gradient_norm(small_run: charlstm.Run) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    svg = (small_run.directory / "plots" / "loss.svg").read_text()
    for label in ("nats per token", "learning rate", "gradient norm", "million tokens read"):
        assert f"<!-- {label} -->" in svg


def events(directory: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of each event in TFRecord files, their lengths checked."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def test_tensorboard(tmp_path: Path, small_config: Config) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    config = replace(small_config, training=replace(small_config.training, tensorboard=True))
    first = prepare("coffee", config, tmp_path / "run", "numpy", None, Reporter())
    assert not stopped(first, 33)
    trainer = reopen(tmp_path / "run")
    assert trainer.train()
    run = charlstm.load(tmp_path / "run")
    found = list(events(tmp_path / "run" / "tensorboard"))
    for tag, name in (("loss/train", "loss"), ("loss/validation", "val_loss"), ("gradient_norm", "gradient_norm"),
                      ("learning_rate", "learning_rate")):  # fmt: skip
        expected = [(line["step"], pytest.approx(line[name])) for line in run.metrics if name in line]
        assert [(step, value) for t, step, value in found if t == tag] == expected
    assert len(found) == len({(tag, step) for tag, step, _ in found})


def test_a_run_that_began_without_tensorboard(tmp_path: Path, small_run: charlstm.Run) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tmp_path / "run"
    shutil.copytree(small_run.directory, run)
    assert reopen(run, TrainingConfig(max_steps=70, tensorboard=True)).train()
    steps = [step for tag, step, _ in events(run / "tensorboard") if tag == "loss/train"]
    assert steps == [10, 20, 30, 40, 50, 60, 70]
    assert reopen(run, TrainingConfig(max_steps=80)).config.training.tensorboard


def test_tensorboard_that_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "tensorboardX.py").write_text("raise ModuleNotFoundError(name='tensorboardX')")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    done = charlstm_command("train", "--tensorboard", "--out", tmp_path / "run", *TINY, env=environment)
    assert_fails(done, 2, 'pip install "charlstm[tensorboard]"')
    assert not (tmp_path / "run").exists()
