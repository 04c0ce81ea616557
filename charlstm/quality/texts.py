"""Texts as numbers, as words, and in pieces."""

from __future__ import annotations

import re

import numpy as np

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def codes(text: str) -> np.ndarray:
    """The code points of a text, (N,) uint32; surrogates as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def words(text: str) -> list[str]:
    """The words of a text, in lower case: letters, with apostrophes inside."""
    return _WORD.findall(text.lower())


def cut(text: str, size: int, most: int) -> list[str]:
    """The first so many pieces of a text, all of one size."""
    return [text[k * size : (k + 1) * size] for k in range(min(most, len(text) // max(1, size)))]


def spread(pieces: list[str], most: int) -> list[str]:
    """At most so many of the pieces, evenly spread."""
    return pieces[:: max(1, -(-len(pieces) // most))]
