"""The choices a user makes: one frozen dataclass for each concern.

They are the single source of the command line's flags, the keys of a TOML file, the library's
keywords and a checkpoint's config.json.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import UsageError

C = TypeVar("C")
DEFAULT_SECONDS = 60.0  # of training, where no limit is given


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be greater than 0 and finite, not {value}")


def _check_types(config: Any) -> None:
    for name, hint in typing.get_type_hints(type(config)).items():
        if not _fits(getattr(config, name), hint):
            choices = f": it is one of {', '.join(typing.get_args(hint))}" if _is_choice(hint) else ""
            raise UsageError(f"{name} cannot be {getattr(config, name)!r}{choices}")


def _is_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _shares(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise UsageError(f"{name} must be at least 0 and less than 1, not {value}")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise UsageError(f"{name} must be 0 or more and finite, not {getattr(config, name)}")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "16s", "5m", "2h" or "90"."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"a duration reads 16s, 5m or 2h, not {text!r}")
    return seconds


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
        _check_types(self)
        _positive(self, "hidden_size", "num_layers", "embedding_size")
        _shares(self, "dropout", "input_dropout", "output_dropout", "embedding_dropout", "weight_drop")
        if self.tied_embeddings and self.embedding_size is None:
            raise UsageError("tied_embeddings needs an embedding: give embedding_size")
        if self.dtype not in ("float32", "float64"):
            raise UsageError(f"dtype must be float32 or float64, not {self.dtype!r}")


@dataclass(frozen=True)
class DataConfig:
    """The text and how it is cut."""

    data: str = "coffee"
    """A text file, or coffee: the corpus that comes with charlstm."""
    encoding: str = "utf-8"
    """The file's text encoding, such as latin-1."""
    val_fraction: float = 0.1
    """Share of the text, at its end, that validates."""
    batch_size: int = 32
    """Streams of text that are read side by side (B)."""
    seq_len: int = 32
    """Tokens of each stream in one training step (T)."""

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.data:
            raise UsageError("data must name a text file or a corpus")
        _positive(self, "batch_size", "seq_len")
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction must lie between 0 and 1, not {self.val_fraction}")


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
    """Stop after this much training time, such as 16s, 5m or 2h."""
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
        _check_types(self)
        _positive(
            self, "learning_rate", "clip_norm", "max_steps", "epochs", "eval_every", "sample_every",
            "decay_every", "plateau", "average_after", "early_stopping", "keep_every",
        )  # fmt: skip
        _not_negative(self, "warmup_steps", "sample_threshold", "seed", "weight_decay", "max_rollbacks")
        _not_negative(self, "activation_regularization", "temporal_activation_regularization")
        _shares(self, "momentum", "beta1", "beta2", "ema_decay", "label_smoothing")
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
class SamplingConfig:
    """How text is drawn from a model."""

    length: int = 500
    """Characters to generate."""
    temperature: float = 0.8
    """Divides the logits: lower is safer, higher is wilder; 0 takes the most probable character."""
    top_k: int = 0
    """Draw among this many of the most probable characters only; 0: among all."""
    top_p: float = 1.0
    """Draw among the most probable characters that hold this much of the probability (nucleus sampling)."""
    seed: int = 0
    """Seed of the draws: the same seed gives the same text."""

    def __post_init__(self) -> None:
        _check_types(self)
        _not_negative(self, "length", "temperature", "top_k", "seed")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must lie above 0 and be at most 1, not {self.top_p}")


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
        """Read what `to_toml` wrote; UsageError for anything else."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as a configuration: {error}") from None
        parts = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}
        unknown = sorted(set(tables) - set(parts))
        if unknown:
            raise UsageError(f"{path}: unknown table {unknown[0]!r}; expected {', '.join(parts)}")
        made: dict[str, Any] = {
            name: from_dict(part, tables.get(name, {}), str(path)) for name, part in parts.items()
        }
        return cls(**made)


def from_dict(cls: type[C], values: Any, where: str) -> C:
    """A config dataclass from untrusted values; UsageError for unknown keys and wrong types."""
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise UsageError(f"{where}: a table of options is expected, not {values!r}")
    for key, value in values.items():
        if key not in hints:
            raise UsageError(f"{where}: unknown option {key!r}; known are {', '.join(hints)}")
        if not _fits(value, hints[key]):
            raise UsageError(f"{where}: {key} cannot be {value!r}")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    if _is_choice(hint):
        return value in typing.get_args(hint)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, int) and float in allowed:
        return True
    return isinstance(value, tuple(allowed))
