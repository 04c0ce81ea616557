"""Text to integers and back: what every tokenizer offers, and how one is made, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, get_args

import numpy as np

from ..config import DataConfig, Normalization, OnUnknown, TokenizerKind
from ..errors import CheckpointError, DataError
from .normalization import Changes, normalized, times

VERSION = 1  # of tokenizer.json
_KINDS = {  # in which module
    "characters": ("characters", "CharacterTokenizer"),
    "ascii": ("characters", "ASCIITokenizer"),
    "bytes": ("byte_level", "ByteTokenizer"),
    "words": ("words", "WordTokenizer"),
    "pretokenized": ("words", "PretokenizedTokenizer"),
    "bpe": ("bpe", "BPETokenizer"),
}


class Decoder:
    """Turns tokens into text piece by piece; what the pieces give joined is the text of all of them.

    A token may end in the middle of a character: that character then comes with a later piece, or
    from `finish`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def feed(self, ids: Any) -> str:
        """The text of some more tokens, as far as it is certain."""
        return self._tokenizer.decode(ids)

    def copy(self) -> Decoder:
        """One that goes on from here, whatever this one is fed; itself, where it remembers nothing."""
        return self

    def finish(self) -> str:
        """What is still to come when no more tokens follow."""
        return ""


class Tokenizer(ABC):
    """A numbered vocabulary, and the rules by which text becomes a sequence of its tokens.

    Texts cut after line feeds, encoded one after the other, give the tokens of the whole text.
    """

    kind: ClassVar[TokenizerKind]  # the `type` in tokenizer.json, and DataConfig.tokenizer
    unit: ClassVar[str]  # what a token is called in messages
    extensible: ClassVar[bool] = False  # whether `extended` can add to the vocabulary
    decoding_errors: ClassVar[str] = "strict"
    """How files are decoded for it: "strict", or "surrogateescape" where it takes any bytes at all
    (the text is then the file's to the last byte, byte order mark and NUL included)."""
    vocabulary: tuple[str, ...]  # the tokens in the order of their ids; bytes have none
    unknown_token: ClassVar[str | None] = None  # the token that stands for unknown ones, where there is one

    def __init__(self, size: int, normalize: Normalization = "none") -> None:
        """Raises DataError for an unknown normalization."""
        if normalize not in get_args(Normalization):
            raise DataError(f"Unicode normalization {normalize!r} is not known here")
        self._size, self.normalize = size, normalize
        self.changes: Changes | None = None
        """What normalization changed in the text that the tokenizer was made for, where that was counted."""
        self.dtype = np.min_scalar_type(size - 1)

    def __len__(self) -> int:
        return self._size

    @classmethod
    @abstractmethod
    def build(cls, config: DataConfig, chunks: Iterable[str]) -> Self:
        """The tokenizer for a normalized text that comes in chunks, none of which is kept."""

    def encode(self, text: str, on_unknown: OnUnknown = "error") -> np.ndarray:
        """Token ids of a text, (N,) in the smallest unsigned type that holds the vocabulary.

        What is outside of the vocabulary raises DataError, is skipped, or is replaced by
        `replacement`. A vocabulary with a token for the unknown (`unknown_token`) takes that
        for "error" as well.
        """
        return self._encode(normalized(self.normalize, text), self.policy(on_unknown))

    @abstractmethod
    def _encode(self, text: str, on_unknown: OnUnknown) -> np.ndarray: ...

    @abstractmethod
    def decode(self, ids: Any) -> str:
        """The text of token ids (N,): for ids from `encode`, the text that they came from, as far as
        the vocabulary keeps it."""

    def decoder(self, prompt: str = "") -> Decoder:
        """Decodes what follows a prompt piece by piece, for people: what is no text becomes U+FFFD."""
        return Decoder(self)

    def unknown(self, text: str) -> Counter[str]:
        """How often each character or word outside of the vocabulary occurs in a text."""
        return self._unknown(normalized(self.normalize, text))

    @abstractmethod
    def _unknown(self, text: str) -> Counter[str]: ...

    def policy(self, on_unknown: OnUnknown) -> OnUnknown:
        """What is done with unknown tokens where this is asked for."""
        return "replace" if on_unknown == "error" and self.unknown_token is not None else on_unknown

    def tell_unknown(self, unknown: Counter[str], on_unknown: OnUnknown) -> str:
        """What was done with unknown characters or words, in words."""
        done = "skipped" if on_unknown == "skip" else f"replaced by {self.replacement!r}"
        return f"{done} {times(unknown.total())}, not in the vocabulary: {name_tokens(unknown)}"

    @property
    @abstractmethod
    def replacement(self) -> str:
        """What stands for what is unknown."""

    @property
    @abstractmethod
    def start_token(self) -> int:
        """The token that an empty prompt starts with: a line's end, where the vocabulary has one."""

    def characters(self, ids: np.ndarray) -> int:
        """How many characters token ids (N,) decode to."""
        return len(self.decode(ids))

    def name_of(self, token: int) -> str:
        """A token by itself, as people read it."""
        return self.decode([token])

    def located(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        """The text of token ids that come in blocks (N,) and, for each token, how many characters of the
        text from the first block on are complete with it (N,)."""
        decoder, done = self.decoder(), 0
        for ids in blocks:
            parts = [decoder.feed([k]) for k in np.asarray(ids).tolist()]
            ends = done + np.cumsum([len(part) for part in parts], dtype=np.int64)
            done = int(ends[-1]) if len(ends) else done
            yield "".join(parts), ends

    def extended(self, new: Iterable[str]) -> Self:
        """With new tokens numbered after the known ones; DataError where the vocabulary is fixed."""
        raise DataError(f"the vocabulary of a {self.kind} tokenizer is fixed: it cannot be extended")

    def _refuse(self, unknown: Counter[str]) -> NoReturn:
        raise DataError(
            f"not in the vocabulary: {name_tokens(unknown)} (--on-unknown skip or replace goes on without)"
        )

    # ---- tokenizer.json -----------------------------------------------------------------

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """What tokenizer.json holds beside type, version, normalization and hash."""

    @abstractmethod
    def _identity(self) -> list[Any]:
        """Everything that encoding and decoding depend on, but for the normalization."""

    @classmethod
    @abstractmethod
    def _from_content(cls, content: dict[str, Any], normalize: Normalization) -> Self:
        """From what `_content` gave, untrusted; DataError, KeyError or TypeError where it cannot be."""

    @property
    def hash(self) -> str:
        """SHA-256 of everything that encoding and decoding depend on; weights and text are bound to it."""
        options = [] if self.normalize == "none" else [{"normalize": self.normalize}]
        return hashlib.sha256(json.dumps([self.kind, *self._identity(), *options]).encode()).hexdigest()

    def to_json(self) -> str:
        """The content of tokenizer.json, which `load_tokenizer` reads."""
        options = {} if self.normalize == "none" else {"normalize": self.normalize}
        content = {"type": self.kind, "version": VERSION, **options, **self._content(), "hash": self.hash}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """`load_tokenizer`, for this kind alone."""
        tokenizer = load_tokenizer(path)
        if not isinstance(tokenizer, cls):
            raise CheckpointError(f"{path} holds a {tokenizer.kind} tokenizer")
        return tokenizer


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The class of a kind of tokenizer; DataError for an unknown kind."""
    if kind not in _KINDS:
        raise DataError(f"tokenizer type {kind!r} is not known here")
    module, name = _KINDS[kind]
    found: type[Tokenizer] = getattr(import_module(f".{module}", __package__), name)
    return found


def make_tokenizer(config: DataConfig, chunks: Iterable[str]) -> Tokenizer:
    """The tokenizer that a configuration asks for, its vocabulary that of a text in chunks.

    Chunks are cut after line feeds where the text has them. Memory is bounded by the vocabulary
    and the largest chunk. Raises DataError where no vocabulary can be made of the text.
    """
    kind = tokenizer_class(config.tokenizer)
    if config.normalize == "none":
        return kind.build(config, chunks)
    changes = Changes(config.normalize)
    passing = changes.normalize(chunks)
    tokenizer = kind.build(config, passing)
    for _ in passing:  # a fixed vocabulary does not look at the text
        pass
    tokenizer.changes = changes
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; CheckpointError where it is none, or was changed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise DataError(f"version {content['version']!r} is not known here")
        tokenizer = tokenizer_class(content["type"])._from_content(content, content.get("normalize", "none"))
        if tokenizer.hash != content["hash"]:
            raise DataError("it does not match its hash: it was changed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = str(error) if isinstance(error, DataError) else repr(error)
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {problem}") from None
    return tokenizer


def line_blocks(text: str, size: int) -> Iterator[str]:
    """A text cut after the first line feed that comes `size` characters or more after the last cut."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end


def name_tokens(counts: Counter[str], most: int = 5) -> str:
    """Characters or words and their counts in words: 'é' (U+00E9) 3 times, ..."""
    parts = []
    for s, n in counts.most_common(most):
        point = f" (U+{ord(s):04X})" if len(s) == 1 else ""
        parts.append(f"{s!r}{point} {times(n)}")
    more = len(counts) - most
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")
