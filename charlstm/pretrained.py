"""Model directories for others: a card filled in from the run, what may be overwritten, the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .card import Figure
from .checkpoint import read_json, replace_directory, write_among
from .config import ModelConfig
from .data import Tokenizer
from .errors import CharLSTMError, CheckpointError, UsageError

FILES = {"model.safetensors", "config.json", "tokenizer.json", "README.md"}


# ---- what a card says ----------------------------------------------------------------------------


class Trained(NamedTuple):
    """What a run says of one of its checkpoints."""

    text_name: str
    facts: list[str]
    figures: list[Figure]  # the validation loss, where there is one
    has_test: bool  # whether there is a part of the text to test with


def network(config: ModelConfig, parameters: int, tokenizer: Tokenizer) -> str:
    """The network's size, in words."""
    return (
        f"{parameters:,} parameters: {config.num_layers} layers of {config.hidden_size} units, "
        f"{len(tokenizer)} {tokenizer.unit}s, {config.dtype}"
    )


def reading(progress: Mapping[str, Any], unit: str) -> str:
    """How far training had come, in words."""
    step, tokens, seconds = (progress[name] for name in ("step", "tokens", "seconds"))
    return f"after {step:,} steps, {tokens:,} {unit}s read, {seconds:.0f} s"


def trained(directory: Path, which: str, metrics: list[dict[str, Any]], unit: str) -> Trained:
    """What a run directory knows of its checkpoint "best" or "last".

    Raises CheckpointError where env.json, training.json or metrics.jsonl is damaged.
    """
    record = read_json(directory / "checkpoints" / "last" / "training.json")
    validations = [line for line in metrics if "val_loss" in line]
    try:
        text = read_json(directory / "env.json")["text"]
        name, parts, sha256 = (str(text[key]) for key in ("name", "parts", "sha256"))
        if which == "best" and record["best_val_loss"] is not None:
            lowest = {"step": record["best_step"], "val_loss": record["best_val_loss"]}
            # where training went back to before its best step, the metrics no longer have that
            measured = min([*validations, lowest], key=lambda line: float(line["val_loss"]))
        else:
            measured = next((line for line in validations if line["step"] == record["step"]), record)
        has_test = text["test_tokens"] > 0
        facts = reading(measured, unit) if "tokens" in measured else f"of step {measured['step']:,}"
        loss = float(measured["val_loss"]) if "val_loss" in measured else None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} does not say how it was trained: {error!r}") from None
    figures = []
    if loss is not None:
        figures.append(Figure("validation", loss, loss / math.log(2) if unit == "character" else None))
    return Trained(name, [parts, facts, f"SHA-256 of the text: {sha256}"], figures, has_test)


# ---- directories -----------------------------------------------------------------------------------


def check_target(directory: Path, force: bool = False) -> None:
    """UsageError where a directory holds something that is not a model directory's, unless forced."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: choose another directory")
    if not force and directory.is_dir() and not _is_empty(directory) and not _is_model_directory(directory):
        raise UsageError(
            f"{directory} holds other files than a model's: choose another directory, or --force, which keeps "
            "these and writes the model's among them"
        )


def write(directory: Path, files: Mapping[str, bytes], force: bool = False) -> None:
    """Write a model's files, in place of a model directory's; errors as `check_target` and `checkpoint.save`."""
    directory = directory.resolve()
    check_target(directory, force)
    if not directory.exists() or _is_model_directory(directory):
        replace_directory(directory, files)
    else:
        write_among(directory, files)


def _is_empty(directory: Path) -> bool:
    return next(directory.iterdir(), None) is None


def _is_model_directory(directory: Path) -> bool:
    """Whether it holds a model and nothing else."""
    if not {path.name for path in directory.iterdir()} <= FILES:
        return False
    try:
        return read_json(directory / "config.json").get("model_type") == "charlstm"
    except CheckpointError:
        return False


# ---- the Hub ---------------------------------------------------------------------------------------


def push(files: Mapping[str, bytes], repository: str, *, private: bool, message: str) -> str:
    """Commit a model's files to a repository on the Hugging Face Hub, made where it is not there; the address.

    Raises UsageError without the library huggingface_hub, CharLSTMError where the Hub refuses or
    cannot be reached.
    """
    library = hub_library()
    api = library.HfApi(library_name="charlstm")
    operations = [library.CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(made.repo_id, operations, commit_message=message)
    except Exception as error:  # its own, and those of whatever client for HTTP it uses
        told = " ".join(str(error).split()) or repr(error)
        raise CharLSTMError(f"{repository} could not be pushed to the Hub: {told}") from error
    return str(made)


def hub_library() -> ModuleType:
    """huggingface_hub; UsageError where it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError('the Hub needs the library huggingface_hub: pip install "charlstm[hub]"') from None
    return huggingface_hub
