"""Curves as pictures, where matplotlib is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ..errors import CharLSTMError
from ..run import read_metrics
from ..wording import in_nats


def plot_curves(directory: Path) -> Path | None:
    """Draw plots/loss.svg and .png from metrics.jsonl: losses, learning rate, gradient norm.

    None where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = read_metrics(directory / "metrics.jsonl")
    figure = Figure(figsize=(8, 8), layout="constrained")
    losses, rates, norms = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    train, val = points(lines, "loss"), points(lines, "val_loss")
    if train:
        losses.plot(*zip(*train, strict=True), color="0.6", linewidth=1, label="training loss")
        rates.plot(*zip(*points(lines, "learning_rate"), strict=True), color="C1", linewidth=1)
        norms.plot(*zip(*points(lines, "gradient_norm"), strict=True), color="C2", linewidth=1)
        norms.set_yscale("log")
    if val:
        losses.plot(*zip(*val, strict=True), "o-", color="C0", markersize=3, label="validation loss")
        lowest = min(val, key=lambda point: point[1])
        losses.annotate(
            in_nats(lowest[1]), lowest, (0, 8), textcoords="offset points", ha="center", color="C0"
        )
    if train or val:
        losses.legend()
    losses.set_title(directory.name, parse_math=False)
    for axes, label in zip(
        (losses, rates, norms), ("nats per token", "learning rate", "gradient norm"), strict=True
    ):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    norms.set_xlabel("million tokens read")
    return save_figure(figure, directory / "plots" / "loss")


def points(lines: list[dict[str, Any]], what: str) -> list[tuple[float, float]]:
    """Million tokens read, and the value there, of all lines of metrics that have it."""
    return [(line["tokens"] / 1e6, line[what]) for line in lines if what in line]


def save_figure(figure: Any, path: Path) -> Path:
    """Write a matplotlib figure as .svg and .png; the latter's path."""
    try:
        path.parent.mkdir(exist_ok=True)
        with warnings.catch_warnings():
            # a title in a script that the font lacks is drawn as boxes; that is no news for stderr
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            figure.savefig(path.with_suffix(".svg"))
            figure.savefig(path.with_suffix(".png"), dpi=150)
    except OSError as error:
        raise CharLSTMError(f"{path.parent} cannot be written: {error.strerror or error}") from None
    return path.with_suffix(".png")
