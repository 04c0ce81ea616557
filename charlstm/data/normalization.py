"""Unicode normalization, and what it changed."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from ..config import Normalization

# an ASCII character can begin a sequence that is composed, but never go on with one
_RUN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")


def normalized(form: Normalization, text: str) -> str:
    """A text in a normal form; "none" leaves it as it is."""
    return text if form == "none" or text.isascii() else unicodedata.normalize(form, text)


class Changes:
    """Counts what normalization changes in a text that comes in chunks."""

    def __init__(self, form: Normalization) -> None:
        self.form = form
        self.characters = 0
        """Of the text, before."""
        self.changed = 0
        """Characters of it that were replaced."""
        self.replacements: Counter[tuple[str, str]] = Counter()

    def normalize(self, chunks: Iterable[str]) -> Iterator[str]:
        """The chunks in normal form, counted as they pass."""
        for chunk in chunks:
            self.characters += len(chunk)
            if self.form != "none" and not unicodedata.is_normalized(self.form, chunk):
                for run, n in Counter(_RUN.findall(chunk)).items():
                    self._count(run, n)
            yield normalized(self.form, chunk)

    def _count(self, run: str, n: int) -> None:
        for part in _parts(self.form, run):
            after = normalized(self.form, part)
            if after != part:
                self.changed += n * len(part)
                self.replacements[part, after] += n

    def __str__(self) -> str:
        if not self.changed:
            return f"{self.form} changed nothing"
        most = ", ".join(
            f"{_named(before)} to {_named(after)} {times(n)}"
            for (before, after), n in self.replacements.most_common(5)
        )
        more = len(self.replacements) - 5
        return (
            f"{self.form} changed {self.changed:,} of {self.characters:,} characters: {most}"
            + (f" and {more:,} other replacements" if more > 0 else "")
        )  # fmt: skip


def times(n: int) -> str:
    """once, 2 times, 3 times, ..."""
    return "once" if n == 1 else f"{n:,} times"


def _parts(form: Normalization, run: str) -> Iterator[str]:
    """A run of characters cut wherever that does not change its normal form."""
    if normalized(form, run) == run:
        return
    part = run[0]
    for s in run[1:]:
        joined = unicodedata.combining(s) or normalized(form, part + s) != normalized(
            form, part
        ) + normalized(form, s)
        if joined:
            part += s
        else:
            yield part
            part = s
    yield part


def _named(text: str) -> str:
    return f"{text!r} ({' '.join(f'U+{ord(s):04X}' for s in text)})"
