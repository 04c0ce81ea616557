"""What `charlstm train` prints when it is done."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from ..generation import generate
from ..run import load
from ..sampling import SamplingConfig
from ..training import Reporter, Trainer, find_learning_rate, rehearse, write_report
from ..training.directory import new_directory
from ..wording import duration, in_nats, printable, write_text

SAMPLE = SamplingConfig(length=300)


def rehearsed(trainer: Trainer, json_output: bool) -> None:
    """--dry-run: the configuration as TOML, and in comments what the training would take."""
    found = rehearse(trainer)
    if json_output:
        print(json.dumps({**found._asdict(), "config": dataclasses.asdict(trainer.config)}))
        return
    memory = "unknown" if found.peak_memory is None else f"{found.peak_memory / 1e6:,.0f} MB"
    text, model = trainer.describe().rsplit("\n", 1)
    print(trainer.config.to_toml())
    print(
        f"# {text}\n"
        f"# {model}\n"
        f"# step        {1e3 * found.step_seconds:,.1f} ms, {found.tokens_per_second:,.0f} tokens/s\n"
        f"# validation  {duration(found.validation_seconds)}, with its checkpoint\n"
        f"# memory      {memory}, this process at its peak\n"
        f"# training    {duration(found.seconds)}: {found.steps:,} steps, {found.validations:,} validations"
    )


def find(trainer: Trainer, out: Path | None, reporter: Reporter, json_output: bool) -> None:
    """--find-lr: the learning rate as an option to copy; curve and figures go to `out`."""
    directory = new_directory(out, trainer.corpus.name)
    reporter.notice(trainer.describe())
    finding = find_learning_rate(trainer, directory)
    if json_output:
        print(json.dumps({"run": str(directory), **finding._asdict()}))
        return
    curve = directory / "plots" / "lr-finder.png"
    where = curve if curve.is_file() else f"{directory / 'lr-finder.json'} (matplotlib draws it)"
    reporter.notice(f"a twentieth of the highest rate that still learns; the curve is {where}")
    print(f"--learning-rate {finding.suggestion:g}")


def result(trainer: Trainer) -> dict[str, Any]:
    """--json: how far a training came."""
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


def tell(trainer: Trainer, reporter: Reporter, json_output: bool) -> None:
    """The result: a sample of the best checkpoint, how good it is, and how to go on."""
    directory = trainer.directory
    run = load(directory, trainer.model.ops)
    text = "".join(generate(run.model, run.tokenizer, "", SAMPLE))
    write_text(directory / "samples" / "best.txt", text)
    write_report(directory, trainer.outcome)
    if json_output:
        print(json.dumps({**result(trainer), "sample": text}))
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
    lines.append(f"curves, samples and configuration are in {directory / 'report.html'}")
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
    """The options that let a run go on for as long again: twice the limit that has ended it, others as they were."""
    training, used = trainer.config.training, trainer.limits()
    if training.early_stopping is not None and trainer.stopped_early:
        return f"--early-stopping {2 * training.early_stopping}"
    ended, options = max(used, key=lambda name: used[name]), []
    for name in used:
        value = getattr(training, name)
        if name == ended:
            value = f"{math.ceil(trainer.seconds / 30)}m" if name == "max_time" else 2 * value
        options.append(f"--{name.replace('_', '-')} {f'{value:g}' if isinstance(value, float) else value}")
    return " ".join(options)
