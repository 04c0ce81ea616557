"""A trained model with its tokenizer, and the directory that training left."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import checkpoint, pretrained
from .backends import MatmulPrecision, Ops
from .card import Card, Figure
from .config import Config, DataConfig, OnUnknown
from .data import KEPT_STDIN, STDIN, Corpus, Part, Tokenizer, Windows, part_of
from .errors import CheckpointError, DataError, UsageError
from .evaluation import DetailedEvaluation, EvaluationConfig, joined, measure
from .generation import (
    LENGTH_PENALTY,
    Completion,
    Hypothesis,
    beam_search,
    complete,
    constraint,
    generate_many,
)
from .inspection import Reading, read
from .model import CIFGModel
from .options import from_dict
from .sampling import SamplingConfig

Split = Literal["train", "val", "test", "all"]
SPLITS: dict[str, str] = {"train": "what trains", "val": "what validates", "test": "what tests", "all": "all"}
"""In words, of a text."""
Which = Literal["best", "last"]
INSPECTED, MOST_INSPECTED = 3000, 20_000  # tokens that are looked into: by default, and at most
SAMPLE = SamplingConfig(length=300)  # of a model card

_log = logging.getLogger(__name__)


class Run:
    """What `charlstm.train` and `charlstm.load` return."""

    def __init__(
        self, directory: Path, model: CIFGModel, tokenizer: Tokenizer, which: str | None = None
    ) -> None:
        """which: "best" or "last", the checkpoint of a run directory; None where it is a model's own."""
        self.directory, self.model, self.tokenizer, self.which = directory, model, tokenizer, which

    def __repr__(self) -> str:
        return f"<Run {self.directory}: {self.model.num_parameters:,} parameters on {self.model.ops.name}>"

    @property
    def config(self) -> Config:
        """The configuration that the run was started with."""
        return Config.from_toml(self.directory / "config.toml")

    @property
    def data_config(self) -> DataConfig:
        """How the run reads its text; the defaults for a model directory of its own."""
        if not (self.directory / "config.toml").is_file():
            return DataConfig()
        config = self.config.data  # of a text from stdin the run keeps a copy
        return replace(config, data=str(self.directory / KEPT_STDIN)) if config.data == STDIN else config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: losses, learning rate, speed by step."""
        return read_metrics(self.directory / "metrics.jsonl")

    def generate(self, prompt: str = "", *, on_unknown: OnUnknown = "error", **sampling: Any) -> str:
        """The prompt and what follows it; the same seed gives the same text.

        Keywords are those of `SamplingConfig`: length, temperature, top_k, seed and so on. Raises
        DataError for a prompt with characters that the model does not know, unless `on_unknown` is
        "skip" or "replace".
        """
        return self.generate_many([prompt], on_unknown=on_unknown, **sampling)[0]

    def generate_many(
        self, prompts: Sequence[str], *, on_unknown: OnUnknown = "error", **sampling: Any
    ) -> list[str]:
        """Each of several prompts and what follows it, drawn side by side: far faster than in turn.

        Keywords and errors as in `generate`; text k is the one that `generate` gives with the seed + k.
        """
        config = from_dict(SamplingConfig, sampling, "generate")
        pieces = generate_many(self.model, self.tokenizer, prompts, config, on_unknown)
        return ["".join(parts) for parts in zip(prompts, *pieces, strict=True)]

    def complete(
        self,
        prompts: Sequence[str],
        *,
        alternatives: int = 0,
        on_unknown: OnUnknown = "error",
        **sampling: Any,
    ) -> list[Completion]:
        """As `generate_many`, with why each text ended and what the model thought of each token.

        Beside each token stand so many `alternatives`: the most probable ones at its place.
        """
        config = from_dict(SamplingConfig, sampling, "complete")
        return complete(self.model, self.tokenizer, prompts, config, on_unknown, alternatives)

    def beam_search(
        self,
        prompt: str = "",
        *,
        beams: int = 4,
        length: int = SamplingConfig.length,
        length_penalty: float = LENGTH_PENALTY,
        stop: Sequence[str] = (),
        regex: str | None = None,
        on_unknown: OnUnknown = "error",
    ) -> list[Hypothesis]:
        """The most probable texts after a prompt that a beam search finds, the best first.

        See `charlstm.generation.beam_search`, which says what is raised as well.
        """
        constrained = None if regex is None else constraint(regex, self.tokenizer, prompt)
        return beam_search(
            self.model, self.tokenizer, prompt, beams=beams, length=length, length_penalty=length_penalty,
            stop=stop, constraint=constrained, on_unknown=on_unknown,
        )  # fmt: skip

    def evaluate(
        self,
        data: str | Path | Corpus | None = None,
        *,
        split: Split | None = None,
        encoding: str | None = None,
        on_unknown: OnUnknown | None = None,
        windows: bool = False,
        **options: Any,
    ) -> DetailedEvaluation:
        """Loss, perplexity and more on a text: all of a file, or what validates of a corpus.

        By default the corpus is the run's own; `split` names another part.

        Keywords are those of `EvaluationConfig` as well: top_k, dynamic and others. `figures` of the
        result holds all figures by name, `intervals` what they are certain to.

        The state is carried through the part. With `windows`, and on what trains and validates in a run
        with split="windows", each window of seq_len tokens is predicted from a zero state.
        Raises DataError where that text has changed since, or holds unknown characters (unless
        `on_unknown`, or else the run's configuration, says what to do with these), and where dynamic
        evaluation needs the training text and there is none; UsageError for dynamic evaluation of windows.
        """
        config = from_dict(EvaluationConfig, options, "evaluate")
        corpus = (
            data if isinstance(data, Corpus) else self.corpus(data, encoding=encoding, on_unknown=on_unknown)
        )
        if corpus.tokenizer.hash != self.tokenizer.hash:
            raise DataError(f"{corpus.name} was tokenized with another vocabulary than this model's")
        split = split or default_split(isinstance(data, (str, Path)))
        parts = parts_of(corpus, self.data_config, split)
        if windows:
            T, stride = self.data_config.seq_len, self.data_config.window_stride
            parts = [part if isinstance(part, Windows) else Windows(part, T, stride) for part in parts]
        training = None
        if config.dynamic and config.dynamic_rule == "rms":
            why = "gradient statistics need the text that the model was trained on (--dynamic-rule sgd does without)"
            training = self.own_corpus(corpus, why).train
        return joined(
            [measure(self.model, part, self.tokenizer, config, training=training) for part in parts]
        )

    def own_corpus(self, corpus: Corpus | None, why: str) -> Corpus:
        """What the model was trained on, be it that corpus or another; DataError, with `why`, where it is missing."""
        try:
            return corpus if corpus is not None and corpus.sha256 == self.trained_on() else self.corpus()
        except (CheckpointError, DataError) as error:
            raise DataError(f"{why}: {error}") from None

    def inspect(
        self, text: str | None = None, *, length: int = INSPECTED, on_unknown: OnUnknown | None = None
    ) -> Reading:
        """Let the model read the first `length` tokens of a text and tell what went on inside.

        Without a text the one that validates in the run (where windows do: all of it). Raises DataError as
        `evaluate`, UsageError for a length below 2 or above 20,000.
        """
        if not 2 <= length <= MOST_INSPECTED:
            raise UsageError(f"length must be 2 to {MOST_INSPECTED:,} tokens, not {length:,}")
        if text is not None:
            policy = self.data_config.on_unknown if on_unknown is None else on_unknown
            tokens = self.tokenizer.encode(text, policy)
        else:
            if not (self.directory / "config.toml").is_file():
                raise DataError(f"{self.directory} does not say what it was trained on: name a --text")
            corpus = self.corpus(on_unknown=on_unknown)
            windows = self.data_config.split == "windows" and not len(corpus.val)
            tokens = corpus.train if windows else corpus.val
            if not len(tokens):
                raise DataError(f"nothing of {corpus.name} validates: name a --text")
        return read(self.model, self.tokenizer, tokens[:length])

    def corpus(
        self,
        data: str | Path | None = None,
        *,
        encoding: str | None = None,
        on_unknown: OnUnknown | None = None,
    ) -> Corpus:
        """A text in this model's vocabulary, cut as the run's own; by default the run's own.

        Its encoding and `on_unknown` are the run's unless named. Raises DataError as `evaluate`.
        """
        config = self.data_config
        if data is None and not (self.directory / "config.toml").is_file():
            raise DataError(f"{self.directory} does not say what it was trained on: name a text with --data")
        if data is not None:
            config = replace(config, data=str(data), val_data=None, test_data=None)
        if encoding is not None:
            config = replace(config, encoding=encoding)
        corpus = Corpus.load(config, self.tokenizer, on_unknown)
        if data is None and corpus.sha256 != self.trained_on():
            raise DataError(
                f"{config.data} has changed since this model was trained on it (--data names a text)"
            )
        return corpus

    def trained_on(self) -> str:
        """SHA-256 of the text that the run was trained on."""
        try:
            return str(checkpoint.read_json(self.directory / "env.json")["text"]["sha256"])
        except (KeyError, TypeError):
            raise CheckpointError(f"{self.directory / 'env.json'} does not name the run's text") from None

    # ---- for others ---------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        backend: str | Ops = "auto",
        *,
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
    ) -> Run:
        """What `save_pretrained` wrote; the same as `charlstm.load`."""
        return load(directory, backend, threads=threads, matmul_precision=matmul_precision)

    def save_pretrained(
        self, directory: str | Path, *, license: str | None = None, force: bool = False
    ) -> None:
        """Write the model for others: a directory in the Hugging Face Hub's form, with a model card.

        It holds model.safetensors, config.json, tokenizer.json and README.md, and takes the place of an earlier
        one. A directory with anything else in it is refused, unless `force` is given; its other files then stay.
        license: an identifier such as mit. Raises UsageError for what cannot be used, CheckpointError
        where the disk refuses.
        """
        directory = Path(directory)
        pretrained.check_target(directory, force)
        card = self.model_card(license)
        pretrained.save_model(directory, self.model, self.tokenizer, card=card, force=force)

    def push_to_hub(
        self, repository: str, *, license: str | None = None, private: bool = False,
        message: str = "Add a charlstm model",
    ) -> str:  # fmt: skip
        """Commit what `save_pretrained` writes to a repository "user/name" on the Hugging Face Hub; its address.

        The repository is made where it is not there. Who commits is what huggingface_hub was told
        (`hf auth login`). Raises UsageError without that library, CharLSTMError where the Hub
        refuses or cannot be reached.
        """
        pretrained.hub_library()
        card = self.model_card(license, repository)
        files = checkpoint.model_files(self.model, self.tokenizer, card)
        return pretrained.push(files, repository, private=private, message=message)

    def model_card(self, license: str | None = None, repository: str | None = None) -> str:
        """README.md for the model: network, text, losses, a sample, how to use it.

        The test loss is measured for it, where the run has a test part that can still be read. A model directory
        that has a card keeps it. Raises UsageError for a licence that is no identifier, or where such
        a card would have to change.
        """
        known = self.directory / "README.md"
        if self.which is None and known.is_file() and (self.directory / "model.safetensors").is_file():
            if license is not None:
                raise UsageError(f"{known} is kept as it is: name the licence there")
            return known.read_text(encoding="utf-8", errors="replace")
        unit = self.tokenizer.unit
        facts = [pretrained.network(self.model.config, self.model.num_parameters, self.tokenizer)]
        card = Card(f"{unit}s", unit, facts, license=license, repository=repository)
        if self.which is not None:
            told = pretrained.trained(self.directory, self.which, self.metrics, unit)
            figures = told.figures + (self._tested() if told.has_test else [])
            card = replace(card, text_name=told.text_name, facts=facts + told.facts, figures=figures)
        sample = self.generate(**asdict(SAMPLE))
        drawn = f"{SAMPLE.length} {unit}s drawn at temperature {SAMPLE.temperature}, seed {SAMPLE.seed}"
        return str(replace(card, sample=sample, sampled_by=drawn))

    def _tested(self) -> list[Figure]:
        try:
            found = self.evaluate(split="test")
        except DataError as error:
            _log.warning("the model card tells no test loss: %s", error)
            return []
        return [Figure("test", found.loss, found.bits_per_char)]


def default_split(another_text: bool) -> Split:
    """What is measured where nothing is said: all of another text than the run's own, else what validates."""
    return "all" if another_text else "val"


def parts_of(corpus: Corpus, config: DataConfig, split: Split) -> list[Part]:
    """What is read of a split; UsageError for a name that is none, DataError where there is nothing in it."""
    if split not in SPLITS:
        raise UsageError(f"split must be train, val, test or all, not {split!r}")
    if split == "all":
        return [tokens for tokens in pieces_of(corpus) if len(tokens)]
    part = part_of(corpus, config, split)
    if part is None:
        raise DataError(f"{corpus.name} has no {split} part: name another --split")
    return [part]


def pieces_of(corpus: Corpus) -> list[np.ndarray]:
    """All tokens of a corpus: those of its parts, or as they are where it was not cut."""
    return [corpus.train, corpus.val, corpus.test] if corpus.whole is None else [corpus.whole]


def load(
    directory: str | Path,
    backend: str | Ops = "auto",
    *,
    which: Which = "best",
    threads: int | None = None,
    matmul_precision: MatmulPrecision = "highest",
) -> Run:
    """A run directory's best (or last) checkpoint, or any model directory, on any backend.

    A run that was stopped before its first validation has no best one yet: then the last is taken.
    Raises CheckpointError where there is none or it is damaged, BackendError for a backend that
    cannot run here.
    """
    directory = Path(directory)
    source = model_directory(directory, which)
    model, tokenizer = checkpoint.load(source, backend, threads, matmul_precision)
    return Run(directory, model, tokenizer, None if source == directory else source.name)


def model_directory(directory: Path, which: Which = "best") -> Path:
    """The model directory that `load` reads; errors as there."""
    if which not in ("best", "last"):
        raise UsageError(f"which must be best or last, not {which!r}")
    if not directory.is_dir():
        what = "it is a file" if directory.is_file() else "there is nothing"
        raise CheckpointError(f"no run directory at {directory}: {what}")
    source = directory
    if not (directory / "model.safetensors").is_file():
        if not (directory / "checkpoints").is_dir():
            raise CheckpointError(f"{directory} is neither a run directory nor a model directory")
        source = directory / "checkpoints" / which
        if which == "best" and not checkpoint.exists(source):
            source = directory / "checkpoints" / "last"
    return source


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; one that a kill cut off at the end is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
