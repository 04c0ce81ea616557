"""Characters to integers and back."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError, DataError

OnUnknown = Literal["error", "skip", "replace"]


class CharacterTokenizer:
    """A vocabulary of single characters (Unicode code points), numbered in the order given."""

    def __init__(self, vocabulary: Iterable[str]) -> None:
        """Raises DataError where the vocabulary is empty, repeats or holds more than characters."""
        self.vocabulary = tuple(vocabulary)
        if not self.vocabulary or any(not isinstance(s, str) or len(s) != 1 for s in self.vocabulary):
            raise DataError("a vocabulary of characters holds one or more strings of length 1")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise DataError("the vocabulary holds a character twice")
        self._points = np.array([ord(s) for s in self.vocabulary], dtype=np.uint32)
        self._ids = np.full(int(self._points.max()) + 2, -1, dtype=np.int32)  # the last: all higher points
        self._ids[self._points] = np.arange(len(self.vocabulary), dtype=np.int32)
        self.dtype = np.min_scalar_type(len(self.vocabulary) - 1)

    @classmethod
    def from_text(cls, text: str) -> CharacterTokenizer:
        """The characters of a text, in the order of their code points."""
        return cls(sorted(set(text)))

    def __len__(self) -> int:
        return len(self.vocabulary)

    @property
    def hash(self) -> str:
        """SHA-256 of the vocabulary in its order; weights and text are bound to it."""
        content = json.dumps(["characters", *self.vocabulary])
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: str, on_unknown: OnUnknown = "error") -> np.ndarray:
        """Token ids of a text, in the smallest unsigned type that holds the vocabulary.

        Characters outside of the vocabulary raise DataError, or are skipped, or are replaced by
        `replacement`.
        """
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        unknown = ids < 0
        if unknown.any():
            if on_unknown == "error":
                raise DataError(
                    f"not in the vocabulary: {name_characters(self.unknown(text))} "
                    f"(--on-unknown skip or replace goes on without)"
                )
            if on_unknown == "skip":
                ids = ids[~unknown]
            else:
                ids[unknown] = self.vocabulary.index(self.replacement)
        return ids.astype(self.dtype)

    def decode(self, ids: Any) -> str:
        """The text of token ids."""
        points: np.ndarray = self._points[np.asarray(ids, dtype=np.int64)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")

    def unknown(self, text: str) -> Counter[str]:
        """How often each character outside of the vocabulary occurs in a text."""
        known = set(self.vocabulary)
        return Counter(s for s in text if s not in known)

    @property
    def replacement(self) -> str:
        """What stands for an unknown character: U+FFFD, ?, a space, or else the first character."""
        candidates = ("\ufffd", "?", " ", self.vocabulary[0])
        return next(s for s in candidates if s in self.vocabulary)

    def to_json(self) -> str:
        content = {"type": "characters", "version": 1, "vocabulary": self.vocabulary, "hash": self.hash}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> CharacterTokenizer:
        """Read a tokenizer.json; CheckpointError where it is none or was changed."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["type"] != "characters" or content["version"] != 1:
                raise CheckpointError(f"{path}: tokenizer type {content['type']!r} is not known here")
            tokenizer = cls(content["vocabulary"])
            if tokenizer.hash != content["hash"]:
                raise CheckpointError(f"{path}: the vocabulary does not match its hash; it was changed")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error!r}") from None
        return tokenizer


def name_characters(counts: Counter[str], most: int = 5) -> str:
    """Characters and their counts in words: 'é' (U+00E9) 3 times, ..."""
    parts = [
        f"{s!r} (U+{ord(s):04X}) {'once' if n == 1 else f'{n} times'}" for s, n in counts.most_common(most)
    ]
    more = len(counts) - most
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")
