"""The run directory: configuration, environment, metrics, samples, plots, model card."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import warnings
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from ..backends import Ops
from ..config import Config, DataConfig
from ..data import Corpus, describe, overlap
from ..errors import CharLSTMError, UsageError
from ..run import read_metrics
from .progress import in_nats

LIBRARIES = ("charlstm", "numpy", "numba", "llvmlite", "cupy", "safetensors", "tokenizers")


def new_directory(out: Path | None, name: str) -> Path:
    """Make the directory of a new run: `out`, or the first free runs/NAME-N.

    Raises UsageError where `out` holds something already, CharLSTMError where it cannot be made.
    """
    try:
        if out is None:
            out = _first_free(Path("runs"), Path(name).stem or "run")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            resumable = (out / "checkpoints").is_dir()
            advice = f", or go on with --resume {out}" if resumable else ""
            raise UsageError(f"{out} exists already: choose another --out{advice}")
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharLSTMError(f"{out} cannot be made: {error.strerror or error}") from None
    return out


def _first_free(parent: Path, stem: str) -> Path:
    """Make the first of parent/stem-1, parent/stem-2, ... that is not there yet."""
    parent.mkdir(exist_ok=True)
    for n in count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{stem}-{n}").mkdir()  # fails where another process was faster
            break
    return parent / f"{stem}-{n}"


def write_text(path: Path, text: str) -> None:
    """Write a file of the run, all of it or nothing; CharLSTMError where the disk refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CharLSTMError(f"{path} cannot be written: {error.strerror or error}") from None


class MetricsLog:
    """metrics.jsonl, a line at a time; on resuming, lines after the checkpoint are cut off."""

    def __init__(self, path: Path, up_to_step: int) -> None:
        self._path = path
        self._open(up_to_step)

    def _open(self, up_to_step: int) -> None:
        kept = [line for line in read_metrics(self._path) if line["step"] <= up_to_step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 -- closed by `close`

    def cut(self, up_to_step: int) -> None:
        """Leave out the lines of later steps: they are made once more."""
        self.close()
        self._open(up_to_step)

    def write(self, **line: Any) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise CharLSTMError(f"{self._file.name} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write that filled it
            self._file.close()


def environment(ops: Ops, corpus: Corpus, config: DataConfig) -> dict[str, Any]:
    """What a run's figures depend on beside its configuration."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "backend": ops.name,
        "device": ops.device(),
        "threads": ops.threads(),
        "git": _git_commit(),
        "text": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "train_tokens": len(corpus.train),
            "val_tokens": len(corpus.val),
            "test_tokens": len(corpus.test),
            "overlap": overlap(corpus, config),
        },
    }


def _git_commit() -> str | None:
    """The commit of the folder that the run was started in, where that is a Git checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def plot_curves(directory: Path) -> Path | None:
    """Draw plots/loss.svg and .png from metrics.jsonl; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = read_metrics(directory / "metrics.jsonl")
    train = [(line["tokens"] / 1e6, line["loss"]) for line in lines if "loss" in line]
    val = [(line["tokens"] / 1e6, line["val_loss"]) for line in lines if "val_loss" in line]
    rates = [(line["tokens"] / 1e6, line["learning_rate"]) for line in lines if "learning_rate" in line]
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    if train:
        top.plot(*zip(*train, strict=True), color="0.6", linewidth=1, label="training loss")
        bottom.plot(*zip(*rates, strict=True), color="C1")
    if val:
        top.plot(*zip(*val, strict=True), "o-", color="C0", markersize=3, label="validation loss")
        lowest = min(val, key=lambda point: point[1])
        top.annotate(in_nats(lowest[1]), lowest, (0, 8), textcoords="offset points", ha="center", color="C0")
    top.set_ylabel("nats per token")
    top.set_title(directory.name)
    if train or val:
        top.legend()
    top.grid(alpha=0.3)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("million tokens read")
    bottom.grid(alpha=0.3)
    return save_figure(figure, directory / "plots" / "loss")


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


def model_card(config: Config, corpus: Corpus, parameters: int, progress: dict[str, Any]) -> str:
    """README.md of a checkpoint and of a run, filled in from what was measured."""
    best = progress.get("best_val_loss")
    model, unit = config.model, corpus.tokenizer.unit
    result = "none" if best is None else f"{in_nats(best)} nats per {unit} (step {progress['best_step']})"
    return f"""---
library_name: charlstm
pipeline_tag: text-generation
tags: [lstm, cifg, {unit}-level]
---
# A CIFG-LSTM language model of {corpus.name}

- {parameters:,} parameters: {model.num_layers} layers of {model.hidden_size} units, \
{len(corpus.tokenizer)} {unit}s, {model.dtype}
- {describe(corpus, config.data)}
- best validation loss: {result}
- after {progress["step"]:,} steps, {progress["tokens"]:,} {unit}s read, {progress["seconds"]:.0f} s
- SHA-256 of the text: {corpus.sha256}

    charlstm generate DIRECTORY --prompt "..."

    import charlstm
    print(charlstm.load("DIRECTORY").generate("..."))
"""
