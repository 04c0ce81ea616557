"""Training a language model: `train` for programs, and what the command line builds on."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends import MatmulPrecision, Ops, get_ops
from ..checkpoint import read_json
from ..config import LIMITS, Config, DataConfig, Tables, TrainingConfig, differing, without_effect
from ..data import (
    KEPT_STDIN,
    STDIN,
    Corpus,
    batches_of,
    fit_to,
    names,
    overlap,
    part_of,
    predicted,
    spooled_stdin,
)
from ..errors import CheckpointError, DataError, UsageError
from ..model import CIFGModel
from ..run import Run, load
from ..wording import write_text
from . import finetuning, tensorboard
from .directory import check_free, environment, new_directory
from .finder import Finding, find_learning_rate
from .progress import ConsoleReporter, Reporter
from .rehearsal import Rehearsal, rehearse
from .report import write_report
from .signals import StopSignals
from .trainer import Trainer

__all__ = [
    "ConsoleReporter", "Finding", "Rehearsal", "Reporter", "StopSignals", "Trainer", "find_learning_rate",
    "prepare", "rehearse", "reopen", "resume", "train", "write_report",
]  # fmt: skip

CHANGEABLE = (*LIMITS, "early_stopping", "tensorboard")  # on resuming


def train(
    data: str | Path | Corpus = "coffee",
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    backend: str | Ops = "auto",
    threads: int | None = None,
    matmul_precision: MatmulPrecision = "highest",
    init_from: str | Path | None = None,
    extend_vocab: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a language model and return the run, with its best checkpoint loaded.

    data     what `DataConfig.data` describes: a file, a directory, a glob, an address, a name; or a `Corpus`
    config   model, data and training options; `config.data.data` gives way to `data`
    out      the run directory to make; None: the first free runs/NAME-N
    backend, threads, matmul_precision   what computes, and how (`charlstm.backends.get_ops`)
    init_from     a run or model directory whose weights, sizes and vocabulary this one starts with;
                  of the model's options only what is dropped is then free
    extend_vocab  learn characters (or words) that `init_from` does not know
    quiet    print no progress on stderr

    Ctrl-C finishes the step and saves, then raises KeyboardInterrupt; `resume` goes on.
    Raises UsageError, DataError, BackendError, DivergedError or CheckpointError; each says what
    to do about it.
    """
    config = config if config is not None else Config()
    if not isinstance(config, Config):
        raise UsageError(f"config must be a charlstm.Config, not a {type(config).__name__}")
    reporter = Reporter() if quiet else ConsoleReporter()
    ops = get_ops(backend, threads, matmul_precision)
    return _finish(prepare(data, config, out, ops, None, reporter, init_from, extend_vocab))


def resume(
    directory: str | Path,
    limits: TrainingConfig | None = None,
    *,
    backend: str | Ops | None = None,
    threads: int | None = None,
    matmul_precision: MatmulPrecision | None = None,
    quiet: bool = False,
    corpus: Corpus | None = None,
) -> Run:
    """Go on with a run from its last checkpoint and return it, with its best checkpoint loaded.

    limits   new values for max_time, max_steps and epochs, counted from the run's very start;
             they take the place of the run's, and early_stopping of the run's; other options must be the run's
    backend, threads, matmul_precision   those that the run was started with, unless given
    quiet    print no progress on stderr
    corpus   the text, for a run that was not started from a file or name

    Raises CheckpointError where there is no whole checkpoint, DataError where the text changed, UsageError
    where the limits are reached already or an option is not the run's.
    """
    reporter = Reporter() if quiet else ConsoleReporter()
    return _finish(
        reopen(
            directory, limits, backend=backend, threads=threads, matmul_precision=matmul_precision,
            reporter=reporter, corpus=corpus,
        )
    )  # fmt: skip


def _finish(trainer: Trainer) -> Run:
    with StopSignals(trainer.reporter) as stop:
        trainer.train(stop)
    if stop.status:
        raise KeyboardInterrupt(f"saved at step {trainer.step}: charlstm.resume({str(trainer.directory)!r})")
    return load(trainer.directory, trainer.model.ops)


def prepare(
    data: str | Path | Corpus,
    config: Config,
    out: str | Path | None,
    backend: str | Ops,
    threads: int | None,
    reporter: Reporter,
    init_from: str | Path | None = None,
    extend_vocab: bool = False,
    *,
    given: Tables | None = None,
    command: str | None = None,
) -> Trainer:
    """A trainer at step 0, in a new run directory.

    given    the options of `config` that were asked for; by default those that are not the defaults
    command  the command line that asked for it, where there was one
    """
    if config.training.tensorboard:
        tensorboard.check_installed()
    given = (
        {
            "model": differing(config.model),
            "data": differing(config.data),
        }
        if given is None
        else given
    )
    with ExitStack() as stack:
        return _prepare(
            data,
            config,
            out,
            get_ops(backend, threads),
            reporter,
            init_from,
            extend_vocab,
            given,
            command,
            stack,
        )


def _prepare(
    data: str | Path | Corpus,
    config: Config,
    out: str | Path | None,
    ops: Ops,
    reporter: Reporter,
    init_from: str | Path | None,
    extend_vocab: bool,
    given: Tables,
    command: str | None,
    stack: ExitStack,
) -> Trainer:
    start = None if init_from is None else load(init_from, ops)
    if start is not None:
        config = replace(
            config,
            model=finetuning.model_config(start, config.model, given.get("model", {})),
            data=finetuning.data_config(start, config.data, given.get("data", {}), extend_vocab),
        )
    elif extend_vocab:
        raise UsageError("extend_vocab goes with init_from, the run whose vocabulary is extended")
    if out is not None:
        check_free(Path(out))  # before anything that takes a while
    config = replace(config, data=_lasting(data, config.data))
    source, spooled = data if isinstance(data, Corpus) else config.data, None
    if isinstance(source, DataConfig) and source.data == STDIN:
        spooled = stack.enter_context(spooled_stdin())
        source = replace(source, data=str(spooled))
    if start is not None:
        corpus = finetuning.corpus_for(start, source, extend_vocab)
    else:
        corpus = source if isinstance(source, Corpus) else Corpus.load(source)
    if corpus.tokenizer.changes is not None:
        reporter.notice(str(corpus.tokenizer.changes))
    if corpus.unknown and corpus.tokenizer.policy(config.data.on_unknown) != "error":
        reporter.notice(corpus.tokenizer.tell_unknown(corpus.unknown, config.data.on_unknown))
    fitted = fit_to(len(corpus.train), config.data)
    if fitted != config.data:
        reporter.notice(
            f"{corpus.name} has only {len(corpus.train):,} training {corpus.tokenizer.unit}s: "
            f"batch size {fitted.batch_size} and sequence length {fitted.seq_len} in place of "
            f"{config.data.batch_size} and {config.data.seq_len}"
        )
        config = replace(config, data=fitted)
    batches_of(corpus, config)  # what cannot be cut so leaves no directory behind
    _check_validation(corpus, config)
    shared = overlap(corpus, config.data)
    _tell_validation(corpus, config.data, shared, reporter)
    for option, problem in without_effect(config.training).items():
        if option in differing(config.training):
            reporter.notice(problem)
    model = CIFGModel(len(corpus.tokenizer), config.model, backend=ops, seed=config.training.seed)
    if start is not None:
        finetuning.take_weights(model, start)
    directory = new_directory(None if out is None else Path(out), corpus.name)
    (directory / "samples").mkdir(exist_ok=True)
    if spooled is not None:
        shutil.copyfile(spooled, directory / KEPT_STDIN)
    write_text(directory / "config.toml", config.to_toml())
    record = environment(model, corpus, config.data, shared, command) | {
        "init_from": None if start is None else str(start.directory.resolve())
    }
    write_text(directory / "env.json", json.dumps(record, indent=1) + "\n")
    write_text(directory / "tokenizer.json", corpus.tokenizer.to_json())
    return Trainer(model, corpus, config, directory, reporter)


def _check_validation(corpus: Corpus, config: Config) -> None:
    """UsageError where nothing validates, but something must."""
    training = config.training
    needed = training.early_stopping or training.schedule == "plateau" or training.averaging == "nt-asgd"
    if needed and part_of(corpus, config.data, "val") is None:
        raise UsageError(
            "early stopping, the plateau schedule and nt-asgd go by the validation loss: "
            "give a --val-fraction above 0, or --val-data"
        )


def _tell_validation(corpus: Corpus, data: DataConfig, shared: dict[str, float], reporter: Reporter) -> None:
    """What a user should know of the text that validates."""
    val = part_of(corpus, data, "val")
    if val is None:
        reporter.notice("nothing validates: the checkpoint called best is the last one")
        return
    if predicted(val) > data.max_val_tokens:
        reporter.notice(
            f"each validation reads {data.max_val_tokens:,} of {predicted(val):,} {corpus.tokenizer.unit}s "
            f"(--max-val-tokens); evaluate reads all"
        )
    if "covered" in shared:
        reporter.notice(
            f"windows overlap: {100 * shared['covered']:.2f} % of the {corpus.tokenizer.unit}s "
            f"that validate stand in windows that train, so their loss is not that of new text"
        )


def _lasting(data: str | Path | Corpus, config: DataConfig) -> DataConfig:
    """With paths made absolute, so that the run can go on from any folder, and a corpus's own tokenizer."""
    name = data.name if isinstance(data, Corpus) else _lasting_name(str(data))
    if isinstance(data, Corpus):
        tokenizer = data.tokenizer
        config = replace(
            config, tokenizer=tokenizer.kind, normalize=tokenizer.normalize, vocab_size=None, min_count=None
        )
    return replace(
        config,
        data=name,
        val_data=config.val_data and _lasting_name(config.val_data),
        test_data=config.test_data and _lasting_name(config.test_data),
    )


def _lasting_name(data: str) -> str:
    known = data == STDIN or data in names() or "://" in data
    named = data if known else os.path.abspath(data)
    if os.path.isfile(named) or os.path.isdir(named):
        named = str(Path(named).resolve())
    try:
        named.encode()
    except UnicodeEncodeError:
        raise DataError(f"the path {named!r} is not UTF-8: rename the file") from None
    return named


def reopen(
    directory: str | Path,
    limits: TrainingConfig | Tables | None = None,
    *,
    backend: str | Ops | None = None,
    threads: int | None = None,
    matmul_precision: MatmulPrecision | None = None,
    reporter: Reporter | None = None,
    corpus: Corpus | None = None,
    command: str | None = None,
) -> Trainer:
    """A trainer at the last checkpoint of a run; `train()` on it goes on.

    limits   new values for max_time, max_steps and epochs, counted from the run's very start;
             they take the place of the run's, and early_stopping of the run's; other options must
             be the run's. Of a `TrainingConfig`, fields that are the defaults count as not given;
             of tables (`Config.from_tables`) every option is given
    backend, threads, matmul_precision   those that the run was started with, unless given
    corpus   the text, for a run that was not started from a file or name
    command  the command line that asked for it, where there was one

    Raises CheckpointError where there is no whole checkpoint, DataError where the text changed.
    """
    directory = Path(directory)
    if not (directory / "checkpoints").is_dir():
        raise CheckpointError(f"{directory} holds no checkpoint to go on from")
    saved = Config.from_toml(directory / "config.toml")
    asked = {"training": differing(limits)} if isinstance(limits, TrainingConfig) else limits or {}
    config = _continued(saved, asked)
    if config.training.tensorboard:
        tensorboard.check_installed()
    started = read_json(directory / "env.json")
    backend = backend if backend is not None else str(started.get("backend", "auto"))
    threads = threads if threads is not None else started.get("threads")
    if matmul_precision is None:  # runs of earlier versions do not name it
        matmul_precision = started.get("matmul_precision", "highest")
    run = load(directory, get_ops(backend, threads, matmul_precision), which="last")
    if corpus is None:  # skipping: new characters show in the text's hash
        policy = run.tokenizer.policy(config.data.on_unknown)
        corpus = Corpus.load(run.data_config, run.tokenizer, "skip" if policy == "error" else policy)
    _check_validation(corpus, config)
    trainer = Trainer(run.model, corpus, config, directory, reporter if reporter is not None else Reporter())
    trainer.restore()
    if trainer.progress() >= 1:
        raise UsageError(
            f"{directory} has reached its limits after {trainer.step:,} steps and {trainer.seconds:.0f} s: "
            f"give a larger max_time, max_steps, epochs or early_stopping, counted from its very start"
        )
    if config != saved:
        write_text(directory / "config.toml", config.to_toml())
    started["resumed"] = [*started["resumed"], {"step": trainer.step, "command": command}]
    write_text(directory / "env.json", json.dumps(started, indent=1) + "\n")
    return trainer


def _continued(saved: Config, asked: Tables) -> Config:
    """A run's configuration with the limits asked for; UsageError where another option is not the run's."""
    changes: dict[str, Any] = {}
    for concern, table in asked.items():
        for name, value in table.items():
            before = getattr(getattr(saved, concern), name)
            if name in CHANGEABLE:
                changes[name] = value
            elif (_lasting_name(value) if name in ("data", "val_data", "test_data") else value) != before:
                raise UsageError(
                    f"{name} belongs to the run, where it is {before}: it cannot become {value} on resuming "
                    f"({', '.join(CHANGEABLE)} can)"
                )
    if any(limit in changes for limit in LIMITS):
        changes = dict.fromkeys(LIMITS) | changes
    return replace(saved, training=replace(saved.training, **changes))
