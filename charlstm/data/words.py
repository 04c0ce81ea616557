"""Words to integers and back."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, ClassVar, Self

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown, TokenizerKind
from ..errors import DataError
from .tokenizer import Decoder, Tokenizer, line_blocks

UNKNOWN, LINE_END = "<unk>", "<eos>"
BLOCK = 1 << 20  # characters that are split at once, and tokens whose characters are counted at once


class WordTokenizer(Tokenizer):
    """Words by simple rules for English; a line feed is the token `<eos>`, an unknown word `<unk>`.

    The rules are those that torchtext calls basic English: lower case; apostrophes, full stops, commas,
    round brackets, exclamation and question marks are words of their own; double quotes are left out;
    semicolons, colons and `<br />` are spaces. Decoded words stand between single spaces.

    >>> tokenizer = WordTokenizer.build(DataConfig(tokenizer="words", min_count=1), ["It's late.\\n"])
    >>> tokenizer.decode(tokenizer.encode("Is it late?"))
    '<unk> it late <unk>'
    """

    kind: ClassVar[TokenizerKind] = "words"
    unit = "word"
    extensible = True
    unknown_token = UNKNOWN
    replacement = UNKNOWN
    start_token = 1
    _min_count: ClassVar[int] = 2  # unless the configuration says otherwise

    def __init__(self, vocabulary: Iterable[str], normalize: Normalization = "none") -> None:
        """A vocabulary begins with `<unk>` and `<eos>`; DataError where it does not, repeats, or has spaces."""
        self.vocabulary = tuple(vocabulary)
        if self.vocabulary[:2] != (UNKNOWN, LINE_END):
            raise DataError(f"a vocabulary of words begins with {UNKNOWN} and {LINE_END}")
        if any(not isinstance(word, str) or word.split() != [word] for word in self.vocabulary):
            raise DataError("a vocabulary of words holds strings without white space")
        try:
            "".join(self.vocabulary).encode()
        except UnicodeEncodeError:
            raise DataError("a word holds a surrogate, a character that no file has") from None
        self._ids = {word: k for k, word in enumerate(self.vocabulary)}
        if len(self._ids) < len(self.vocabulary):
            raise DataError("the vocabulary holds a word twice")
        super().__init__(len(self.vocabulary), normalize)
        self._lengths = np.array([1 if k == 1 else len(word) for k, word in enumerate(self.vocabulary)])

    @classmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        """The most frequent words first."""
        counts: Counter[str] = Counter()
        for chunk in chunks:
            for block in line_blocks(chunk, BLOCK):
                counts.update(cls._split(block))
        least = cls._min_count if config.min_count is None else config.min_count
        known = [word for word, n in counts.items() if n >= least and word not in (UNKNOWN, LINE_END)]
        if not known:
            raise DataError(f"no word of the text occurs {least} times: try a smaller --min-count")
        known.sort(key=lambda word: (-counts[word], word))
        most = None if config.vocab_size is None else config.vocab_size - 2
        return cls([UNKNOWN, LINE_END, *known[:most]], config.normalize)

    @staticmethod
    def _split(text: str) -> list[str]:
        text = text.lower()
        for old, new in _RULES:
            text = text.replace(old, new)
        return _BREAK.sub(" ", text).replace("\n", f" {LINE_END} ").split()

    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray:
        found = [np.empty(0, self.dtype)]
        for block in line_blocks(text, BLOCK):
            words = self._split(block)
            if on_unknown == "skip":
                words = [word for word in words if word in self._ids]
            ids = map(self._ids.get, words, repeat(self._ids[UNKNOWN]))
            found.append(np.fromiter(ids, dtype=self.dtype, count=len(words)))
        return np.concatenate(found)

    def decode(self, ids: Any) -> str:
        return self.decoder().feed(ids)

    def decoder(self, prompt: str = "") -> Decoder:
        return _WordDecoder(self, prompt)

    def _unknown(self, text: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for block in line_blocks(text, BLOCK):
            counts.update(word for word in self._split(block) if word not in self._ids)
        return counts

    def characters(self, ids: np.ndarray) -> int:
        total, before = 0, self.start_token
        for k in range(0, len(ids), BLOCK):
            block = np.asarray(ids[k : k + BLOCK])
            total += int(self._spaced_lengths(block, before).sum())
            before = block[-1]
        return total

    def located(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        decoder, done, before = self.decoder(), 0, self.start_token
        for ids in blocks:
            ends = done + np.cumsum(self._spaced_lengths(ids, before), dtype=np.int64)
            if len(ends):
                done, before = int(ends[-1]), int(ids[-1])
            yield decoder.feed(ids), ends

    def _spaced_lengths(self, ids: np.ndarray, before: int) -> np.ndarray:
        """Characters of tokens (N,), each with the space that parts it from a word before."""
        word = np.concatenate(([before], ids)) != self._ids[LINE_END]
        lengths: np.ndarray = self._lengths[ids] + (word[1:] & word[:-1])
        return lengths

    def extended(self, new: Iterable[str]) -> Self:
        return type(self)([*self.vocabulary, *new], self.normalize)

    def _content(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def _identity(self) -> list[Any]:
        return list(self.vocabulary)

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(content["vocabulary"], normalize)


class PretokenizedTokenizer(WordTokenizer):
    """What stands between white space, as it stands there: for texts that were tokenized before.

    A line feed is the token `<eos>`; `<unk>` in the text is the token of that name.
    """

    kind = "pretokenized"
    unit = "token"
    _min_count = 1

    @staticmethod
    def _split(text: str) -> list[str]:
        return text.replace("\n", f" {LINE_END} ").split()


class _WordDecoder(Decoder):
    """Puts a space between two words, wherever the pieces are cut."""

    def __init__(self, tokenizer: WordTokenizer, prompt: str) -> None:
        self._vocabulary = tokenizer.vocabulary
        self._at_start = not prompt or prompt[-1].isspace()

    def copy(self) -> Decoder:
        return copy.copy(self)

    def feed(self, ids: Any) -> str:
        parts = []
        for k in np.asarray(ids).tolist():
            word = self._vocabulary[k]
            if word == LINE_END:
                parts.append("\n")
            else:
                parts.append(word if self._at_start else f" {word}")
            self._at_start = word == LINE_END
        return "".join(parts)


_RULES = [(mark, f" {mark} ") for mark in "'.,()!?"] + [('"', ""), (";", " "), (":", " ")]
_BREAK = re.compile(r"<br[^\S\n]*/>")
