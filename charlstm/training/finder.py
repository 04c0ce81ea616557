"""The learning-rate finder: a short training in which the rate rises until the loss does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..wording import write_text
from .directory import FINDER
from .plots import save_figure
from .trainer import Trainer

DECADES, STEPS_PER_DECADE = 6, 50
HIGHEST = {"sgd": 100.0, "adagrad": 10.0}  # others: 1
SMOOTHING = 0.9  # what the smoothed loss keeps at each step, of a mean that begins unbiased
JUMP = 1.0  # nats above the lowest smoothed loss at which it ends
RISE = 0.1  # nats above the lowest that count as no longer learning
SAFELY = 0.05  # of the highest rate that still learns


class Finding(NamedTuple):
    """What `find_learning_rate` measured, one entry a step."""

    rates: list[float]
    losses: list[float]  # smoothed, nats per token
    suggestion: float


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def find_learning_rate(trainer: Trainer, directory: Path | None = None) -> Finding:
    """Raise the learning rate exponentially, step by step (Smith 2017, arXiv 1506.01186).

    Suggests a twentieth of the highest rate at which the smoothed loss was still within a tenth of a
    nat of its lowest. The trainer's weights are used up by it. Writes lr-finder.json and, with
    matplotlib, plots/lr-finder.svg and .png to the directory, by default the trainer's. Raises
    DataError where the loss never falls.
    """
    highest = HIGHEST.get(trainer.config.training.optimizer, 1.0)
    count = DECADES * STEPS_PER_DECADE
    rates: list[float] = []
    losses: list[float] = []
    total = 0.0
    try:
        for step in range(count):
            rate = highest * 10 ** (DECADES * (step / (count - 1) - 1))
            loss, gradients, norm, trainer.state = trainer.gradients(step, trainer.batches[step])
            loss, norm = float(loss), float(norm)
            total = SMOOTHING * total + (1 - SMOOTHING) * loss
            smoothed = total / (1 - SMOOTHING ** (step + 1))
            if not math.isfinite(norm) or not math.isfinite(smoothed):
                break
            if losses and smoothed > min(losses) + JUMP:
                break
            rates.append(rate)
            losses.append(smoothed)
            trainer.optimizer.update(step + 1, rate, gradients, norm)
            trainer.reporter.advanced(step + 1, (step + 1) / count)
    finally:
        trainer.reporter.close()
    if not losses or losses[0] - min(losses) < RISE:
        raise DataError("the loss never falls, whatever the learning rate: is there anything to learn here?")
    highest = max(rate for rate, loss in zip(rates, losses, strict=True) if loss < min(losses) + RISE)
    finding = Finding(rates, losses, float(f"{SAFELY * highest:.2g}"))
    directory = directory if directory is not None else trainer.directory
    write_text(directory / f"{FINDER}.json", json.dumps(finding._asdict()) + "\n")
    _plot(finding, directory)
    return finding


def _plot(finding: Finding, directory: Path) -> Path | None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(finding.rates, finding.losses, color="C0")
    axes.axvline(finding.suggestion, color="C1", linestyle="--", label=f"suggested: {finding.suggestion:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("smoothed training loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, directory / "plots" / FINDER)
