"""What the page tells of each model."""

from __future__ import annotations

import math
from typing import Any

from ..checkpoint import read_json
from ..errors import CharLSTMError
from ..run import Run

POINTS = 200  # of a curve, at most


def card(name: str, run: Run) -> dict[str, Any]:
    """A model's shape and vocabulary, what it was trained on, its losses and its curves, as JSON tells them.

    Of a model directory of its own there is only the former; the rest is None or empty.
    """
    model, tokenizer = run.model, run.tokenizer
    lines = run.metrics
    told: dict[str, Any] = {
        "id": name,
        "parameters": model.num_parameters,
        "num_layers": model.config.num_layers,
        "hidden_size": model.config.hidden_size,
        "vocab_size": len(tokenizer),
        "tokenizer": tokenizer.kind,
        "unit": tokenizer.unit,
        "trained_on": None,
        "steps": max((line["step"] for line in lines), default=None),
        "tokens": max((line["tokens"] for line in lines), default=None),
        "seconds": max((line["seconds"] for line in lines), default=None),
        "losses": _losses(lines),
        "curves": {"loss": _curve(lines, "loss"), "val_loss": _curve(lines, "val_loss")},
    }
    try:
        text = read_json(run.directory / "env.json")["text"]
        told["trained_on"] = {"name": text["name"], "parts": text["parts"]}
    except (CharLSTMError, KeyError, TypeError):
        pass
    return told


def _losses(lines: list[dict[str, Any]]) -> dict[str, float | None]:
    """Nats per token: the last of training, the lowest of validation, and that as perplexity and bits."""
    train = _points(lines, "loss")
    best = min((loss for _, loss in _points(lines, "val_loss")), default=None)
    return {
        "train": train[-1][1] if train else None,
        "best_val": best,
        "perplexity": None if best is None else math.exp(min(best, 700)),
        "bits_per_token": None if best is None else best / math.log(2),
    }


def _curve(lines: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """Points (tokens read, nats per token), evenly thinned out, the first and the last one kept."""
    points = _points(lines, key)
    if len(points) <= POINTS:
        return points
    return [points[round(k * (len(points) - 1) / (POINTS - 1))] for k in range(POINTS)]


def _points(lines: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(line["tokens"], line[key]) for line in lines if math.isfinite(line.get(key, math.nan))]
