"""The figures of compared runs as rows of text, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..wording import duration, in_nats
from .measuring import Comparison, Interval, Measured

NONE = "–"
HEADINGS = ("", "run", "bits per character", "95 % interval", "worse than A by", "95 % interval")
COSTS = (
    "",
    "layers",
    "parameters",
    "steps",
    "tokens read",
    "training time",
    "tokens/s",
    "best loss",
    "last loss",
)


def letter(k: int) -> str:
    """What stands for the run in place k: A to Z, AA, AB, ..."""
    before, last = divmod(k, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def quality(found: Comparison) -> list[Sequence[str]]:
    """A row below HEADINGS for each run."""
    return [
        (
            letter(k), str(run.directory), f"{run.bits_per_char:.4f}",
            _interval(run.evaluation.intervals["bits_per_char"], ".4f"),
            f"{difference:.4f}" if k else NONE, _interval(interval, "+.4f"),
        )
        for k, (run, (difference, interval)) in enumerate(zip(found.runs, found.differences, strict=True))
    ]  # fmt: skip


def costs(found: Comparison) -> list[Sequence[str]]:
    """A row below COSTS for each run; losses are nats per token, on what the run itself validates with."""
    return [(letter(k), *_cost(run)) for k, run in enumerate(found.runs)]


def options(found: Comparison) -> list[Sequence[str]]:
    """A row for each option in which runs differ: its name, and the value of each run."""
    return [(name, *map(_value, values)) for name, values in found.differing.items()]


def notes(found: Comparison) -> list[str]:
    """What to know before one believes the figures."""
    told = [f"{letter(k)} {note}" for k, run in enumerate(found.runs) for note in run.notes]
    return told + [f"left out: {one.reason}" for one in found.left_out]


def _cost(run: Measured) -> Sequence[str]:
    t, shape = run.training, (run.options["model.num_layers"], run.options["model.hidden_size"])
    best, last = (
        NONE if t[name] is None else in_nats(float(t[name] or 0))
        for name in ("best_val_loss", "last_val_loss")
    )
    seconds = t["seconds"]
    return (
        f"{shape[0]} x {shape[1]}", f"{run.parameters:,}", _count(t["steps"]), _count(t["tokens"]),
        NONE if seconds is None else duration(seconds), _count(t["tokens_per_second"]), best, last,
    )  # fmt: skip


def _count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _interval(interval: Interval | None, form: str) -> str:
    return NONE if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _value(value: Any) -> str:
    return NONE if value is None else str(value)
