"""`charlstm train`."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import Parameter

from ..backends import get_ops
from ..errors import UsageError
from ..training import ConsoleReporter, Reporter, StopSignals, prepare, reopen
from .configuration import DataOptions, ModelOptions, TrainingOptions, configured, preset_help, tables
from .options import COMMAND, Backend, Json, Precision, Threads
from .results import find, rehearsed, result, tell


def train(
    *,
    data: Annotated[DataOptions | None, Parameter(name="*")] = None,
    model: Annotated[ModelOptions | None, Parameter(name="*")] = None,
    training: Annotated[TrainingOptions | None, Parameter(name="*")] = None,
    preset: Annotated[str | None, Parameter(help=preset_help())] = None,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    backend: Backend | None = None,
    threads: Threads = None,
    matmul_precision: Precision | None = None,
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
    charlstm train --config runs/mine/config.toml --seed 1    # the same with another seed
    ```

    Unless options say otherwise, the first 90 % of the text train, the rest validates. Ctrl-C finishes
    the step, saves, and prints the command that goes on; a second one stops at once. "best" marks the lowest
    validation loss so far, in nats per token (by default a character): a uniform guess has log(distinct tokens).

    Parameters
    ----------
    config_file
        Options in TOML, in tables [model], [data] and [training], such as a run's config.toml. Options on the
        command line override it; a limit there takes the place of all limits in the file.
    out
        Run directory to make [default: the first free runs/NAME-N].
    resume_from
        Go on from this run directory's last checkpoint, on its backend. Limits given now (--max-time,
        --max-steps, --epochs) take the place of the run's and count from its very start. Other options
        can only be the run's.
    init_from
        Start with the weights, sizes and vocabulary of this run, on the text of --data (fine-tuning).
    extend_vocab
        With --init-from: learn characters (or words) that the run does not know.
    find_lr
        Train for at most 300 steps at a rising learning rate, suggest one, draw the curve in --out, and
        stop. A training can then use the same --out.
    dry_run
        Make a few steps, a validation and a checkpoint; print the configuration, the parameters, memory and
        the time that the training would take; leave nothing behind.
    quiet
        Print no progress, only what comes out of it.
    """
    if quiet:
        logging.getLogger("charlstm").setLevel(logging.WARNING)
    reporter = Reporter() if quiet else ConsoleReporter()
    flags = tables(data, model, training)
    if resume_from is not None:
        if any((out, find_lr, dry_run, init_from, extend_vocab, preset, config_file)):
            raise UsageError(
                "--resume goes on with the configuration and directory of the run: leave out --out, --config, "
                "--preset, --init-from, --extend-vocab, --find-lr and --dry-run"
            )
        trainer = reopen(
            resume_from,
            flags,
            backend=backend,
            threads=threads,
            matmul_precision=matmul_precision,
            reporter=reporter,
            command=COMMAND.get(),
        )
    else:
        if find_lr and dry_run:
            raise UsageError("--find-lr and --dry-run are two things to do: choose one")
        config, given = configured(preset, config_file, flags)
        if init_from is not None and "data" not in given.get("data", {}):
            raise UsageError("--init-from goes with --data, the text to train on")
        ops = get_ops(backend or "auto", threads, matmul_precision or "highest")
        with TemporaryDirectory() if dry_run or find_lr else nullcontext(out) as directory:
            trainer = prepare(
                config.data.data, config, directory, ops, None, reporter, init_from, extend_vocab,
                given=given, command=COMMAND.get(),
            )  # fmt: skip
            if dry_run:
                rehearsed(trainer, json_output)
                return 0
            if find_lr:
                find(trainer, out, reporter, json_output)
                return 0
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
            print(json.dumps({**result(trainer), "finished": finished}))
        return stop.status
    tell(trainer, reporter, json_output)
    return 0
