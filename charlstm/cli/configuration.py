"""What a training is asked to be: options given on the command line, over a file's, over a preset's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import presets
from ..config import (
    Config,
    DataConfig,
    ModelConfig,
    Tables,
    TrainingConfig,
    merged,
    read_tables,
    without_effect,
)
from ..errors import UsageError


class _Given:
    """The options of a dataclass that were given, and no others: `given` by name.

    The command line reads names, types, defaults and texts from the dataclass that a subclass names
    beside this one, but makes no configuration of it: an option that equals its default is still seen.
    """

    def __init__(self, **given: Any) -> None:
        self.given = given


class DataOptions(_Given, DataConfig):
    """Those of `DataConfig`."""


class ModelOptions(_Given, ModelConfig):
    """Those of `ModelConfig`."""


class TrainingOptions(_Given, TrainingConfig):
    """Those of `TrainingConfig`."""


def tables(data: DataOptions | None, model: ModelOptions | None, training: TrainingOptions | None) -> Tables:
    """What was given, by concern."""
    options: dict[str, _Given | None] = {"model": model, "data": data, "training": training}
    return {name: part.given for name, part in options.items() if part is not None}


def configured(preset: str | None, path: Path | None, flags: Tables) -> tuple[Config, Tables]:
    """The configuration, and the options of it that are no defaults of charlstm's own.

    Defaults give way to a preset, that to the file, and that to the flags. Raises UsageError for an
    unknown preset or option, and for a flag that does nothing beside the others.
    """
    given = merged(
        presets.read(preset) if preset is not None else {},
        read_tables(path) if path is not None else {},
        flags,
    )
    config = Config.from_tables(given, "options")
    for name, problem in without_effect(config.training).items():
        if name in flags.get("training", {}):
            raise UsageError(problem)
    return config, given


def preset_help() -> str:
    """The text of --preset."""
    listed = "; ".join(f"{name}: {text}" for name, text in presets.descriptions().items())
    return f"Start from a recipe with a name; --config and other options override it. There is {listed}."
