"""Encoded texts: small ones in memory, large ones in a file of the user's cache, mapped into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import DataConfig, OnUnknown
from ..errors import CheckpointError, DataError
from .downloads import CACHE, cache_folder
from .sources import Source
from .tokenizer import Tokenizer, load_tokenizer, make_tokenizer

IN_MEMORY = 32 << 20  # bytes of token ids; longer texts go to a file
_FORMAT = 1
_PARTIAL = ".partial-"
_log = logging.getLogger("charlstm")


class Encoded(NamedTuple):
    """The tokens of a text, and what was found on the way."""

    tokens: np.ndarray  # (N,) unsigned; read-only where it is a file's
    sha256: str  # of the text in UTF-8
    unknown: Counter[str]  # what was skipped or replaced, and how often


def encode(source: Source, tokenizer: Tokenizer, on_unknown: OnUnknown) -> Encoded:
    """A text's tokens; those of a large one from the cache, where it was encoded before.

    A text is known again by its files' paths, sizes and times, and by its tokenizer's hash. Where
    the cache cannot be written, the tokens of a large text are held in memory, and a warning says so. Raises
    DataError as the source and the tokenizer do.
    """
    identity = source.identity()
    if identity is None:
        return _Encoder(source, tokenizer, on_unknown).to_memory()
    folder = _folder(identity, tokenizer.hash, tokenizer.policy(on_unknown))
    # what could be encoded with "error" is the same whatever is to be done with unknown tokens
    for known in (folder, _folder(identity, tokenizer.hash, "error")):
        if (found := _open(known, tokenizer)) is not None:
            return found
    try:
        return _Encoder(source, tokenizer, on_unknown).to_file(folder)
    except OSError as error:
        _log.warning(
            "%s cannot hold the encoded text (%s): it is held in memory instead (%s=FOLDER names another)",
            folder.parent, error.strerror or error, CACHE,
        )  # fmt: skip
        return _Encoder(source, tokenizer, on_unknown).to_memory()


def made_tokenizer(sources: Sequence[Source], config: DataConfig, options: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a configuration asks for, of texts; from the cache where they are large and
    it was made before.

    options   those of the configuration that it depends on
    """
    read = 0

    def chunks() -> Iterator[str]:
        nonlocal read
        for source in sources:
            for chunk in source.chunks():
                read += len(chunk)
                yield chunk

    identities = [source.identity() for source in sources]
    path = cache_folder() / "tokenizers" / f"{_key(identities, options)}.json"
    if None not in identities and path.is_file():
        try:
            return load_tokenizer(path)
        except CheckpointError:
            _log.warning("%s is damaged and made again", path)
    tokenizer = make_tokenizer(config, chunks())
    if None not in identities and read > IN_MEMORY:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(tokenizer.to_json(), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            _log.info("%s cannot be written: %s", path, error.strerror or error)
    return tokenizer


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()[:32]


def _folder(identity: str, tokenizer_hash: str, on_unknown: OnUnknown) -> Path:
    return cache_folder() / "encoded" / _key(identity, tokenizer_hash, on_unknown)


def _open(folder: Path, tokenizer: Tokenizer) -> Encoded | None:
    """What a folder of the cache holds; None where there is none, or it is damaged."""
    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        expected = {"key": folder.name, "dtype": str(tokenizer.dtype), "tokenizer_hash": tokenizer.hash}
        if any(record[name] != value for name, value in expected.items()):
            raise ValueError("it is of another text or tokenizer")
        if (folder / "tokens.bin").stat().st_size != record["bytes"]:
            raise ValueError("it is cut off")
        tokens = np.memmap(folder / "tokens.bin", tokenizer.dtype, "r")
        return Encoded(np.asarray(tokens), str(record["sha256"]), Counter(record["unknown"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s is damaged and made again: %s", folder, error)
        return None


class _Encoder:
    """Encodes a source once: into memory, or into a file as soon as that grows large."""

    def __init__(self, source: Source, tokenizer: Tokenizer, on_unknown: OnUnknown) -> None:
        self._source, self._tokenizer, self._on_unknown = source, tokenizer, on_unknown
        self._digest = hashlib.sha256()
        self._unknown: Counter[str] = Counter()

    def to_memory(self) -> Encoded:
        return self._joined(list(self._pieces()))

    def to_file(self, folder: Path) -> Encoded:
        """OSError where the file cannot be written."""
        pieces = self._pieces()
        held: list[np.ndarray] = []
        while sum(piece.nbytes for piece in held) <= IN_MEMORY:
            if (piece := next(pieces, None)) is None:
                return self._joined(held)
            held.append(piece)
        _log.info("%s is encoded, once, into %s", self._source.name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        try:
            self._write(partial, folder.name, chain(held, pieces))
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            with suppress(OSError):  # another process may have been faster
                os.rename(partial, folder)
            if (found := _open(folder, self._tokenizer)) is None:
                raise OSError(f"{folder} is not as it was written")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return found

    def _pieces(self) -> Iterator[np.ndarray]:
        for chunk in self._source.chunks():
            self._digest.update(chunk.encode("utf-8", "surrogatepass"))
            yield self._encode(chunk)

    def _encode(self, chunk: str) -> np.ndarray:
        tokenizer = self._tokenizer
        if tokenizer.policy("error") == "error":
            try:  # to count the unknown takes longer, and mostly there are none
                return tokenizer.encode(chunk)
            except DataError:
                if self._on_unknown == "error":
                    raise
        self._unknown += tokenizer.unknown(chunk)
        return tokenizer.encode(chunk, self._on_unknown)

    def _joined(self, pieces: list[np.ndarray]) -> Encoded:
        tokens = np.concatenate(pieces) if pieces else np.empty(0, self._tokenizer.dtype)
        return Encoded(tokens, self._digest.hexdigest(), self._unknown)

    def _write(self, folder: Path, key: str, pieces: Iterable[np.ndarray]) -> None:
        with open(folder / "tokens.bin", "wb") as file:
            for piece in pieces:
                file.write(piece.data)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        record = {
            "key": key,
            "dtype": str(self._tokenizer.dtype),
            "tokenizer_hash": self._tokenizer.hash,
            "bytes": size,
            "sha256": self._digest.hexdigest(),
            "unknown": dict(self._unknown),
        }
        (folder / "text.json").write_text(json.dumps(record) + "\n", encoding="ascii")


def _sweep(folder: Path) -> None:
    """Remove what encoders that were killed have left: nothing has been written there for an hour."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            if max(p.stat().st_mtime for p in (partial, *partial.iterdir())) < time.time() - 3600:
                shutil.rmtree(partial, ignore_errors=True)
