"""A text, its tokenizer, and its two parts: what trains and what validates."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..config import DataConfig, OnUnknown
from ..errors import DataError
from . import coffee
from .characters import CharacterTokenizer
from .tokenizer import Tokenizer, make_tokenizer, tokenizer_class

EMBEDDED = {"coffee": coffee.text}
SHORTEST = 4  # tokens: two to train on and two to validate with


@dataclass(frozen=True)
class Corpus:
    """Token ids of a text, cut in two; make one with `load` or `from_text`."""

    name: str
    tokenizer: Tokenizer
    train: np.ndarray  # (N,) unsigned
    val: np.ndarray  # (N,) unsigned
    sha256: str  # of the whole text in UTF-8
    entropy: float | None = None  # nats per token of the source, where it is known
    unknown: Counter[str] = field(default_factory=Counter)  # characters that were skipped or replaced

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        name: str = "text",
        val_fraction: float = DataConfig.val_fraction,
        tokenizer: Tokenizer | None = None,
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
            raise DataError(f"{name} holds no character but {text[0]!r}: there is nothing to predict")
        ids = tokenizer.encode(text, on_unknown)
        unknown = Counter() if tokenizer.policy(on_unknown) == "error" else tokenizer.unknown(text)
        if len(ids) < SHORTEST:
            raise DataError(
                f"{name} is too short: {len(ids)} known {tokenizer.unit}s, at least {SHORTEST} are needed"
            )
        train = min(max(2, int(len(ids) * (1 - val_fraction))), len(ids) - 2)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(name, tokenizer, ids[:train], ids[train:], digest, entropy, unknown)

    @classmethod
    def load(
        cls,
        config: DataConfig,
        tokenizer: Tokenizer | None = None,
        on_unknown: OnUnknown | None = None,
    ) -> Corpus:
        """The corpus that a configuration names: an embedded one, else a file (./coffee is a file).

        The tokenizer is made as the configuration says, unless one is given; so is `on_unknown`.
        """
        embedded = config.data in EMBEDDED
        errors = (tokenizer or tokenizer_class(config.tokenizer)).decoding_errors
        text = EMBEDDED[config.data]() if embedded else read_text(Path(config.data), config.encoding, errors)
        if tokenizer is None and text:
            tokenizer = make_tokenizer(config, [text])
        known = embedded and tokenizer is not None and tokenizer.unit in ("character", "byte")
        return cls.from_text(
            text, name=config.data if embedded else Path(config.data).name, val_fraction=config.val_fraction,
            tokenizer=tokenizer, on_unknown=config.on_unknown if on_unknown is None else on_unknown,
            entropy=coffee.entropy_per_character() if known else None,
        )  # fmt: skip


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """A file's text as it stands, line ends included, without a byte order mark.

    With errors="surrogateescape" any bytes are text, the mark and NUL characters included.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if str(path).startswith(("http:/", "https:/", "ftp:/")):  # Path makes one slash of two
            raise DataError(f"{path} is an address on the web: download the file and name it") from None
        names = ", ".join(EMBEDDED)
        raise DataError(f"no such file: {path} (corpora known by name: {names})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode(encoding, errors)
    except LookupError:
        raise DataError(f"unknown encoding {encoding!r}: try utf-8 or latin-1") from None
    except (UnicodeError, ValueError) as error:
        where = f"byte {error.start}: {error.reason}" if isinstance(error, UnicodeDecodeError) else error
        known = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1, which takes any bytes"
        raise DataError(
            f"{path} is not {encoding} text ({where}): name its encoding, such as --encoding {known}"
        ) from None
    if errors == "surrogateescape":
        return text
    if "\0" in text and encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        raise DataError(
            f"{path} holds NUL characters, so it is binary or of another encoding: try --encoding utf-16, "
            f"or latin-1, which takes any bytes"
        )
    return text.removeprefix("\ufeff")


def fit_to(tokens: int, config: DataConfig) -> DataConfig:
    """The configuration with batch_size and seq_len shrunk until a step fits `tokens`."""
    T = min(config.seq_len, tokens - 1)
    B = max(1, min(config.batch_size, (tokens - 1) // T))
    return replace(config, batch_size=B, seq_len=T)
