"""Where text comes from: files, directories, globs, .gz, stdin, the web, names; read in chunks."""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ..errors import DataError
from . import coffee, downloads

CHUNK = 16 << 20  # bytes that are read and decoded at a time
EMBEDDED = {"coffee": coffee.text}
STDIN = "-"
KEPT_STDIN = "stdin.txt"  # the copy of a text from stdin in its run's directory
_PROBED = 1 << 16  # bytes of a file in a directory that must look like text
_SPLITS = {"train": "train", "valid": "val", "validation": "val", "val": "val", "dev": "val", "test": "test"}
_SPLIT_NAME = re.compile(rf"(?:^|[._-])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?=[._\d-]|$)")
_log = logging.getLogger("charlstm")


class Source(ABC):
    """A text that comes in chunks, from its beginning each time that it is asked for them."""

    name: str
    entropy: float | None = None  # nats per character, where it is known

    @abstractmethod
    def chunks(self) -> Iterator[str]:
        """The text in pieces that end after a line feed where there is one, none empty."""

    @abstractmethod
    def identity(self) -> str | None:
        """What stays the same for as long as the text does; None: too small to be worth keeping."""


class TextInMemory(Source):
    """A text that is there already, in one chunk."""

    def __init__(self, name: str, text: str, entropy: float | None = None) -> None:
        self.name, self._text, self.entropy = name, text, entropy

    def chunks(self) -> Iterator[str]:
        if self._text:
            yield self._text

    def identity(self) -> None:
        return None


class TextFile(NamedTuple):
    """A file as it was when it was found, or a file in a zip archive."""

    path: Path
    size: int
    modified: int  # ns
    member: str | None = None

    @classmethod
    def at(cls, path: Path, member: str | None = None) -> TextFile:
        """Raises DataError for what cannot be read twice."""
        with readable(path):
            found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise DataError(f"{path} is no regular file: pipe the text in, with --data -")
        return cls(path, found.st_size, found.st_mtime_ns, member)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes, decompressed."""
        with ExitStack() as stack:
            if self.member is not None:
                yield stack.enter_context(stack.enter_context(zipfile.ZipFile(self.path)).open(self.member))
            elif self.path.suffix == ".gz":
                yield cast(IO[bytes], stack.enter_context(gzip.open(self.path)))
            else:
                yield stack.enter_context(open(self.path, "rb"))

    def check_unchanged(self) -> None:
        """Raises DataError where the file was written to since it was found."""
        with readable(self.path):
            if TextFile.at(self.path, self.member) != self:
                raise DataError(f"{self.path} changed while it was read: start again when it is whole")


class TextFiles(Source):
    """Files one after the other, as they stand, line ends included, without byte order marks.

    With errors="surrogateescape" any bytes are text, marks and NUL characters included. chunks()
    raises DataError for what is not text of the encoding, is cut off, or changes meanwhile.
    """

    def __init__(
        self, name: str, files: Sequence[TextFile], encoding: str = "utf-8", errors: str = "strict"
    ) -> None:
        self.name, self.files, self.encoding, self.errors = name, tuple(files), encoding, errors
        self._identity: str | None = None

    def chunks(self) -> Iterator[str]:
        for file in self.files:
            yield from self._chunks_of(file)

    def _chunks_of(self, file: TextFile) -> Iterator[str]:
        decoder = _Decoder(file.path, self.encoding, self.errors)
        held = ""
        with readable(file.path), file.open() as stream:
            while block := stream.read(CHUNK):
                text = held + decoder.feed(block)
                cut = text.rfind("\n") + 1 or len(text)
                held = text[cut:]
                file.check_unchanged()
                if cut:
                    yield text[:cut]
            held += decoder.feed(b"", final=True)
        file.check_unchanged()
        if held:
            yield held

    def identity(self) -> str:
        """Paths, sizes and times; of a copy of stdin, which moves, the content."""
        if self._identity is None:
            described: Any = [(os.fsencode(file.path.resolve()).hex(), *file[1:]) for file in self.files]
            if self.files[0].path.name == KEPT_STDIN:
                with readable(self.files[0].path), self.files[0].open() as stream:
                    described = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            self._identity = json.dumps([described, self.encoding, self.errors])
        return self._identity


class _Decoder:
    """Decodes a file piece by piece, and says where and why it cannot be."""

    def __init__(self, path: Path, encoding: str, errors: str) -> None:
        self._path, self._encoding, self._errors = path, encoding, errors
        self._as_it_is = errors == "surrogateescape"
        self._no_nul = not self._as_it_is and encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        except LookupError:
            raise DataError(f"unknown encoding {encoding!r}: try utf-8 or latin-1") from None
        self._at, self._started, self._head = 0, False, b""

    def feed(self, block: bytes, final: bool = False) -> str:
        """The text of some more bytes, but for a last character that is not yet whole."""
        if not self._at:
            self._head = block[:2]
        waiting = 0
        try:
            waiting = len(self._decoder.getstate()[0])
            text = self._decoder.decode(block, final)
        except (UnicodeError, ValueError) as error:
            raise self._refused(error, self._at - waiting) from None
        self._at += len(block)
        if self._no_nul and "\0" in text:
            raise DataError(
                f"{self._path} holds NUL characters, so it is binary or of another encoding: "
                f"try --encoding utf-16, or latin-1, which takes any bytes"
            )
        if text and not self._started:
            self._started = True
            return text if self._as_it_is else text.removeprefix("\ufeff")
        return text

    def _refused(self, error: ValueError, at: int) -> DataError:
        decoding = isinstance(error, UnicodeDecodeError)
        where = f"byte {at + error.start}: {error.reason}" if decoding else error  # type: ignore[attr-defined]
        marked = self._head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        known = "utf-16" if marked else "latin-1, which takes any bytes"
        return DataError(
            f"{self._path} is not {self._encoding} text ({where}): "
            f"name its encoding, such as --encoding {known}"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is found, opened or read is told as DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (EOFError, zlib.error, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} is damaged or cut off: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def names() -> list[str]:
    """The corpora that are known by name."""
    return [*EMBEDDED, *downloads.NAMED]


def is_url(data: str) -> bool:
    return data.startswith(("http://", "https://"))


# ---- finding --------------------------------------------------------------------------------


def open_text(data: str, encoding: str = "utf-8", errors: str = "strict") -> dict[str, Source]:
    """The text that a user names: under "train", and "val" and "test" where it comes in such parts.

    data is an embedded or downloaded corpus's name, an http(s) address, a file, a directory or a
    glob; `.gz` files are decompressed. A directory gives the text files in it and below, sorted, hidden ones left
    out; or, where it holds files named train* and valid*, val* or test*, these parts. Raises DataError
    where there is no text to be found.
    """
    if data in EMBEDDED:
        text = TextInMemory(data, EMBEDDED[data](), coffee.entropy_per_character())
        return {"train": text}
    if data in downloads.NAMED:
        path = downloads.fetch_named(data)
        members = downloads.NAMED[data].members
        parts = {"train": [TextFile.at(path)]}
        if members is not None:
            parts = {split: [TextFile.at(path, member)] for split, member in members.items()}
        name = data
    elif is_url(data):
        path = downloads.fetch_url(data)
        parts, name = {"train": [TextFile.at(path)]}, Path(data.split("?")[0]).name or "text"
    else:
        parts, name = _local(data, encoding, errors)
    name = name.removesuffix(".gz")
    return {
        split: TextFiles(name if split == "train" else f"{name} ({split})", files, encoding, errors)
        for split, files in parts.items()
    }


def _local(data: str, encoding: str, errors: str) -> tuple[dict[str, list[TextFile]], str]:
    path = Path(data)
    if path.is_dir():
        return _directory(path, encoding, errors), path.resolve().name or "texts"
    if os.path.lexists(path) or not glob.has_magic(data):
        if not os.path.lexists(path) and "://" not in data:
            raise DataError(f"no such file: {data} (corpora known by name: {', '.join(names())})")
        if "://" in data:
            raise DataError(
                f"{data} is an address on the web that cannot be read: download the file and name it"
            )
        return {"train": [TextFile.at(path)]}, path.name
    found = sorted(Path(p) for p in glob.glob(data, recursive=True) if not os.path.isdir(p))
    if not found:
        raise DataError(f"no file matches {data}")
    fixed = [part for part in Path(os.path.abspath(data)).parent.parts if not glob.has_magic(part)]
    return {"train": [TextFile.at(p) for p in found]}, Path(*fixed).name or "texts"


def _directory(path: Path, encoding: str, errors: str) -> dict[str, list[TextFile]]:
    found: dict[str, list[TextFile]] = {}
    with readable(path):
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if named := _SPLIT_NAME.search(entry.name.lower()):
            found.setdefault(_SPLITS[named[1]], []).extend(_files_in(entry))
    if "train" in found and len(found) > 1:
        return found
    files = list(_files_in(path))
    texts = [file for file in files if _is_text(file, encoding, errors)]
    if not texts:
        why = f"none of its {len(files)} files is {encoding} text" if files else "there is no file in it"
        raise DataError(f"{path} holds no text: {why} (hidden files do not count)")
    if left_out := [file.path.name for file in files if file not in texts]:
        shown = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" if len(left_out) > 3 else "")
        _log.warning("%s: left out, since it is no %s text: %s", path, encoding, shown)
    return {"train": texts}


def _files_in(path: Path) -> Iterator[TextFile]:
    if not path.is_dir():
        yield TextFile.at(path)
        return
    found: list[Path] = []
    for folder, below, files in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    for file in sorted(found):
        if file.is_file():
            yield TextFile.at(file)


def _is_text(file: TextFile, encoding: str, errors: str) -> bool:
    decoder = _Decoder(file.path, encoding, errors)
    with readable(file.path), file.open() as stream:
        beginning = stream.read(_PROBED)
    try:
        decoder.feed(beginning)
    except DataError:
        return False
    return True


@contextmanager
def spooled_stdin() -> Iterator[Path]:
    """What stdin holds, in a file that is there for as long as the context."""
    if sys.stdin.isatty():
        _log.warning("the text is read from the terminal: end it with Ctrl-D")
    with tempfile.TemporaryDirectory(prefix="charlstm-") as folder:
        path = Path(folder, KEPT_STDIN)
        try:
            with open(path, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
        except OSError as error:
            raise DataError(f"stdin cannot be kept in {folder}: {error.strerror or error}") from None
        yield path


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """A file's whole text, as `TextFiles` gives it."""
    return "".join(TextFiles(path.name, [TextFile.at(path)], encoding, errors).chunks())


def read_beginning(
    data: str, characters: int, encoding: str = "utf-8", errors: str = "strict"
) -> tuple[str, str]:
    """The name of a text that a user names, and its first `characters`; DataError as `open_text`, or if empty."""
    text = ""
    with spooled_stdin() if data == STDIN else nullcontext(data) as place:
        source = open_text(str(place), encoding, errors)["train"]
        for chunk in source.chunks():
            text += chunk
            if len(text) >= characters:
                break
    if not text:
        raise DataError(f"{source.name} is empty: give a text to read")
    return source.name, text[:characters]
