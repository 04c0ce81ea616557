"""The choices a user makes: one frozen dataclass for each concern.

They are the single source of the command line's flags, the keys of a TOML file, the library's
keywords and a checkpoint's config.json.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError
from .options import (
    check_not_negative,
    check_positive,
    check_shares,
    check_types,
    check_values,
    did_you_mean,
    field_names,
    from_dict,
    parse_duration,
)

OnUnknown = Literal["error", "skip", "replace"]
TokenizerKind = Literal["characters", "ascii", "bytes", "words", "pretokenized", "bpe"]
Normalization = Literal["none", "NFC", "NFD", "NFKC", "NFKD"]
Tables = Mapping[str, Mapping[str, Any]]  # options by concern ("model", "data", "training"), only those given
DEFAULT_SECONDS = 60.0  # of training, where no limit is given
LIMITS = ("max_time", "max_steps", "epochs")
# options of a training that do something only where another one has one of these values
ONLY_WITH = {
    "momentum": ("optimizer", ("sgd",)),
    "beta1": ("optimizer", ("adam", "adamw")),
    "beta2": ("optimizer", ("adam", "adamw", "rmsprop")),
    "ema_decay": ("averaging", ("ema",)),
    "average_after": ("averaging", ("nt-asgd",)),
    "decay": ("schedule", ("step", "plateau")),
    "decay_every": ("schedule", ("step",)),
    "plateau": ("schedule", ("plateau",)),
    "warmup_steps": ("schedule", ("cosine", "constant", "step", "exponential", "plateau")),
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network."""

    hidden_size: int = 256
    """Units of each CIFG layer (H)."""
    num_layers: int = 2
    """CIFG layers on top of each other (L)."""
    embedding_size: int | None = None
    """Size of the token embedding (E); without it layer 0 reads one-hot tokens."""
    dropout: float = 0.2
    """Share of units dropped between layers while training; does nothing with one layer."""
    dtype: Literal["float32", "float64"] = "float32"
    """What everything is computed in."""
    input_dropout: float = 0.0
    """Share of units dropped from the vectors that the first layer reads; goes with --embedding-size."""
    output_dropout: float = 0.0
    """Share of units dropped from what the softmax head reads."""
    embedding_dropout: float = 0.0
    """Share of the vocabulary whose embedding (or one-hot input) is dropped throughout a step."""
    weight_drop: float = 0.0
    """Share of the recurrent weights dropped in each step (DropConnect)."""
    variational: bool = False
    """Drop the same units of input, between layers and output at all time steps of a batch's row."""
    tied_embeddings: bool = False
    """The head's weights are those of the embedding, behind a down-projection where the sizes differ;
    goes with --embedding-size."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "hidden_size", "num_layers", "embedding_size")
        check_shares(self, "dropout", "input_dropout", "output_dropout", "embedding_dropout", "weight_drop")
        if self.tied_embeddings and self.embedding_size is None:
            raise UsageError("tied_embeddings needs an embedding: give embedding_size")
        if self.dtype not in ("float32", "float64"):
            raise UsageError(f"dtype must be float32 or float64, not {self.dtype!r}")


@dataclass(frozen=True)
class DataConfig:
    """The text and how it is cut."""

    data: str = "coffee"
    """What to learn: a text file, a directory of them, a glob such as `texts/*.txt`, any of these as .gz,
    - for stdin, an http(s) address, or a name: coffee (comes with charlstm), tinyshakespeare, shakespeare,
    wikitext-2 (downloaded once). A directory with files named train*, valid* and test* gives these parts."""
    encoding: str = "utf-8"
    """The file's text encoding, such as latin-1."""
    tokenizer: TokenizerKind = "characters"
    """What the text is cut into: characters; the 128 of ASCII; bytes, of any file at all; words by simple rules for
    English, in lower case; words as the text has them, between spaces, for texts that were tokenized before; or
    byte pairs (pip install "charlstm[bpe]"). Among words a line end is a token, `<eos>`."""
    vocab_size: int | None = None
    """bpe: tokens to learn [default: 2048]. words, pretokenized: at most this many, the most frequent."""
    min_count: int | None = None
    """words, pretokenized: a word that occurs less often becomes `<unk>`. [default: 2, pretokenized 1]"""
    normalize: Normalization = "none"
    """Unicode normalization of the text, and of prompts."""
    on_unknown: OnUnknown = "error"
    """What to do with characters outside of the vocabulary, where that is not the text's own (unknown words always
    become `<unk>`, unless they are skipped)."""
    val_fraction: float = 0.1
    """Share of the text, at its end, that validates; 0: nothing does, and "best" is the last checkpoint."""
    test_fraction: float = 0.0
    """Share of the text, at its very end, that neither trains nor validates: evaluate --split test."""
    val_data: str | None = None
    """A text of its own to validate with."""
    test_data: str | None = None
    """A text of its own to test with."""
    split: Literal["contiguous", "windows"] = "contiguous"
    """windows: not the end of the text validates, but val_fraction of all its overlapping windows of
    seq_len + 1 tokens, drawn at random. Almost all that then validates is trained on as well: use it only to
    compare with figures that were measured so."""
    split_seed: int = 0
    """Seed of --split windows."""
    batches: Literal["streams", "windows"] = "streams"
    """What a step reads: streams, the next piece of each of batch_size parts of the text, with their states
    carried on; or windows, from anywhere in the text, with a zero state (always so with --split windows)."""
    window_stride: int = 1
    """Tokens from the start of one window to that of the next."""
    batch_size: int = 32
    """Streams or windows of text that are read side by side (B)."""
    seq_len: int = 32
    """Tokens of each of them in one training step (T)."""
    max_val_tokens: int = 2_000_000
    """While training, validate with at most this many tokens: the first, or windows at random."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.data:
            raise UsageError("data must name a text file or a corpus")
        check_positive(
            self, "batch_size", "seq_len", "window_stride", "max_val_tokens", "vocab_size", "min_count"
        )
        self._check_vocabulary()
        check_shares(self, "val_fraction", "test_fraction")
        check_not_negative(self, "split_seed")
        if self.val_fraction + self.test_fraction >= 1:
            raise UsageError("val_fraction and test_fraction must leave something to train on")
        if "-" in (self.val_data, self.test_data):
            raise UsageError("only data can be -, stdin")
        if self.split == "windows" and self.val_data is not None:
            raise UsageError("split windows validates with windows of data: leave val_data out")

    @property
    def reads_windows(self) -> bool:
        """Whether training reads windows."""
        return "windows" in (self.split, self.batches)

    def _check_vocabulary(self) -> None:
        among_words = self.tokenizer in ("words", "pretokenized")
        if self.min_count is not None and not among_words:
            raise UsageError(f"min_count is an option of words and pretokenized, not of {self.tokenizer}")
        if self.vocab_size is None:
            return
        if not among_words and self.tokenizer != "bpe":
            raise UsageError(f"the vocabulary of {self.tokenizer} has no vocab_size to choose")
        least = 3 if among_words else 257
        if self.vocab_size < least:
            raise UsageError(
                f"vocab_size must be at least {least} for {self.tokenizer}, not {self.vocab_size}"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained, and for how long."""

    optimizer: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"] = "adam"
    """What makes steps of gradients."""
    learning_rate: float = 0.006
    """Step size after the warm-up. The default suits Adam; sgd wants about 1 to 20, adagrad 0.05."""
    momentum: float = 0.0
    """Share of its last step that sgd adds to the next."""
    beta1: float = 0.9
    """Adam's: what its mean of the gradients keeps at each step."""
    beta2: float | None = None
    """Adam's and rmsprop's: what their mean of squares keeps at each step. [default: 0.999, rmsprop 0.99]"""
    weight_decay: float = 0.0
    """Pull of the weights towards 0: an L2 penalty, or adamw's decay of the weights themselves (without
    any, adamw is adam)."""
    averaging: Literal["none", "ema", "nt-asgd"] = "none"
    """Validate with, and keep, an average of the weights: over the last steps (ema), or over all steps
    since validations stopped getting better (nt-asgd, as in AWD-LSTM)."""
    ema_decay: float = 0.999
    """What ema keeps of the average at each step."""
    average_after: int = 5
    """nt-asgd begins when a validation is worse than the best of those this many and more before it."""
    schedule: Literal["cosine", "constant", "step", "exponential", "plateau", "one-cycle"] = "cosine"
    """What the learning rate does after the warm-up: cosine and exponential fall to a hundredth at the
    end; step falls every --decay-every steps, plateau after --plateau validations without a new best; one-cycle rises
    for three tenths of the training, then falls."""
    decay: float = 0.5
    """Factor by which step and plateau lower the learning rate."""
    decay_every: int = 1000
    """Steps between two decays of the step schedule."""
    plateau: int = 2
    """Validations without a new best before the plateau schedule lowers the learning rate."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from 0 (not with one-cycle)."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; longer ones are scaled down to it."""
    max_time: str | None = None
    """Stop after this much training time, such as 16s, 5m or 2h; compiling kernels for a machine does not count."""
    max_steps: int | None = None
    """Stop after this many steps."""
    epochs: float | None = None
    """Stop after this many passes over the training text. Without any limit: 1 minute."""
    early_stopping: int | None = None
    """Stop after this many validations without a new best; the other limits hold as well."""
    keep_every: int | None = None
    """Keep a checkpoint of its own (checkpoints/step-N) every so many steps."""
    max_rollbacks: int = 3
    """How often a loss that is no longer a number, or jumps, takes training back to the last checkpoint, at
    half the learning rate. After that, what is no number ends it, and a jump is let be."""
    eval_every: int = 400
    """Steps between two validations."""
    sample_every: int = 400
    """Steps between two samples."""
    sample_threshold: float = 0.35
    """No sample while the mean of the largest posterior lies below this."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well, to the run's folder of that name (needs tensorboardX)."""
    seed: int = 0
    """Seed of weights and dropout."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over the vocabulary; losses are told without it."""
    activation_regularization: float = 0.0
    """Penalty on the mean square of what the head reads (AR, as in AWD-LSTM, there 2); losses are told
    without it."""
    temporal_activation_regularization: float = 0.0
    """Penalty on the mean square of changes from step to step of the top layer (TAR, there 1); likewise."""
    random_seq_len: bool = False
    """Let each step read a random number of tokens around --seq-len (in one of twenty steps around half of
    it), at a learning rate in proportion (as in AWD-LSTM)."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(
            self, "learning_rate", "clip_norm", "max_steps", "epochs", "eval_every", "sample_every",
            "decay_every", "plateau", "average_after", "early_stopping", "keep_every",
        )  # fmt: skip
        check_not_negative(self, "warmup_steps", "sample_threshold", "seed", "weight_decay", "max_rollbacks")
        check_not_negative(self, "activation_regularization", "temporal_activation_regularization")
        check_shares(self, "momentum", "beta1", "beta2", "ema_decay", "label_smoothing")
        if not 0 < self.decay < 1:
            raise UsageError(f"decay must lie between 0 and 1, not {self.decay}")
        if self.max_time is not None:
            parse_duration(self.max_time)

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds; a minute where there is no limit of any kind."""
        if self.max_time is None:
            return DEFAULT_SECONDS if self.max_steps is None and self.epochs is None else None
        return parse_duration(self.max_time)


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run, apart from the backend it runs on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_toml(self) -> str:
        """As TOML, one table for each concern; unset options are left out."""
        import tomli_w

        tables = {
            name: {key: value for key, value in table.items() if value is not None}
            for name, table in dataclasses.asdict(self).items()
        }
        return tomli_w.dumps(tables)

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Read what `to_toml` wrote, or any part of it; UsageError for anything else."""
        return cls.from_tables(read_tables(path), str(path))

    @classmethod
    def preset(cls, name: str) -> Config:
        """A recipe that comes with charlstm; UsageError, with their names, where there is none of that name."""
        from . import presets

        return cls.from_tables(presets.read(name), name)

    @classmethod
    def from_tables(cls, tables: Tables, where: str) -> Config:
        """The defaults, but for the options in `tables`, which come from `where`; UsageError as `from_toml`."""
        _check_tables(tables, where)
        made: dict[str, Any] = {
            name: from_dict(part, tables.get(name, {}), where) for name, part in CONCERNS.items()
        }
        return cls(**made)


CONCERNS: dict[str, type] = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}


def read_tables(path: Path) -> Tables:
    """The options in a TOML file, by concern; UsageError where there is something else in it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read as a configuration: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as a configuration: {error}") from None
    _check_tables(tables, str(path))
    return tables


def _check_tables(tables: Tables, where: str) -> None:
    for name, table in tables.items():
        if name not in CONCERNS:
            home = [concern for concern, part in CONCERNS.items() if name in field_names(part)]
            advice = f"it belongs in the table [{home[0]}]" if home else did_you_mean(name, CONCERNS)
            raise UsageError(f"{where}: unknown table {name!r}: {advice}")
        check_values(CONCERNS[name], table, where)


def merged(*layers: Tables) -> Tables:
    """Tables laid over each other: the later ones hold.

    A limit (max_time, max_steps, epochs) in a later one takes the place of all limits before it.
    """
    result: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name, table in layer.items():
            below = result.setdefault(name, {})
            if any(limit in table for limit in LIMITS):
                for limit in LIMITS:
                    below.pop(limit, None)
            below.update(table)
    return result


def without_effect(config: TrainingConfig) -> dict[str, str]:
    """The options that do nothing beside the values of the others, each with the reason."""
    return {
        name: f"{name} does nothing with {other} {getattr(config, other)}: it goes with {' or '.join(values)}"
        for name, (other, values) in ONLY_WITH.items()
        if getattr(config, other) not in values
    }


def differing(config: Any) -> dict[str, Any]:
    """The fields of a config dataclass that are not the defaults."""
    default = type(config)()
    values = {name: getattr(config, name) for name in field_names(type(config))}
    return {name: value for name, value in values.items() if value != getattr(default, name)}
