"""`charlstm train`."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import Parameter

from ..config import Config, DataConfig, ModelConfig, SamplingConfig, TrainingConfig
from ..errors import UsageError
from ..generation import generate
from ..run import load
from ..training import ConsoleReporter, Reporter, Trainer, prepare, resume
from ..training.progress import in_nats
from .options import Backend, Json, Threads

SAMPLE = SamplingConfig(length=300)


def train(
    *,
    data: Annotated[DataConfig | None, Parameter(name="*")] = None,
    model: Annotated[ModelConfig | None, Parameter(name="*")] = None,
    training: Annotated[TrainingConfig | None, Parameter(name="*")] = None,
    backend: Backend | None = None,
    threads: Threads = None,
    out: Path | None = None,
    resume_from: Annotated[Path | None, Parameter(name="--resume")] = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    json_output: Json = False,
) -> int:
    """Train a character language model.

    ```
    charlstm train                                # the embedded corpus, one minute
    charlstm train --data my.txt --max-time 10m   # your own text
    charlstm train --data my.txt --hidden-size 256 --epochs 20 --out runs/mine
    charlstm train --resume runs/mine --epochs 40
    ```

    The first 90 % of the text train, the rest validates. Ctrl-C finishes the step, saves, and
    prints the command that goes on; a second one stops at once.

    Parameters
    ----------
    out
        Run directory to make [default: the first free runs/NAME-N].
    resume_from
        Go on from this run directory's last checkpoint, on its backend. Limits given now (--max-time,
        --max-steps, --epochs) take the place of the run's and count from its very start.
    quiet
        Print no progress.
    """
    reporter = Reporter() if quiet else ConsoleReporter()
    if resume_from is not None:
        if data is not None or model is not None or out is not None:
            raise UsageError(
                "--resume goes on with the data, model and directory of the run: leave those options out"
            )
        trainer = resume(resume_from, training, backend=backend, threads=threads, reporter=reporter)
    else:
        config = Config(model or ModelConfig(), data or DataConfig(), training or TrainingConfig())
        trainer = prepare(config.data.data, config, out, backend or "auto", threads, reporter)
    reporter.notice(_opening(trainer))
    with _StopSignals(reporter) as stop:
        finished = trainer.train(stop)
    if not finished:
        reporter.notice(
            f"stopped at step {trainer.step:,}; go on with:\n"
            f"  charlstm train --resume {shlex.quote(str(trainer.directory))}"
        )
    if stop.status:
        return stop.status
    _report(trainer, reporter, json_output)
    return 0


class _StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop; the next SIGINT stops at once."""

    def __init__(self, reporter: Reporter) -> None:
        self.status = 0
        self._reporter = reporter
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._requested)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _requested(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        if self.status:  # told here, because a handler may have interrupted another message
            self._reporter.notice("stopping and saving (Ctrl-C stops at once)")
        return self.status != 0


def _opening(trainer: Trainer) -> str:
    model, corpus, data = trainer.model, trainer.corpus, trainer.config.data
    return (
        f"{corpus.name}: {len(corpus.train):,} characters train, {len(corpus.val):,} validate, "
        f"{len(corpus.tokenizer)} distinct\n"
        f"{model.num_parameters:,} parameters: {model.config.num_layers} layers of "
        f"{model.config.hidden_size}, batches of {data.batch_size} x {data.seq_len}, "
        f"{model.ops.name} on {model.ops.threads()} threads"
    )


def _report(trainer: Trainer, reporter: Reporter, json_output: bool) -> None:
    """The result: a sample of the best checkpoint, how good it is, and how to go on."""
    directory = trainer.directory
    run = load(directory, trainer.model.ops)
    text = "".join(generate(run.model, run.tokenizer, "", SAMPLE))
    result: dict[str, Any] = {
        "run": str(directory),
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 3),
        "val_loss": trainer.best_val_loss,
        "best_step": trainer.best_step,
        "entropy": trainer.corpus.entropy,
        "sample": text,
    }
    if json_output:
        print(json.dumps(result))
        return
    reporter.notice(f"--- a sample of {directory}")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    reporter.notice("---\n" + _closing(trainer))


def _closing(trainer: Trainer) -> str:
    directory, best = trainer.directory, trainer.best_val_loss or 0.0
    lines = [f"validation loss {in_nats(best)} nats per character (step {trainer.best_step:,})"]
    if trainer.corpus.entropy is not None:
        lines[0] += (
            f", {in_nats(best - trainer.corpus.entropy)} above the {trainer.corpus.entropy:.4f} "
            f"below which no model of this source can stay"
        )
    quoted = shlex.quote(str(directory))
    return "\n".join(
        [
            *lines,
            f"curves, samples and checkpoints are in {directory}; go on with:",
            f"  charlstm generate {quoted} --length 500",
            f"  charlstm train --resume {quoted} {_twice(trainer)}",
            "  charlstm train --data your-own.txt --max-time 10m",
        ]
    )


def _twice(trainer: Trainer) -> str:
    """The option that lets a run go on for as long again."""
    training = trainer.config.training
    if training.max_steps is not None:
        return f"--max-steps {2 * training.max_steps}"
    if training.epochs is not None:
        return f"--epochs {2 * training.epochs:g}"
    return f"--max-time {math.ceil(trainer.seconds / 30)}m"
