"""Byte-level byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909), by the library `tokenizers`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown
from ..errors import DataError, UsageError
from .byte_level import ByteLevelTokenizer
from .tokenizer import line_blocks

VOCAB_SIZE = 2048  # unless the configuration says otherwise
BLOCK = 1 << 18  # characters that are encoded at once
KEPT = 1 << 19  # words whose tokens are remembered
# GPT-2's rules for what no token crosses, but for white space: that ends with a line
WORD = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|[^\S\n]*\n|[^\S\n]+(?!\S)|[^\S\n]+"
)


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in the library's vocabularies, 0 to 255.

    Printable bytes stand for themselves, the others, in turn, for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(0x100 + n) for n in range(0x100))
    return [chr(byte) if byte in printable else next(others) for byte in range(0x100)]


SYMBOLS = _byte_symbols()


class BPETokenizer(ByteLevelTokenizer):
    """Bytes, and frequent sequences of bytes within a word; no token crosses the end of a line."""

    kind = "bpe"
    unit = "token"
    _undecodable = "replace"
    _without_bytes = re.compile("[\ud800-\udfff]")

    def __init__(
        self, vocabulary: Iterable[str], merges: Iterable[Iterable[str]], normalize: Normalization = "none"
    ) -> None:
        """vocabulary: tokens in the library's symbols for bytes; merges: pairs of tokens, in their order.

        Raises DataError where a byte is missing, or a merge is not of tokens to a token.
        """
        self.vocabulary = tuple(vocabulary)
        self.merges = tuple((left, right) for left, right in merges)
        value = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}
        symbols = set(SYMBOLS)
        if not all(
            isinstance(token, str) and token and symbols.issuperset(token) for token in self.vocabulary
        ):
            raise DataError("a vocabulary of byte pairs holds strings of symbols for bytes")
        known = set(self.vocabulary)
        if len(known) < len(self.vocabulary) or not known.issuperset(SYMBOLS):
            raise DataError("a vocabulary of byte pairs holds each byte, and no token twice")
        if not all({left, right, left + right} <= known for left, right in self.merges):
            raise DataError("a merge makes one token of two")
        super().__init__(len(self.vocabulary), normalize)
        self._of_word: dict[str, list[int]] = {}
        self._of_token = [bytes(value[symbol] for symbol in token) for token in self.vocabulary]

    @classmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        learning = _bytewise(_library().models.BPE())
        size = VOCAB_SIZE if config.vocab_size is None else config.vocab_size
        trainer = _library().trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=SYMBOLS
        )
        words = (WORD.findall(block) for chunk in chunks for block in line_blocks(chunk, BLOCK))
        try:
            learning.train_from_iterator(words, trainer)
        except UnicodeEncodeError:
            raise DataError("the text holds surrogates, which byte pairs cannot encode") from None
        model = json.loads(learning.to_str())["model"]
        return cls(sorted(model["vocab"], key=model["vocab"].get), model["merges"], config.normalize)

    @cached_property
    def _backend(self) -> Any:
        ids = {token: k for k, token in enumerate(self.vocabulary)}
        return _bytewise(_library().models.BPE(ids, list(self.merges)))

    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray:
        text = self._bytes(text, on_unknown).decode()
        found = [np.empty(0, self.dtype)]
        for block in line_blocks(text, BLOCK):
            words = WORD.findall(block)
            known = self._learn(set(words))
            found.append(np.fromiter(chain.from_iterable(map(known.__getitem__, words)), self.dtype))
        return np.concatenate(found)

    def _learn(self, words: set[str]) -> dict[str, list[int]]:
        """Keep the tokens of words, which are returned: most of a text are words that came before."""
        if len(self._of_word) > KEPT:
            self._of_word = {}  # another thread may be reading the one before
        known = self._of_word
        new = [word for word in words if word not in known]
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        known.update(zip(new, (tokens.ids for tokens in encoded), strict=True))
        return known

    def _join(self, ids: Any) -> bytes:
        return b"".join([self._of_token[k] for k in np.asarray(ids).tolist()])

    def _sizes(self, ids: np.ndarray) -> np.ndarray:
        sizes: np.ndarray = np.array([len(token) for token in self._of_token])[ids]
        return sizes

    @property
    def start_token(self) -> int:
        return self._of_token.index(b"\n")

    def _content(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "merges": self.merges}

    def _identity(self) -> list[Any]:
        return [self.vocabulary, self.merges]

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(content["vocabulary"], content["merges"], normalize)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            'byte pair encoding needs the library tokenizers: pip install "charlstm[bpe]"'
        ) from None
    return tokenizers


def _bytewise(model: Any) -> Any:
    """The library's tokenizer that reads single words, byte by byte."""
    tokenizer = _library().Tokenizer(model)
    tokenizer.pre_tokenizer = _library().pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer
