"""Model directories: safetensors and JSON, no pickle, replaced as a whole or not at all.

A directory holds model.safetensors, config.json, README.md and, where the model reads tokens,
tokenizer.json (the Hub's convention); a checkpoint of a run holds training.safetensors and
training.json as well.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .backends import MatmulPrecision, Ops, get_ops
from .config import ModelConfig
from .data import Tokenizer, load_tokenizer
from .errors import CheckpointError, UsageError
from .model import CIFGModel, SequenceRegressor, Shapes, parameter_shapes
from .options import from_dict

FORMAT = 1


@dataclass
class TrainingState:
    """What training needs beside the weights to go on as if it had never stopped."""

    optimizer: dict[str, np.ndarray]  # the optimizer's buffers and the average of the weights, flat
    carried: dict[str, np.ndarray]  # h and c of the streams, (L, B, H)
    progress: dict[str, Any]  # JSON: step, tokens, seconds, best loss, hash of the text, ...


def save(
    directory: Path,
    model: CIFGModel,
    tokenizer: Tokenizer | None,
    card: str,
    training: TrainingState | None = None,
) -> None:
    """Write a model directory, replacing the old one only when all of the new one is on disk.

    A model that reads feature vectors has no tokenizer; `card` is the content of README.md.
    Raises CheckpointError where it cannot be written; the old directory is then still there.
    """
    files = model_files(model, tokenizer, card)
    if training is not None:
        files["training.safetensors"] = _packed({**training.optimizer, **training.carried})
        files["training.json"] = _json(training.progress)
    replace_directory(directory, files)


def model_files(model: CIFGModel, tokenizer: Tokenizer | None, card: str) -> dict[str, bytes]:
    """The content of a model directory's files, by name."""
    if (tokenizer is None) != (model.input_size is not None):
        raise UsageError("a model of tokens is saved with its tokenizer, one of feature vectors without any")
    config = {
        "model_type": "charlstm",
        "format": FORMAT,
        "output_size": model.output_size,
        "input_size": model.input_size,
        "emit": model.emit,
        "outputs": "numbers" if isinstance(model, SequenceRegressor) else "posterior",
        "tokenizer_hash": None if tokenizer is None else tokenizer.hash,
        **dataclasses.asdict(model.config),
    }
    weights = {name: model.ops.to_numpy(array) for name, array in model.parameters.items()}
    files = {"model.safetensors": _packed(weights), "README.md": card.encode("utf-8", "replace")}
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.to_json().encode()
    return {**files, "config.json": _json(config)}


def load(
    directory: Path,
    backend: str | Ops = "auto",
    threads: int | None = None,
    matmul_precision: MatmulPrecision = "highest",
) -> tuple[CIFGModel, Tokenizer]:
    """The language model and tokenizer of a directory, on any backend.

    Raises CheckpointError as `load_model`, and for a model of any other kind.
    """
    model, tokenizer = load_model(directory, backend, threads, matmul_precision)
    if tokenizer is None or model.emit != "every":
        raise CheckpointError(f"{directory / 'config.json'} does not describe a language model")
    return model, tokenizer


def load_model(
    directory: str | Path,
    backend: str | Ops = "auto",
    threads: int | None = None,
    matmul_precision: MatmulPrecision = "highest",
) -> tuple[CIFGModel, Tokenizer | None]:
    """The model of a directory, on any backend, and its tokenizer where it reads tokens.

    Raises CheckpointError where a file is missing, truncated or foreign, where names, shapes or
    dtypes are not those of the configuration, where a weight is not finite, or where the
    tokenizer is not the one that the weights were trained with.
    """
    directory = locate(Path(directory))
    config = read_json(directory / "config.json")
    if config.get("model_type") != "charlstm":
        raise CheckpointError(f"{directory / 'config.json'} does not describe a charlstm model")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{directory}: format {config.get('format')} is not known to this version")
    tokenizer = None
    if config.get("input_size") is None:
        tokenizer = load_tokenizer(directory / "tokenizer.json")
        if config.get("tokenizer_hash") != tokenizer.hash or config.get("output_size") != len(tokenizer):
            raise CheckpointError(
                f"{directory}: tokenizer.json is not the one that the weights were trained with"
            )
    elif config.get("tokenizer_hash") is not None:
        raise CheckpointError(f"{directory / 'config.json'} is not usable: feature vectors have no tokenizer")
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    weights = _unpacked(directory / "model.safetensors")
    ops = get_ops(backend, threads, matmul_precision)
    try:
        model_config = from_dict(ModelConfig, {k: v for k, v in config.items() if k in known}, "config.json")
        # before anything of these sizes is made
        if model_config.num_layers > len(weights):
            raise CheckpointError(f"{directory}: there are weights of fewer layers than config.json asks for")
        shapes = parameter_shapes(model_config, config["output_size"], config["input_size"])
        _check_arrays(weights, shapes, model_config.dtype, directory / "model.safetensors")
        model = _network(config, model_config, ops)
    except (UsageError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / 'config.json'} is not usable: {error}") from None
    for name, array in weights.items():
        model.parameters[name][...] = model.ops.asarray(array)
    return model, tokenizer


def _network(config: dict[str, Any], model_config: ModelConfig, ops: Ops) -> CIFGModel:
    """The network that config.json describes, its weights still to be written."""
    output_size, input_size, emit = config["output_size"], config["input_size"], config["emit"]
    outputs = config.get("outputs", "posterior")  # earlier versions had no others
    if outputs == "posterior":
        return CIFGModel(output_size, model_config, input_size=input_size, emit=emit, backend=ops, seed=None)
    if outputs != "numbers" or input_size is None or model_config.embedding_size is not None:
        raise UsageError(f"outputs cannot be {outputs!r}")
    options = {k: v for k, v in dataclasses.asdict(model_config).items() if k != "embedding_size"}
    return SequenceRegressor(input_size, output_size, emit=emit, backend=ops, seed=None, **options)


def load_training(directory: Path, model: CIFGModel, buffers: Iterable[str]) -> TrainingState:
    """What `save` was given beside the model; CheckpointError where it is not all there.

    `buffers` are the names of the optimizer's arrays.
    """
    directory = locate(directory)
    path = directory / "training.safetensors"
    progress = read_json(directory / "training.json")
    arrays = _unpacked(path)
    flat: Shapes = dict.fromkeys(buffers, (model.num_parameters,))
    optimizer = {name: arrays.pop(name) for name in flat if name in arrays}
    _check_arrays(optimizer, flat, model.config.dtype, path)
    streams = arrays["state.h"].shape[1] if "state.h" in arrays and arrays["state.h"].ndim == 3 else 0
    shape = (model.config.num_layers, streams, model.config.hidden_size)
    _check_arrays(arrays, {"state.h": shape, "state.c": shape}, model.config.dtype, path)
    return TrainingState(optimizer, arrays, progress)


def exists(directory: Path) -> bool:
    """Whether there is a model directory, or what a kill between two renames left of it."""
    return directory.is_dir() or _old(directory).is_dir()


def locate(directory: Path) -> Path:
    """The directory, or what a kill between two renames left of it; CheckpointError if neither."""
    if not exists(directory):
        raise CheckpointError(f"no model directory at {directory}")
    return directory if directory.is_dir() else _old(directory)


def _old(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory of these files and no others, or leave the old one; CheckpointError where that fails."""
    partial, old = directory.with_name(f".{directory.name}.partial"), _old(directory)
    with _told(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        if old.is_dir() and not directory.exists():  # killed between the renames below
            old.rename(directory)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial.mkdir()
            for name, content in files.items():
                _write(partial / name, content)
            _sync_directory(partial)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
        _sync_directory(directory.parent)
        shutil.rmtree(old, ignore_errors=True)


def write_among(directory: Path, files: Mapping[str, bytes]) -> None:
    """Put a model's files into a directory that keeps its others; CheckpointError where that fails.

    A kill leaves the old model, the new one, or none: between the two there is no config.json, without which
    nothing is loaded.
    """
    partial = {name: directory / f".{name}.partial" for name in files}
    with _told(directory):
        try:
            for name, content in files.items():
                _write(partial[name], content)
            (directory / "config.json").unlink(missing_ok=True)
            for name in sorted(files, key="config.json".__eq__):  # that one last
                partial[name].replace(directory / name)
        except OSError:
            for path in partial.values():
                path.unlink(missing_ok=True)
            raise
        _sync_directory(directory)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written: {error.strerror or error}") from None


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    # safetensors writes arrays that are not C-contiguous wrongly and without a word: hand it
    # copies that are, and read back what it made of them
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    packed = safetensors.numpy.save(arrays)
    for name, array in safetensors.numpy.load(packed).items():
        if not np.array_equal(array, arrays[name], equal_nan=True):
            raise CheckpointError(f"{name} was not packed as it is; nothing was written")
    return packed


def _unpacked(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(path.read_bytes())
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


def _check_arrays(arrays: dict[str, np.ndarray], shapes: Shapes, dtype: str, path: Path) -> None:
    if set(arrays) != set(shapes):
        odd = ", ".join(sorted(set(arrays) ^ set(shapes)))
        raise CheckpointError(f"{path}: missing or unexpected arrays: {odd}")
    for name, array in arrays.items():
        if array.shape != shapes[name] or array.dtype != dtype:
            raise CheckpointError(
                f"{path}: {name} is {array.dtype} {array.shape}, "
                f"but config.json asks for {dtype} {shapes[name]}"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers")


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError where it is missing or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return content
