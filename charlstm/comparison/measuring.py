"""What runs make of one text, and whether it was one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import checkpoint
from ..backends import Ops
from ..config import Config, OnUnknown
from ..data import STDIN, Corpus, Part, Tokenizer, Windows
from ..errors import CharLSTMError, CheckpointError, UsageError
from ..evaluation import DetailedEvaluation, figures_of, resampling
from ..evaluation.figures import CONFIDENCE, FEWEST
from ..run import SPLITS, Run, Split, Which, default_split, load, parts_of

BLOCK = 1 << 20  # tokens that are decoded at once
Interval = tuple[float, float]


class LeftOut(NamedTuple):
    """A directory that could not be loaded."""

    directory: Path
    reason: str


@dataclass(frozen=True)
class Measured:
    """A run and how well it predicts the text."""

    directory: Path
    evaluation: DetailedEvaluation
    parameters: int
    options: dict[str, Any]
    """Its configuration, by "concern.option"; of a model directory that of the model alone."""
    metrics: list[dict[str, Any]]
    """Lines of its metrics.jsonl; none for a model directory."""
    notes: list[str]
    """What to know before one believes the figures."""

    @property
    def bits_per_char(self) -> float:
        return self.evaluation.bits_per_char

    @cached_property
    def training(self) -> dict[str, float | int | None]:
        """How it was trained, as far as metrics.jsonl tells: steps, tokens, seconds, the median speed, and losses
        in nats per token."""
        last = self.metrics[-1] if self.metrics else {}
        speeds = [line["tokens_per_second"] for line in self.metrics if "tokens_per_second" in line]
        losses = [line["loss"] for line in self.metrics if "loss" in line]
        validations = [line for line in self.metrics if "val_loss" in line]
        best = min(validations, key=lambda line: line["val_loss"]) if validations else {}
        return {
            "steps": last.get("step"),
            "tokens": last.get("tokens"),
            "seconds": last.get("seconds"),
            "tokens_per_second": float(np.median(speeds)) if speeds else None,
            "last_loss": losses[-1] if losses else None,
            "last_val_loss": validations[-1]["val_loss"] if validations else None,
            "best_val_loss": best.get("val_loss"),
            "best_step": best.get("step"),
        }


@dataclass(frozen=True)
class Comparison:
    """Runs, those with the fewest bits per character first, measured on one text."""

    text: str
    """What was read, in words."""
    runs: list[Measured]
    left_out: list[LeftOut]

    @cached_property
    def differences(self) -> list[tuple[float, Interval | None]]:
        """By how many bits per character each run is worse than the first, and where 95 % of its resampled values
        lie: the paired bootstrap, which draws the same segments of the text for both runs (Koehn 2004).

        No interval for fewer than 20 segments (4,000 characters), or where the vocabularies keep so much
        less of the text that its segments are others.
        """
        first = self.runs[0]
        return [(run.bits_per_char - first.bits_per_char, _interval(run, first)) for run in self.runs]

    @cached_property
    def differing(self) -> dict[str, list[Any]]:
        """The options in which runs differ, with the value of each run; None where it is not set, or not known."""
        known = dict.fromkeys(name for run in self.runs for name in run.options)
        values = {name: [run.options[name] for run in self.runs if name in run.options] for name in known}
        return {
            name: [run.options.get(name) for run in self.runs]
            for name, (value, *others) in values.items()
            if any(other != value for other in others)
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it but the sums over segments, for JSON."""
        return {
            "text": self.text,
            "confidence": CONFIDENCE,
            "runs": [
                {
                    "run": str(run.directory),
                    "bits_per_char": run.bits_per_char,
                    "interval": run.evaluation.intervals["bits_per_char"],
                    "difference": difference,
                    "difference_interval": interval,
                    "loss": run.evaluation.loss,
                    "perplexity": run.evaluation.perplexity,
                    "tokens": run.evaluation.tokens,
                    "characters": run.evaluation.characters,
                    "parameters": run.parameters,
                    "training": run.training,
                    "options": run.options,
                    "notes": run.notes,
                }
                for run, (difference, interval) in zip(self.runs, self.differences, strict=True)
            ],
            "differing_options": self.differing,
            "left_out": [{"run": str(one.directory), "reason": one.reason} for one in self.left_out],
        }


def _interval(run: Measured, first: Measured) -> Interval | None:
    own, other = run.evaluation.segments, first.evaluation.segments
    if run is first or len(own) != len(other):
        return None
    read = (own.tokens > 0) & (other.tokens > 0)
    if read.sum() < FEWEST:
        return None
    counts = resampling(int(read.sum()), run.evaluation.config.bootstrap_seed)
    values = [figures_of(each, counts, read)["bits_per_char"] for each in (own, other)]
    low, high = np.quantile(values[0] - values[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


class _Read(NamedTuple):
    """Which text a run was measured on."""

    source: str  # hash of what it was cut from
    whole: bool  # whether all of that was read, token by token
    sha256: str  # of what was read, as the run's vocabulary keeps it
    described: str


def compare(
    directories: Sequence[str | Path],
    data: str | None = None,
    split: Split | None = None,
    *,
    encoding: str | None = None,
    on_unknown: OnUnknown | None = None,
    which: Which = "best",
    backend: str | Ops = "auto",
    threads: int | None = None,
) -> Comparison:
    """Measure runs, or model directories, on one text.

    By default that is what validates in each of them, and UsageError says so where that is not one text. `data`
    names a text for all of them, of which all is read unless `split` names a part; without `data`,
    `split` is the part of each run's own text.

    Directories that hold no model, or a damaged one, are left out; where nothing is left, the last of their
    errors is raised. Other errors as `Run.evaluate`.
    """
    if data == STDIN:
        raise UsageError("every run reads the text for itself: give a file in place of stdin")
    split = split or default_split(data is not None)
    found: list[tuple[Measured, _Read]] = []
    left_out: list[LeftOut] = []
    problem: CharLSTMError = UsageError("name one or more run directories to compare")
    for directory in dict.fromkeys(map(Path, directories)):
        try:
            run = load(directory, backend, which=which, threads=threads)
            metrics = run.metrics
            _check_whole(run)
        except (CheckpointError, UsageError) as error:
            problem = error
            left_out.append(LeftOut(directory, str(error)))
            continue
        try:
            corpus = run.corpus(data, encoding=encoding, on_unknown=on_unknown)
            found.append(_measured(run, metrics, corpus, data, split, which))
        except CharLSTMError as error:
            raise type(error)(f"{directory}: {error}") from None
    if not found:
        raise problem
    _check_one_text([(run.directory, read) for run, read in found])
    runs = _with_what_is_lost(found)
    return Comparison(found[0][1].described, sorted(runs, key=lambda run: run.bits_per_char), left_out)


def _measured(
    run: Run, metrics: list[dict[str, Any]], corpus: Corpus, data: str | None, split: Split, which: Which
) -> tuple[Measured, _Read]:
    parts = parts_of(corpus, run.data_config, split)
    windows = f", in windows of {parts[0].seq_len} tokens" if isinstance(parts[0], Windows) else ""
    whole = split == "all" and corpus.whole is not None
    read = _Read(
        corpus.sha256, whole, _hash(parts, run.tokenizer), f"{SPLITS[split]} of {corpus.name}{windows}"
    )
    model_alone = {"model": dataclasses.asdict(run.model.config)}
    concerns = dataclasses.asdict(run.config) if _is_run(run) else model_alone
    options = {
        f"{concern}.{name}": value for concern, part in concerns.items() for name, value in part.items()
    }
    notes = []
    if which == "best" and _is_run(run) and not checkpoint.exists(run.directory / "checkpoints" / "best"):
        notes.append("nothing has validated yet: its last checkpoint")
    if split in ("all", "train") and _is_run(run) and corpus.sha256 == run.trained_on():
        notes.append("was trained on this text")
    if corpus.unknown:
        notes.append(f"{corpus.unknown.total():,} characters (or words) are not in its vocabulary")
    evaluation = run.evaluate(corpus, split=split)
    return Measured(run.directory, evaluation, run.model.num_parameters, options, metrics, notes), read


def _check_whole(run: Run) -> None:
    """CheckpointError or UsageError where a run directory lacks what it should hold beside its checkpoints."""
    if _is_run(run):
        run.trained_on()
        Config.from_toml(run.directory / "config.toml")


def _is_run(run: Run) -> bool:
    return (run.directory / "config.toml").is_file()


def _hash(parts: Iterable[Part], tokenizer: Tokenizer) -> str:
    """SHA-256 of the text that is read, and of where its windows begin."""
    digest = hashlib.sha256()
    for part in parts:
        tokens = part.tokens if isinstance(part, Windows) else part
        for text, _ in tokenizer.located(tokens[k : k + BLOCK] for k in range(0, len(tokens), BLOCK)):
            digest.update(text.encode("utf-8", "surrogatepass"))
        if isinstance(part, Windows):
            digest.update(repr((part.seq_len, part.stride, len(part))).encode())
            for k in range(0, len(part), BLOCK):
                digest.update(part.starts(np.arange(k, min(k + BLOCK, len(part)))).tobytes())
    return digest.hexdigest()


def _check_one_text(read: Sequence[tuple[Path, _Read]]) -> None:
    """UsageError where runs were not measured on one text."""
    (first, one), *others = read
    for directory, other in others:
        if other.sha256 == one.sha256 or (one.whole and other.whole and one.source == other.source):
            continue
        what = (
            f"{first} is measured on {one.described}, {directory} on {other.described}"
            if one.described != other.described
            else f"{one.described} is not the same text in {first} and {directory}"
        )
        why = (
            ", since they cut the text otherwise: --split all takes all of it"
            if one.source == other.source
            else ""
        )
        raise UsageError(f"{what}{why}; --data FILE names one text for all runs")


def _with_what_is_lost(found: Sequence[tuple[Measured, _Read]]) -> list[Measured]:
    """The runs, with a note for those whose vocabulary keeps less of the text than another's."""
    most = max(run.evaluation.characters for run, _ in found)
    if len({read.sha256 for _, read in found}) == 1:
        return [run for run, _ in found]
    runs = []
    for run, _ in found:
        n = run.evaluation.characters
        lost = [f"its vocabulary keeps {n:,} of {most:,} characters: what is lost need not be predicted"]
        runs.append(dataclasses.replace(run, notes=run.notes + lost) if n < 0.999 * most else run)
    return runs
