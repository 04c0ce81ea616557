"""Characters to integers and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown
from ..errors import DataError
from .tokenizer import Tokenizer


class CharacterTokenizer(Tokenizer):
    """A vocabulary of single characters (Unicode code points), numbered in the order given."""

    kind = "characters"
    unit = "character"
    extensible = True

    def __init__(self, vocabulary: Iterable[str], normalize: Normalization = "none") -> None:
        """Raises DataError where the vocabulary is empty, repeats or holds more than characters."""
        self.vocabulary = tuple(vocabulary)
        if not self.vocabulary or any(not isinstance(s, str) or len(s) != 1 for s in self.vocabulary):
            raise DataError("a vocabulary of characters holds one or more strings of length 1")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise DataError("the vocabulary holds a character twice")
        super().__init__(len(self.vocabulary), normalize)
        self._points = np.array([ord(s) for s in self.vocabulary], dtype=np.uint32)
        self._ids = np.full(int(self._points.max()) + 2, -1, dtype=np.int32)  # the last: all higher points
        self._ids[self._points] = np.arange(len(self.vocabulary), dtype=np.int32)

    @classmethod
    def from_text(cls, text: str) -> CharacterTokenizer:
        """The characters of a text, in the order of their code points."""
        return CharacterTokenizer.build(DataConfig(), [text])

    @classmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        found: set[str] = set()
        for chunk in chunks:
            found.update(chunk)
        return cls(sorted(found), config.normalize)

    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        unknown = ids < 0
        if unknown.any():
            if on_unknown == "error":
                self._refuse(self._unknown(text))
            if on_unknown == "skip":
                ids = ids[~unknown]
            else:
                ids[unknown] = self.vocabulary.index(self.replacement)
        return ids.astype(self.dtype)

    def decode(self, ids: Any) -> str:
        points: np.ndarray = self._points[np.asarray(ids, dtype=np.int64)]
        return points.tobytes().decode("utf-32-le", "surrogatepass")

    def _unknown(self, text: str) -> Counter[str]:
        known = set(self.vocabulary)
        return Counter(s for s in text if s not in known)

    @property
    def replacement(self) -> str:
        """What stands for an unknown character: U+FFFD, ?, a space, or else the first character."""
        candidates = ("\ufffd", "?", " ", self.vocabulary[0])
        return next(s for s in candidates if s in self.vocabulary)

    @property
    def start_token(self) -> int:
        return self.vocabulary.index("\n") if "\n" in self.vocabulary else 0

    def characters(self, ids: np.ndarray) -> int:
        return len(ids)

    def extended(self, new: Iterable[str]) -> Self:
        return type(self)([*self.vocabulary, *new], self.normalize)

    def _content(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def _identity(self) -> list[Any]:
        return list(self.vocabulary)

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(content["vocabulary"], normalize)
