"""report.html: a run in one page that needs nothing else, neither scripts nor the network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checkpoint
from ..checkpoint import read_json
from ..config import Config, differing
from ..pages import block, escaped, page, table
from ..pages.charts import Curve, chart
from ..run import read_metrics
from ..wording import duration, in_nats, write_text
from .directory import RESUMED_SHOWN, told_command, ways_on

SAMPLES = 20  # at most: the first, the last, and others evenly between


def write_report(directory: Path, outcome: str) -> Path:
    """Write a run's report.html from the files in its directory; its path.

    `outcome` says how training ended. Raises CharLSTMError where it cannot be written, CheckpointError
    where a file of the run is damaged.
    """
    started = read_json(directory / "env.json")
    config = Config.from_toml(directory / "config.toml")
    lines = read_metrics(directory / "metrics.jsonl")
    last = checkpoint.locate(directory / "checkpoints" / "last")
    body = [
        _heading(directory, started, read_json(last / "training.json"), outcome),
        _commands(directory, started),
        _curves(lines, started),
        _validations(lines),
        _samples(directory / "samples"),
        _configuration(config),
        _environment(started),
    ]
    html = page(f"{directory.name}: charlstm", "".join(body))
    write_text(directory / "report.html", html)
    return directory / "report.html"


def _heading(directory: Path, started: dict[str, Any], progress: dict[str, Any], outcome: str) -> str:
    best, text = progress["best_val_loss"], started["text"]
    tiles = [] if best is None else [
        (in_nats(best), f"best validation loss, nats per token (step {progress['best_step']:,})"),
        (f"{math.exp(min(best, 700)):.4g}", "perplexity"),
        (f"{best / math.log(2):.4f}", "bits per token"),
    ]  # fmt: skip
    tiles += [
        (f"{progress['step']:,}", "steps"),
        (f"{progress['tokens']:,}", "tokens read"),
        (duration(progress["seconds"]), "training time"),
        (f"{started['parameters']:,}", "parameters"),
    ]
    if progress["rollbacks"]:
        tiles.append((str(progress["rollbacks"]), "times gone back after the loss diverged"))
    covered = text["overlap"].get("covered")
    leak = (
        "" if covered is None else f" {100 * covered:.2f} % of what validates stands in windows that train."
    )
    shown = "\n".join(
        f"<div><b>{escaped(value)}</b><span>{escaped(what)}</span></div>" for value, what in tiles
    )
    return f"""<h1><bdi>{escaped(directory.name)}</bdi></h1>
<p>A CIFG-LSTM language model of <bdi>{escaped(text["name"])}</bdi>: {escaped(text["parts"])}.{leak}
<span class="faint">Training {escaped(outcome)}.</span></p>
<div class="tiles">
{shown}
</div>
"""


def _commands(directory: Path, started: dict[str, Any]) -> str:
    parts = [
        "<h2>How it was made</h2>\n",
        block(told_command(started["command"])),
        f'<p class="faint">in {escaped(started["working_directory"])}</p>\n',
    ]
    for again in started["resumed"][-RESUMED_SHOWN:]:
        parts.append(f"<p>resumed at step {again['step']:,} by</p>\n{block(told_command(again['command']))}")
    parts.append("<h2>How to go on</h2>\n")
    parts.append(block("\n".join(ways_on(directory, started))))
    return "".join(parts)


def _curves(lines: Sequence[dict[str, Any]], started: dict[str, Any]) -> str:
    read = max((line["tokens"] for line in lines), default=0)
    unit, name = (1e6, "million tokens read") if read >= 1e6 else (1e3, "thousand tokens read")

    def of(style: str, what: str, dots: bool = False) -> Curve:
        return Curve(style, [(line["tokens"] / unit, line[what]) for line in lines if what in line], dots)

    events = [line["tokens"] / unit for line in lines if "rolled_back_from" in line]
    floor = started["text"].get("entropy")
    loss = 'Loss, nats per token: <span class="key train">training</span>, <span class="key val">validation</span>'
    if floor is not None:
        loss += f"; dashed across: the entropy of this made-up language, {floor:.4f}"
    if events:
        loss += "; dashed upright: gone back to here after the loss diverged"
    drawn = [
        (
            loss,
            chart(
                "loss", [of("train", "loss"), of("val", "val_loss", True)], name, level=floor, events=events
            ),
        ),
        ("Learning rate", chart("learning rate", [of("rate", "learning_rate")], name, from_zero=True)),
        (
            "Norm of the gradient, before it is clipped",
            chart("gradient norm", [of("norm", "gradient_norm")], name, logarithmic=True),
        ),
    ]
    figures = [
        f"<figure><figcaption>{caption}</figcaption>\n{svg}</figure>\n" for caption, svg in drawn if svg
    ]
    return "<h2>Curves</h2>\n" + ("".join(figures) or "<p>Nothing was measured yet.</p>\n")


def _validations(lines: Sequence[dict[str, Any]]) -> str:
    rows = [
        (f"step {line['step']:,}", f"{in_nats(line['val_loss'])} after {duration(line['seconds'])}")
        for line in lines
        if "val_loss" in line
    ]
    return f"<details><summary>{len(rows)} validations</summary>\n{table(rows)}</details>\n" if rows else ""


def _samples(folder: Path) -> str:
    steps = [path for path in folder.glob("step-*.txt") if path.stem.removeprefix("step-").isdecimal()]
    steps.sort(key=lambda path: int(path.stem.removeprefix("step-")))
    shown = steps
    if len(steps) > SAMPLES:
        shown = [steps[round(k * (len(steps) - 1) / (SAMPLES - 1))] for k in range(SAMPLES)]
    parts = ["<h2>Samples over time</h2>\n"]
    if len(steps) > SAMPLES:
        parts.append(f'<p class="faint">{SAMPLES} of {len(steps)}; all are in samples/.</p>\n')
    for path in shown:
        parts.append(f"<h3>Step {int(path.stem.removeprefix('step-')):,}</h3>\n{block(_read(path))}")
    if (folder / "best.txt").is_file():
        parts.append(f"<h3>The best checkpoint, at the end</h3>\n{block(_read(folder / 'best.txt'))}")
    if len(parts) == 1:
        parts.append("<p>None: the model was never sure enough (--sample-threshold).</p>\n")
    return "".join(parts)


def _configuration(config: Config) -> str:
    parts = ["<h2>Configuration</h2>\n", '<p class="faint">Bold: other than the default.</p>\n']
    for concern in dataclasses.fields(config):
        part = getattr(config, concern.name)
        changed = differing(part)
        rows = [(name, "not set" if value is None else value) for name, value in vars(part).items()]
        parts.append(f"<h3>{concern.name}</h3>\n{table(rows, changed)}")
    return "".join(parts)


def _environment(started: dict[str, Any]) -> str:
    text = started["text"]
    rows: list[tuple[str, object]] = [
        ("backend", f"{started['backend']}, {started['threads']} threads"),
        ("device", started["device"]),
        ("platform", started["platform"]),
        ("Python", started["python"]),
        *started["versions"].items(),
        ("Git commit", started["git"] or "none"),
        ("started from", started["init_from"] or "random weights"),
        ("text", f"{text['name']}, SHA-256 {text['sha256']}"),
        ("resumed", f"{len(started['resumed'])} times"),
    ]
    return f"<h2>Environment</h2>\n{table(rows)}"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
