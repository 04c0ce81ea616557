"""`charlstm train`."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from cyclopts import Parameter

from ..config import Config, DataConfig, ModelConfig, SamplingConfig, TrainingConfig
from ..errors import UsageError
from ..generation import generate
from ..run import load
from ..training import (
    ConsoleReporter,
    Reporter,
    StopSignals,
    Trainer,
    find_learning_rate,
    prepare,
    rehearse,
    reopen,
)
from ..training.directory import write_text
from ..training.progress import in_nats, printable
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
    init_from: Path | None = None,
    extend_vocab: Annotated[bool, Parameter(negative="")] = False,
    find_lr: Annotated[bool, Parameter(name="--find-lr", negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    json_output: Json = False,
) -> int:
    """Train a language model.

    ```
    charlstm train                                # the embedded corpus, one minute
    charlstm train --data my.txt --max-time 10m   # your own text
    charlstm train --data my.txt --hidden-size 256 --epochs 20 --out runs/mine
    charlstm train --resume runs/mine --epochs 40
    charlstm train --data my.txt --find-lr        # which learning rate?
    charlstm train --data my.txt --epochs 20 --dry-run    # how long will it take?
    charlstm train --data new.txt --init-from runs/mine --extend-vocab --learning-rate 0.001
    ```

    Unless options say otherwise, the first 90 % of the text train, the rest validates. Ctrl-C finishes
    the step, saves, and prints the command that goes on; a second one stops at once. "best" marks the lowest
    validation loss so far, in nats per token (by default a character): a uniform guess has log(distinct tokens).

    Parameters
    ----------
    out
        Run directory to make [default: the first free runs/NAME-N].
    resume_from
        Go on from this run directory's last checkpoint, on its backend. Limits given now (--max-time,
        --max-steps, --epochs) take the place of the run's and count from its very start.
    init_from
        Start with the weights, sizes and vocabulary of this run, on the text of --data (fine-tuning).
    extend_vocab
        With --init-from: learn characters (or words) that the run does not know.
    find_lr
        Train for at most 300 steps at a rising learning rate, suggest one, draw the curve in a run
        directory of its own, and stop.
    dry_run
        Make a few steps, print the configuration, the parameters, memory and the time that the training
        would take, and write nothing.
    quiet
        Print no progress.
    """
    if quiet:
        logging.getLogger("charlstm").setLevel(logging.WARNING)
    reporter = Reporter() if quiet else ConsoleReporter()
    if resume_from is not None:
        if any((data, model, out, find_lr, dry_run, init_from, extend_vocab)):
            raise UsageError(
                "--resume goes on with the data, model and directory of the run: leave those options out"
            )
        trainer = reopen(resume_from, training, backend=backend, threads=threads, reporter=reporter)
    else:
        if init_from is not None and data is None:
            raise UsageError("--init-from goes with --data, the text to train on")
        config = Config(model or ModelConfig(), data or DataConfig(), training or TrainingConfig())
        with TemporaryDirectory() if dry_run else nullcontext(out) as directory:
            trainer = prepare(
                config.data.data, config, directory, backend or "auto", threads, reporter,
                init_from, extend_vocab,
            )  # fmt: skip
            if dry_run:
                return _rehearse(trainer, json_output)
    if find_lr:
        return _find(trainer, reporter, json_output)
    with StopSignals(reporter) as stop:
        finished = trainer.train(stop)
    if not finished:
        print(
            f"stopped at step {trainer.step:,}; go on with:\n"
            f"  charlstm train --resume {shlex.quote(str(trainer.directory))}",
            file=sys.stderr,
        )
    if stop.status:
        if json_output:
            print(json.dumps({**_result(trainer), "finished": finished}))
        return stop.status
    _report(trainer, reporter, json_output)
    return 0


def _rehearse(trainer: Trainer, json_output: bool) -> int:
    found = rehearse(trainer)
    if json_output:
        print(json.dumps({**found._asdict(), "config": dataclasses.asdict(trainer.config)}))
        return 0
    memory = "unknown" if found.peak_memory is None else f"{found.peak_memory / 1e6:,.0f} MB"
    print(trainer.config.to_toml())
    print(
        f"# {trainer.describe()}\n".replace("\n", "\n# ", 1)
        + f"# a step takes {1e3 * found.step_seconds:.1f} ms ({found.tokens_per_second:,.0f} tokens/s); "
        f"memory so far: {memory}\n"
        f"# {found.steps:,} steps: {_duration(found.seconds)}, and validations"
    )
    return 0


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{hours:.1f} hours"
        if hours >= 2
        else f"{minutes:.1f} minutes"
        if minutes >= 2
        else f"{seconds:.0f} s"
    )


def _find(trainer: Trainer, reporter: Reporter, json_output: bool) -> int:
    reporter.notice(trainer.describe())
    finding = find_learning_rate(trainer)
    if json_output:
        print(json.dumps({"run": str(trainer.directory), **finding._asdict()}))
        return 0
    curve = trainer.directory / "plots" / "lr-finder.png"
    where = curve if curve.is_file() else f"{trainer.directory / 'lr-finder.json'} (matplotlib draws it)"
    reporter.notice(f"a twentieth of the highest rate that still learns; the curve is {where}")
    print(f"--learning-rate {finding.suggestion:g}")
    return 0


def _result(trainer: Trainer) -> dict[str, Any]:
    return {
        "run": str(trainer.directory),
        "finished": True,
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 3),
        "val_loss": trainer.best_val_loss,
        "best_step": trainer.best_step,
        "entropy": trainer.corpus.entropy,
    }


def _report(trainer: Trainer, reporter: Reporter, json_output: bool) -> None:
    """The result: a sample of the best checkpoint, how good it is, and how to go on."""
    directory = trainer.directory
    run = load(directory, trainer.model.ops)
    text = "".join(generate(run.model, run.tokenizer, "", SAMPLE))
    write_text(directory / "samples" / "best.txt", text)
    if json_output:
        print(json.dumps({**_result(trainer), "sample": text}))
        return
    reporter.notice(f"--- a sample of {directory}")
    sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()
    reporter.notice("---\n" + _closing(trainer))


def _closing(trainer: Trainer) -> str:
    directory, best = trainer.directory, trainer.best_val_loss
    unit = trainer.corpus.tokenizer.unit
    lines = ["nothing validated: best is the last checkpoint"]
    if best is not None:
        lines = [f"best validation loss: {in_nats(best)} nats per {unit}, at step {trainer.best_step:,}"]
    if best is not None and trainer.corpus.entropy is not None:
        lines.append(
            f"that is {in_nats(best - trainer.corpus.entropy)} above {trainer.corpus.entropy:.4f}, "
            f"the entropy of this made-up language:\nno model can do better than that"
        )
    if trainer.best_step < 0.8 * trainer.step:
        lines.append("it has risen since: a larger --dropout or a smaller model would learn less by heart")
    curves = "curves (plots/), " if (directory / "plots").is_dir() else ""
    lines.append(f"{curves}samples and checkpoints are in {directory}")
    if not curves:
        lines.append("(pip install matplotlib, and the next run draws its curves)")
    quoted = shlex.quote(str(directory))
    return "\n".join(
        [
            *lines,
            "go on with:",
            f"  charlstm generate {quoted} --length 500",
            f"  charlstm train --resume {quoted} {_twice(trainer)}",
            "  charlstm train --data your-own.txt --max-time 10m",
        ]
    )


def _twice(trainer: Trainer) -> str:
    """The option that lets a run go on for as long again."""
    training = trainer.config.training
    if training.early_stopping is not None and trainer.stopped_early:
        return f"--early-stopping {2 * training.early_stopping}"
    if training.max_steps is not None:
        return f"--max-steps {2 * training.max_steps}"
    if training.epochs is not None:
        return f"--epochs {2 * training.epochs:g}"
    return f"--max-time {math.ceil(trainer.seconds / 30)}m"
