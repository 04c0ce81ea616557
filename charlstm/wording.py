"""Figures and foreign text as people read them, and files."""

from __future__ import annotations

import os
import unicodedata
from contextlib import suppress
from pathlib import Path

from .errors import CharLSTMError


def in_nats(loss: float) -> str:
    """A loss with four decimals, unless it is far from any sane value."""
    return f"{loss:.4f}" if loss < 1000 else f"{loss:.3e}"


def duration(seconds: float) -> str:
    """Seconds in words."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def printable(text: str) -> str:
    """Text that a terminal can be given: control characters, but for line ends and tabs, replaced."""
    text = text.replace("\r\n", "\n")
    shown = (s in "\n\t" or unicodedata.category(s) not in ("Cc", "Cs", "Cn") for s in text)
    return "".join(s if show else "\N{REPLACEMENT CHARACTER}" for s, show in zip(text, shown, strict=True))


def write_text(path: Path, text: str) -> None:
    """Write a file, all of it or nothing; CharLSTMError where the disk refuses."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CharLSTMError(f"{path} cannot be written: {error.strerror or error}") from None
