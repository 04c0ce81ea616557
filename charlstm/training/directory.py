"""The run directory: configuration, environment, metrics, samples, plots, model card."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from ..card import Card
from ..checkpoint import read_json
from ..config import Config, DataConfig
from ..data import Corpus, describe, names
from ..errors import CharLSTMError, UsageError
from ..model import CIFGModel
from ..pretrained import network, reading
from ..run import read_metrics
from ..wording import in_nats, write_text
from .tensorboard import TensorBoardLog

LIBRARIES = ("charlstm", "numpy", "numba", "llvmlite", "cupy", "safetensors", "tokenizers")
RESUMED_SHOWN = 5  # the last so many sessions that a README names
FINDER = (
    "lr-finder"  # what the files of the learning-rate finder are called; a training may begin beside them
)


def new_directory(out: Path | None, name: str) -> Path:
    """Make the directory of a new run: `out`, or the first free runs/NAME-N.

    Raises UsageError as `check_free`, CharLSTMError where it cannot be made.
    """
    try:
        if out is None:
            out = _first_free(Path("runs"), Path(name).stem or "run")
        check_free(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharLSTMError(f"{out} cannot be made: {error.strerror or error}") from None
    return out


def check_free(out: Path) -> None:
    """UsageError where a run directory holds something already, but for what the learning-rate finder leaves."""
    if out.exists() and not _is_free(out):
        resumable = (out / "checkpoints").is_dir()
        advice = f", or go on with --resume {out}" if resumable else ""
        raise UsageError(f"{out} exists already: choose another --out{advice}")


def _is_free(out: Path) -> bool:
    found = [out] if not out.is_dir() else list(out.iterdir())
    plots = out / "plots"
    if plots in found and plots.is_dir():
        found = [path for path in found if path != plots] + list(plots.iterdir())
    return all(path.is_file() and path.stem == FINDER for path in found)


def _first_free(parent: Path, stem: str) -> Path:
    """Make the first of parent/stem-1, parent/stem-2, ... that is not there yet."""
    parent.mkdir(exist_ok=True)
    for n in count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{stem}-{n}").mkdir()  # fails where another process was faster
            break
    return parent / f"{stem}-{n}"


class MetricsLog:
    """metrics.jsonl, a line at a time; on resuming, lines after the checkpoint are cut off.

    With `tensorboard` the same goes to the folder of that name.
    """

    def __init__(self, directory: Path, up_to_step: int, tensorboard: bool) -> None:
        self._directory, self._path = directory, directory / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._events: TensorBoardLog | None = None
        self._open(up_to_step)

    def _open(self, up_to_step: int) -> None:
        kept = [line for line in read_metrics(self._path) if line["step"] <= up_to_step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        if self._tensorboard:
            self._events = TensorBoardLog(self._directory / "tensorboard", kept)
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
        if self._events is not None:
            self._events.write(line)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write that filled it
            self._file.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()


def environment(
    model: CIFGModel, corpus: Corpus, config: DataConfig, shared: dict[str, float], command: str | None
) -> dict[str, Any]:
    """What a run's figures depend on beside its configuration, and the command line that started it.

    shared  what `data.overlap` found of training and validation
    """
    ops = model.ops
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
        "matmul_precision": ops.matmul_precision,
        "git": _git_commit(),
        "parameters": model.num_parameters,
        "init_from": None,
        "command": command,
        "working_directory": os.getcwd(),
        "resumed": [],
        "text": {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "train_tokens": len(corpus.train),
            "val_tokens": len(corpus.val),
            "test_tokens": len(corpus.test),
            "parts": describe(corpus, config),
            "overlap": shared,
            "entropy": corpus.entropy,
        },
    }


def forget_later(directory: Path, step: int) -> None:
    """Remove the samples and kept checkpoints of later steps: training has gone back to this one."""
    for path in [*(directory / "samples").glob("step-*.txt"), *(directory / "checkpoints").glob("step-*")]:
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _git_commit() -> str | None:
    """The commit of the folder that the run was started in, where that is a Git checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def model_card(config: Config, corpus: Corpus, parameters: int, progress: dict[str, Any]) -> str:
    """README.md of a checkpoint, filled in from what was measured."""
    best = progress.get("best_val_loss")
    unit = corpus.tokenizer.unit
    result = "none" if best is None else f"{in_nats(best)} nats per {unit} (step {progress['best_step']})"
    facts = [
        network(config.model, parameters, corpus.tokenizer),
        describe(corpus, config.data),
        f"best validation loss: {result}",
        reading(progress, unit),
        f"SHA-256 of the text: {corpus.sha256}",
    ]
    return str(Card(corpus.name, unit, facts))


def run_readme(directory: Path, card: str) -> str:
    """README.md of a run: the model card, how the run was made and how to go on with it."""
    started = read_json(directory / "env.json")
    command = told_command(started["command"]).replace("\n", "\n    ")
    resumed = "".join(
        f"\nresumed at step {again['step']:,} by\n\n    {told_command(again['command'])}\n"
        for again in started["resumed"][-RESUMED_SHOWN:]
    )
    further = "\n".join(f"    {line}" for line in ways_on(directory, started))
    return f"""{card}
## How it was made

    {command}

in {started["working_directory"]}, on the {started["backend"]} backend with {started["threads"]} threads
{resumed}
## How to go on

{further}

## What is here

| | |
|---|---|
| `report.html` | curves, samples, configuration and environment in one page, once training has stopped |
| `config.toml` | the configuration; `--config` reads it |
| `env.json` | versions, device, threads, Git commit, the hash of the text, the command |
| `metrics.jsonl` | a line for every few steps and every validation |
| `samples/`, `plots/` | text drawn while training; curves, where matplotlib is installed |
| `checkpoints/best`, `last` | model directories: the lowest validation loss, if any, and where to go on from |
"""


def ways_on(directory: Path, started: dict[str, Any]) -> list[str]:
    """Commands that use a run, or go on with it.

    The one that makes it once more is left out where config.toml alone does not: a run from another
    one's weights, from stdin or from a text of the caller's.
    """
    quoted = shlex.quote(str(directory))
    commands = [
        f'charlstm generate {quoted} --prompt "..." --length 500',
        f"charlstm evaluate {quoted}",
        f"charlstm train --resume {quoted} --max-time 10m  # limits count from the very start",
    ]
    config = Config.from_toml(directory / "config.toml")
    lasting = config.data.data in names() or "://" in config.data.data or os.path.isabs(config.data.data)
    if started["init_from"] is None and lasting:
        configuration = shlex.quote(str(directory / "config.toml"))
        commands.append(f"charlstm train --config {configuration}  # the same once more")
    return commands


def told_command(command: str | None) -> str:
    """A recorded command line, or that there was none."""
    return command if command is not None else "(a call from Python: charlstm.train or charlstm.resume)"
