"""Training a language model: `train` for programs, and what the command line builds on."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path

from ..backends import Ops, get_ops
from ..checkpoint import read_json
from ..config import Config, TrainingConfig
from ..data import EMBEDDED, Corpus, fit_to
from ..errors import CheckpointError, DataError, UsageError
from ..model import CIFGModel
from ..run import Run, load
from . import finetuning
from .directory import environment, new_directory, write_text
from .finder import Finding, find_learning_rate
from .progress import ConsoleReporter, Reporter
from .rehearsal import Rehearsal, rehearse
from .signals import StopSignals
from .trainer import Trainer

__all__ = [
    "ConsoleReporter", "Finding", "Rehearsal", "Reporter", "StopSignals", "Trainer", "find_learning_rate",
    "prepare", "rehearse", "reopen", "resume", "train",
]  # fmt: skip


def train(
    data: str | Path | Corpus = "coffee",
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    backend: str | Ops = "auto",
    threads: int | None = None,
    init_from: str | Path | None = None,
    extend_vocab: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a language model and return the run, with its best checkpoint loaded.

    data     a text file, the name of an embedded corpus, or a `Corpus`
    config   model, data and training options; `config.data.data` gives way to `data`
    out      the run directory to make; None: the first free runs/NAME-N
    init_from     a run or model directory whose weights, sizes and vocabulary this one starts with;
                  of the model's options only what is dropped is then free
    extend_vocab  learn characters that `init_from` does not know
    quiet    print no progress on stderr

    Ctrl-C finishes the step and saves, then raises KeyboardInterrupt; `resume` goes on.
    Raises UsageError, DataError, BackendError, DivergedError or CheckpointError; each says what
    to do about it.
    """
    config = config if config is not None else Config()
    if not isinstance(config, Config):
        raise UsageError(f"config must be a charlstm.Config, not a {type(config).__name__}")
    reporter = Reporter() if quiet else ConsoleReporter()
    return _finish(prepare(data, config, out, backend, threads, reporter, init_from, extend_vocab))


def resume(
    directory: str | Path,
    limits: TrainingConfig | None = None,
    *,
    backend: str | Ops | None = None,
    threads: int | None = None,
    quiet: bool = False,
    corpus: Corpus | None = None,
) -> Run:
    """Go on with a run from its last checkpoint and return it, with its best checkpoint loaded.

    The arguments and errors are those of `reopen`.
    """
    reporter = Reporter() if quiet else ConsoleReporter()
    return _finish(
        reopen(directory, limits, backend=backend, threads=threads, reporter=reporter, corpus=corpus)
    )


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
) -> Trainer:
    """A trainer at step 0, in a new run directory."""
    ops = get_ops(backend, threads)
    start = None if init_from is None else load(init_from, ops)
    if start is not None:
        config = replace(config, model=finetuning.model_config(start, config.model))
    elif extend_vocab:
        raise UsageError("extend_vocab goes with init_from, the run whose vocabulary is extended")
    name = data.name if isinstance(data, Corpus) else _lasting_name(data)
    config = replace(config, data=replace(config.data, data=name))
    source = data if isinstance(data, Corpus) else config.data
    if start is not None:
        corpus = finetuning.corpus_for(start, source, extend_vocab)
    else:
        corpus = source if isinstance(source, Corpus) else Corpus.load(source)
    fitted = fit_to(len(corpus.train), config.data)
    if fitted != config.data:
        reporter.notice(
            f"{corpus.name} has only {len(corpus.train):,} training characters: "
            f"batch size {fitted.batch_size} and sequence length {fitted.seq_len} in place of "
            f"{config.data.batch_size} and {config.data.seq_len}"
        )
        config = replace(config, data=fitted)
    model = CIFGModel(len(corpus.tokenizer), config.model, backend=ops, seed=config.training.seed)
    if start is not None:
        finetuning.take_weights(model, start)
    directory = new_directory(None if out is None else Path(out), corpus.name)
    write_text(directory / "config.toml", config.to_toml())
    record = environment(ops, corpus) | {
        "init_from": None if start is None else str(start.directory.resolve())
    }
    write_text(directory / "env.json", json.dumps(record, indent=1) + "\n")
    write_text(directory / "tokenizer.json", corpus.tokenizer.to_json())
    return Trainer(model, corpus, config, directory, reporter)


def _lasting_name(data: str | Path) -> str:
    """A corpus's name, or a file's absolute path, so that the run can go on from any folder."""
    is_file = str(data) not in EMBEDDED and os.path.exists(data)
    named = str(Path(data).resolve()) if is_file else str(data)
    try:
        named.encode()
    except UnicodeEncodeError:
        raise DataError(f"the path {named!r} is not UTF-8: rename the file") from None
    return named


def reopen(
    directory: str | Path,
    limits: TrainingConfig | None = None,
    *,
    backend: str | Ops | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
    corpus: Corpus | None = None,
) -> Trainer:
    """A trainer at the last checkpoint of a run; `train()` on it goes on.

    limits   new values for max_time, max_steps and epochs, counted from the run's very start;
             they take the place of the run's, and early_stopping of the run's; its other fields
             must be the defaults or the run's
    backend  and threads: those that the run was started with, unless given
    corpus   the text, for a run that was not started from a file or name

    Raises CheckpointError where there is no whole checkpoint, DataError where the text changed.
    """
    directory = Path(directory)
    if not (directory / "checkpoints").is_dir():
        raise CheckpointError(f"{directory} holds no checkpoint to go on from")
    config = Config.from_toml(directory / "config.toml")
    if limits is not None:
        config = replace(config, training=_with_limits(config.training, limits))
    started = read_json(directory / "env.json")
    backend = backend if backend is not None else str(started.get("backend", "auto"))
    threads = threads if threads is not None else started.get("threads")
    run = load(directory, get_ops(backend, threads), which="last")
    if corpus is None:  # skipping: new characters show in the text's hash
        corpus = Corpus.load(config.data, run.tokenizer, "skip")
    trainer = Trainer(run.model, corpus, config, directory, reporter if reporter is not None else Reporter())
    trainer.restore()
    if trainer.progress() >= 1:
        raise UsageError(
            f"{directory} has reached its limits after {trainer.step:,} steps and {trainer.seconds:.0f} s: "
            f"give a larger max_time, max_steps, epochs or early_stopping, counted from its very start"
        )
    if limits is not None:
        write_text(directory / "config.toml", config.to_toml())
    return trainer


def _with_limits(saved: TrainingConfig, asked: TrainingConfig) -> TrainingConfig:
    limits = {name: getattr(asked, name) for name in ("max_time", "max_steps", "epochs")}
    if asked.early_stopping is not None:
        saved = replace(saved, early_stopping=asked.early_stopping)
    default = TrainingConfig()
    for field in dataclasses.fields(TrainingConfig):
        value = getattr(asked, field.name)
        if field.name not in limits and value not in (
            getattr(default, field.name),
            getattr(saved, field.name),
        ):
            raise UsageError(
                f"{field.name} belongs to the run and cannot change on resuming ({', '.join(limits)} can)"
            )
    return saved if all(value is None for value in limits.values()) else replace(saved, **limits)
