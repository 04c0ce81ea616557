"""Characters to integers and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown, TokenizerKind
from ..errors import DataError
from .tokenizer import Tokenizer

BLOCK = 1 << 15  # characters that are looked up at once: they, and what becomes of them, stay in the cache
CODE_POINTS = 0x110000


class CharacterTokenizer(Tokenizer):
    """A vocabulary of single characters (Unicode code points), numbered in the order given.

    >>> tokenizer = CharacterTokenizer.from_text("hello")
    >>> tokenizer.encode("hole").tolist(), tokenizer.vocabulary
    ([1, 3, 2, 0], ('e', 'h', 'l', 'o'))
    >>> tokenizer.decode([1, 0, 2, 2, 3])
    'hello'
    """

    kind: ClassVar[TokenizerKind] = "characters"
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
        seen = np.zeros(CODE_POINTS, dtype=bool)
        for chunk in chunks:
            for points in _code_points(chunk):
                if not seen.take(points).all():  # six times as fast as to mark them
                    seen[points] = True
        return cls(map(chr, np.flatnonzero(seen)), config.normalize)

    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray:
        found, n = np.empty(len(text), dtype=self.dtype), 0
        for points in _code_points(text):
            ids = self._ids.take(points, mode="clip")
            if ids.min() < 0:
                unknown = ids < 0
                if on_unknown == "error":
                    self._refuse(self._unknown(text))
                if on_unknown == "skip":
                    ids = ids[~unknown]
                else:
                    ids[unknown] = self.vocabulary.index(self.replacement)
            found[n : n + len(ids)] = ids
            n += len(ids)
        return found[:n]

    def decode(self, ids: Any) -> str:
        ids = np.asarray(ids)
        blocks = (self._points[ids[k : k + BLOCK]] for k in range(0, len(ids), BLOCK))
        return "".join(points.tobytes().decode("utf-32-le", "surrogatepass") for points in blocks)

    def _unknown(self, text: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for points in _code_points(text):
            unknown = points[self._ids.take(points, mode="clip") < 0]
            counts.update(map(chr, unknown))
        return counts

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

    def located(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        done = 0
        for ids in blocks:
            yield self.decode(ids), np.arange(done + 1, done + len(ids) + 1)
            done += len(ids)

    def extended(self, new: Iterable[str]) -> Self:
        return type(self)([*self.vocabulary, *new], self.normalize)

    def _content(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def _identity(self) -> list[Any]:
        return list(self.vocabulary)

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(content["vocabulary"], normalize)


class ASCIITokenizer(CharacterTokenizer):
    """The 128 characters of ASCII, numbered by their codes."""

    kind = "ascii"
    extensible = False
    extended = Tokenizer.extended

    def __init__(self, normalize: Normalization = "none") -> None:
        super().__init__(map(chr, range(128)), normalize)

    @classmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        return cls(config.normalize)

    def _content(self) -> dict[str, Any]:
        return {}

    def _identity(self) -> list[Any]:
        return []

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(normalize)


def _code_points(text: str) -> Iterator[np.ndarray]:
    """Code points of a text, block by block: uint8 where a block is ASCII, else uint32."""
    for start in range(0, len(text), BLOCK):
        block = text[start : start + BLOCK]
        if block.isascii():
            yield np.frombuffer(block.encode("ascii"), dtype=np.uint8)
        else:
            yield np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype=np.dtype("<u4"))
