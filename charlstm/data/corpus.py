"""A text, its tokenizer, and its two parts: what trains and what validates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..errors import DataError
from . import coffee
from .tokenizer import CharacterTokenizer, OnUnknown

EMBEDDED = {"coffee": coffee.text}
SHORTEST = 4  # tokens: two to train on and two to validate with


@dataclass(frozen=True)
class Corpus:
    """Token ids of a text, cut in two; make one with `load` or `from_text`."""

    name: str
    tokenizer: CharacterTokenizer
    train: np.ndarray  # (N,) unsigned
    val: np.ndarray  # (N,) unsigned
    sha256: str  # of the whole text in UTF-8
    entropy: float | None = None  # nats per token of the source, where it is known

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        name: str = "text",
        val_fraction: float = DataConfig.val_fraction,
        tokenizer: CharacterTokenizer | None = None,
        on_unknown: OnUnknown = "error",
        entropy: float | None = None,
    ) -> Corpus:
        """Cut a text; the vocabulary is the text's own unless a tokenizer is given.

        The last `val_fraction` of the tokens validate. Raises DataError for a text too short to
        cut, of a single character only, or outside of the tokenizer's vocabulary.
        """
        if not text:
            raise DataError(f"{name} is empty: give a text to learn from")
        if tokenizer is None:
            tokenizer = CharacterTokenizer.from_text(text)
            if len(tokenizer) == 1:
                raise DataError(
                    f"{name} holds no character but {tokenizer.vocabulary[0]!r}: there is nothing to predict"
                )
        ids = tokenizer.encode(text, on_unknown)
        if len(ids) < SHORTEST:
            raise DataError(
                f"{name} is too short: {len(ids)} known characters, at least {SHORTEST} are needed"
            )
        train = min(max(2, int(len(ids) * (1 - val_fraction))), len(ids) - 2)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(name, tokenizer, ids[:train], ids[train:], digest, entropy)

    @classmethod
    def load(
        cls,
        config: DataConfig,
        tokenizer: CharacterTokenizer | None = None,
        on_unknown: OnUnknown = "error",
    ) -> Corpus:
        """The corpus that a configuration names: an embedded one or a file."""
        text, name = read_corpus(config.data, config.encoding)
        entropy = coffee.entropy_per_character() if name == "coffee" else None
        return cls.from_text(
            text, name=name, val_fraction=config.val_fraction, tokenizer=tokenizer,
            on_unknown=on_unknown, entropy=entropy,
        )  # fmt: skip


def read_corpus(data: str, encoding: str = "utf-8") -> tuple[str, str]:
    """Text and name of an embedded corpus or a file; an existing file goes before a name."""
    if data in EMBEDDED and not Path(data).is_file():
        return EMBEDDED[data](), data
    return read_text(Path(data), encoding), Path(data).name


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A file's text as it stands, line ends included, without a byte order mark."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        names = ", ".join(EMBEDDED)
        raise DataError(f"no such file: {path} (corpora known by name: {names})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode(encoding)
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}: try utf-8 or latin-1") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding} text (byte {error.start}: {error.reason}): "
            f"name its encoding, such as --encoding latin-1, which takes any bytes"
        ) from None
    return text.removeprefix("\ufeff")


def fit_to(tokens: int, config: DataConfig) -> DataConfig:
    """The configuration with batch_size and seq_len shrunk until a step fits `tokens`."""
    T = min(config.seq_len, tokens - 1)
    B = max(1, min(config.batch_size, (tokens - 1) // T))
    return replace(config, batch_size=B, seq_len=T)
