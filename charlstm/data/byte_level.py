"""Tokens that are bytes of UTF-8, and what tokens made of such bytes have in common."""

from __future__ import annotations

import codecs
import copy
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown
from .tokenizer import Decoder, Tokenizer

BLOCK = 1 << 20  # tokens whose characters are counted at once


# "surrogateescape" keeps a byte that is no text as U+DC80 to U+DCFF
_ESCAPED = {0xDC00 + byte: f"<{byte:02X}>" for byte in range(0x80, 0x100)}


class ByteLevelTokenizer(Tokenizer):
    """Tokens that stand for one or more bytes of UTF-8; unknown are only surrogates, which have no bytes."""

    replacement = "\ufffd"
    _undecodable: ClassVar[str]  # what `decode` makes of bytes that are no text: an error handler
    _without_bytes: ClassVar[re.Pattern[str]]

    @abstractmethod
    def _join(self, ids: Any) -> bytes:
        """The bytes of token ids (N,)."""

    @abstractmethod
    def _sizes(self, ids: np.ndarray) -> np.ndarray:
        """How many bytes each token (N,) stands for."""

    def decode(self, ids: Any) -> str:
        return self._join(ids).decode("utf-8", self._undecodable)

    def decoder(self, prompt: str = "") -> Decoder:
        return _ByteDecoder(self, "replace")

    def token_bytes(self) -> list[bytes]:
        """The bytes of each token, in the order of their ids."""
        return [self._join([k]) for k in range(len(self))]

    def name_of(self, token: int) -> str:
        """A token by itself, as people read it; bytes that are no text as <C3>."""
        return self._join([token]).decode("utf-8", "surrogateescape").translate(_ESCAPED)

    def characters(self, ids: np.ndarray) -> int:
        decoder = _ByteDecoder(self, self._undecodable)
        pieces = (decoder.feed(ids[k : k + BLOCK]) for k in range(0, len(ids), BLOCK))
        return sum(map(len, pieces)) + len(decoder.finish())

    def located(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """As `Tokenizer.located`; a byte that is no text counts as a character."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        done = 0
        for ids in blocks:
            held = len(decoder.getstate()[0])  # bytes of a character that a block before began
            text = decoder.decode(self._join(ids))
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            ends = np.cumsum(_utf8_sizes(points)) - held  # of characters, in the block's bytes
            yield text, done + np.searchsorted(ends, np.cumsum(self._sizes(ids)), side="right")
            done += len(points)

    def _bytes(self, text: str, on_unknown: OnUnknown) -> bytes:
        try:
            return text.encode("utf-8", self.decoding_errors)
        except UnicodeEncodeError:
            if on_unknown == "error":
                self._refuse(self._unknown(text))
        put = "" if on_unknown == "skip" else self.replacement
        return self._without_bytes.sub(put, text).encode("utf-8", self.decoding_errors)

    def _unknown(self, text: str) -> Counter[str]:
        return Counter(self._without_bytes.findall(text))


def _utf8_sizes(points: np.ndarray) -> np.ndarray:
    """How many bytes code points (N,) take; an escaped byte, a surrogate, is one."""
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    sizes[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    return sizes


class _ByteDecoder(Decoder):
    """Keeps the bytes of a character until it is complete."""

    def __init__(self, tokenizer: ByteLevelTokenizer, errors: str) -> None:
        self._join = tokenizer._join
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, ids: Any) -> str:
        return self._decoder.decode(self._join(ids))

    def copy(self) -> Decoder:
        other = copy.copy(self)
        other._decoder = copy.copy(self._decoder)
        return other

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(ByteLevelTokenizer):
    """The 256 bytes, of any file at all.

    Bytes that are not UTF-8 stand in the text as surrogates U+DC80 to U+DCFF, Python's
    "surrogateescape"; `decode` gives these back.
    """

    kind = "bytes"
    unit = "byte"
    decoding_errors = "surrogateescape"
    start_token = ord("\n")
    _undecodable = "surrogateescape"
    _without_bytes = re.compile("[\ud800-\udc7f\udd00-\udfff]")

    def __init__(self, normalize: Normalization = "none") -> None:
        super().__init__(256, normalize)

    @classmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        return cls(config.normalize)

    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray:
        return np.frombuffer(self._bytes(text, on_unknown), dtype=np.uint8).copy()

    def _join(self, ids: Any) -> bytes:
        return np.asarray(ids).astype(np.uint8).tobytes()

    def _sizes(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), np.int64)

    def _content(self) -> dict[str, Any]:
        return {}

    def _identity(self) -> list[Any]:
        return []

    @classmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        return cls(normalize)
