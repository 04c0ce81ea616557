"""ONNX files: a network's graph with what a program needs to know about it, tokenizer.json beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..data import Tokenizer, load_tokenizer
from ..errors import CharLSTMError, CheckpointError, UsageError
from ..model import CIFGModel
from ..wording import write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes of that year on can read
LARGEST = 2**31 - 1  # bytes of a protobuf message
PRODUCER = "charlstm"

_log = logging.getLogger(__name__)


def to_onnx(
    model: CIFGModel, path: str | Path, tokenizer: Tokenizer | None = None, *, force: bool = False
) -> None:
    """Write a model as an ONNX file, and its tokenizer beside it as tokenizer.json.

    Inputs and outputs are described in `charlstm.export.graph`. The file's metadata hold
    charlstm_version and, with a tokenizer, vocabulary_hash: the hash in tokenizer.json. Weights in
    float64 are rounded to float32, and a warning is logged. An earlier export is replaced; any other
    file, and a tokenizer.json of another vocabulary, only with `force`.

    Raises UsageError without the library onnx, for a file that is not to be replaced, for weights that
    are not finite in float32, or too many for one file; CharLSTMError where the disk refuses.
    """
    library = _library()
    path = Path(path)
    companion = path.with_name("tokenizer.json")
    if not force:
        _check_replaceable(path, companion, tokenizer, library)
    content = _model(model, tokenizer, library).SerializeToString()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CharLSTMError(f"{path.parent} cannot be made: {error.strerror or error}") from None
    if tokenizer is not None:
        write_bytes(companion, tokenizer.to_json().encode())
    write_bytes(path, content)


def _library() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise UsageError('ONNX files need the library onnx: pip install "charlstm[onnx]"') from None
    return onnx


def _check_replaceable(path: Path, companion: Path, tokenizer: Tokenizer | None, library: ModuleType) -> None:
    """UsageError where something lies in the way that is no earlier export of the same vocabulary."""
    if path.exists() and not _is_export(path, library):
        raise UsageError(f"{path} exists and is no ONNX file of charlstm: choose another, or --force")
    if tokenizer is None or not companion.exists():
        return
    try:
        same = load_tokenizer(companion).hash == tokenizer.hash
    except CheckpointError:
        same = False
    if not same:
        raise UsageError(
            f"{companion} is of another vocabulary, and the model's own has to lie there: "
            "choose another folder, or --force"
        )


def _is_export(path: Path, library: ModuleType) -> bool:
    from google.protobuf.message import DecodeError

    try:
        return bool(library.load(path, load_external_data=False).producer_name == PRODUCER)
    except (OSError, DecodeError):
        return False


def _model(model: CIFGModel, tokenizer: Tokenizer | None, library: ModuleType) -> ModelProto:
    from .graph import network_graph

    if tokenizer is not None and len(tokenizer) != model.output_size:
        raise UsageError(
            f"a tokenizer of {len(tokenizer)} tokens is not that of a model of {model.output_size}"
        )
    if model.config.dtype != "float32":
        _log.warning("the weights are rounded from %s to float32", model.config.dtype)
    with np.errstate(over="ignore"):  # told below
        weights = {
            name: model.ops.to_numpy(array).astype(np.float32) for name, array in model.parameters.items()
        }
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise UsageError("a weight is not finite in float32: there is nothing to export")
    helper = library.helper
    proto: ModelProto = helper.make_model(
        network_graph(model, weights),
        producer_name=PRODUCER,
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    known = {"charlstm_version": __version__}
    if tokenizer is not None:
        known["vocabulary_hash"] = tokenizer.hash
    helper.set_model_props(proto, known)
    if proto.ByteSize() > LARGEST:
        raise UsageError("the model is larger than 2 GB, which one ONNX file cannot hold")
    library.checker.check_model(proto, full_check=True)
    return proto
