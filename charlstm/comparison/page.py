"""A comparison as one page: tables, and the runs' curves over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..pages import escaped, page
from ..pages.charts import Curve, chart
from .measuring import Comparison, Measured
from .tables import COSTS, HEADINGS, NONE, costs, letter, notes, options, quality

STYLE = Path(__file__).with_name("compare.css")
STYLES = 8  # of curves, in that file


def comparison_page(found: Comparison) -> str:
    """The whole page."""
    letters = [letter(k) for k in range(len(found.runs))]
    told = "".join(f"<li><bdi>{escaped(note)}</bdi></li>\n" for note in notes(found))
    differing, count = options(found), len(found.runs)
    body = [
        f"<h1>{count} run{'s' * (count > 1)} compared</h1>\n<p>On <bdi>{escaped(found.text)}</bdi>.</p>\n",
        _wide(HEADINGS, quality(found)),
        '<p class="faint">Intervals are by bootstrap over segments of the text; for a difference, of the same '
        "segments for both runs. Where it holds 0, this text does not tell which of the two is better.</p>\n",
        f"<ul>\n{told}</ul>\n" if told else "",
        "<h2>What they cost</h2>\n",
        _wide(COSTS, costs(found)),
        '<p class="faint">Losses are in nats per token, on what the run itself validates with.</p>\n',
        _curves(found.runs),
        "<h2>Options in which they differ</h2>\n",
        _wide(("", *letters), differing) if differing else "<p>None.</p>\n",
    ]
    return page("Runs compared: charlstm", "".join(body), STYLE.read_text(encoding="utf-8"))


def _wide(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = [all(_is_number(row[k]) for row in rows) for k in range(len(headings))]
    head = "".join(
        f"<th scope=col{' class=number' if number else ''}>{escaped(heading)}</th>"
        for heading, number in zip(headings, numbers, strict=True)
    )
    lines = [
        f"<tr><th scope=row>{escaped(row[0])}</th>"
        + "".join(
            f"<td{' class=number' if number else ''}><bdi>{escaped(value)}</bdi></td>"
            for value, number in zip(row[1:], numbers[1:], strict=True)
        )
        + "</tr>\n"
        for row in rows
    ]
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody></table></div>\n"
    )


def _is_number(value: str) -> bool:
    return value == NONE or value[:1] in "+-" or value[:1].isdigit()


def _curves(runs: Sequence[Measured]) -> str:
    if not any(run.metrics for run in runs):
        return ""
    key = "; ".join(
        f'<svg class="swatch" viewBox="0 0 35 10" aria-hidden="true"><path class="{_style(k)}" d="M0 5H35"/></svg> '
        f"{letter(k)} <bdi>{escaped(run.directory)}</bdi>{'' if _validated(run) else ' (training loss)'}"
        for k, run in enumerate(runs)
        if run.metrics
    )
    charts = {
        "text read": chart("loss by text read", _drawn(runs, "tokens", 1e-6), "million characters read"),
        "time": chart("loss by time", _drawn(runs, "seconds", 1.0), "seconds of training"),
    }
    figures = [
        f"<figure><figcaption>Bits per character by {what}</figcaption>\n{svg}</figure>\n"
        for what, svg in charts.items()
        if svg
    ]
    return (
        f"<h2>While they were trained</h2>\n<p>{key}.</p>\n"
        '<p class="faint">Each on what it validates with itself; losses per token and tokens are told in characters '
        "by how many of these a token was on the text above.</p>\n" + "".join(figures)
    )


def _drawn(runs: Sequence[Measured], x: str, unit: float) -> list[Curve]:
    """The validation losses of each run, or its losses where nothing validated, in bits per character."""
    curves = []
    for k, run in enumerate(runs):
        per_token = run.evaluation.characters / run.evaluation.tokens
        y = "val_loss" if _validated(run) else "loss"
        along = unit * (per_token if x == "tokens" else 1.0)
        points = [(line[x] * along, line[y] / math.log(2) / per_token) for line in run.metrics if y in line]
        curves.append(Curve(_style(k), points, y == "val_loss" and len(points) < 40, letter(k)))
    return curves


def _validated(run: Measured) -> bool:
    return any("val_loss" in line for line in run.metrics)


def _style(k: int) -> str:
    return f"r{k % STYLES}"
