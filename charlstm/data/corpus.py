"""A text, its tokenizer, and its parts: what trains, what validates, what tests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import DataConfig, OnUnknown
from ..errors import DataError
from .characters import CharacterTokenizer
from .encoded import Encoded, encode, made_tokenizer
from .sources import STDIN, Source, TextInMemory, open_text, spooled_stdin
from .tokenizer import Tokenizer, tokenizer_class

# options that a made tokenizer does not depend on
_CUTTING = (
    "data", "val_data", "test_data", "encoding", "on_unknown", "val_fraction", "test_fraction", "split",
    "split_seed", "batches", "window_stride", "batch_size", "seq_len", "max_val_tokens",
)  # fmt: skip


def _none() -> np.ndarray:
    return np.empty(0, np.uint8)


@dataclass(frozen=True)
class Corpus:
    """Token ids of a text, cut in parts; make one with `load` or `from_text`."""

    name: str
    tokenizer: Tokenizer
    train: np.ndarray  # (N,) unsigned; all but the test part where its windows are split later on
    val: np.ndarray  # (N,) unsigned; may be empty
    sha256: str  # of the whole text in UTF-8; of several texts, of their SHA-256s one after the other
    entropy: float | None = None  # nats per token of the source, where it is known
    unknown: Counter[str] = field(default_factory=Counter)  # what was skipped or replaced
    test: np.ndarray = field(default_factory=_none)  # (N,) unsigned; may be empty
    whole: np.ndarray | None = None  # (N,) what the parts were cut from; None where they are several texts

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        name: str = "text",
        val_fraction: float = DataConfig.val_fraction,
        test_fraction: float = DataConfig.test_fraction,
        tokenizer: Tokenizer | None = None,
        on_unknown: OnUnknown = "error",
        entropy: float | None = None,
    ) -> Corpus:
        """Cut a text; the vocabulary is the text's own unless a tokenizer is given.

        Of the tokens, the last `test_fraction` test, the `val_fraction` before them validates. Raises
        DataError for a text too short to cut, of a single character only, or outside of the
        tokenizer's vocabulary.

        >>> corpus = Corpus.from_text("to be or not to be", val_fraction=1 / 6)
        >>> corpus.tokenizer.decode(corpus.train), corpus.tokenizer.decode(corpus.val)
        ('to be or not to', ' be')
        """
        source = TextInMemory(name, text, entropy)
        _check_not_empty(source)
        if tokenizer is None:
            tokenizer = CharacterTokenizer.from_text(text)
        _check_choice(source, tokenizer)
        found = {"train": encode(source, tokenizer, on_unknown)}
        return cls._of({"train": source}, found, tokenizer, val_fraction, test_fraction)

    @classmethod
    def load(
        cls,
        config: DataConfig,
        tokenizer: Tokenizer | None = None,
        on_unknown: OnUnknown | None = None,
    ) -> Corpus:
        """The corpus that a configuration names (`sources.open_text` says how), in its parts.

        The tokenizer is made as the configuration says, unless one is given; so is `on_unknown`.
        Large texts are encoded once and then read from a file in the user's cache.
        Raises DataError for text that cannot be found, read or used.
        """
        on_unknown = config.on_unknown if on_unknown is None else on_unknown
        with ExitStack() as stack:
            sources = _sources(config, tokenizer or tokenizer_class(config.tokenizer), stack)
            if tokenizer is None:
                tokenizer = _tokenizer_for(config, sources.values())
            _check_choice(sources["train"], tokenizer)
            found = {split: encode(source, tokenizer, on_unknown) for split, source in sources.items()}
        val_fraction = 0.0 if config.split == "windows" else config.val_fraction
        return cls._of(sources, found, tokenizer, val_fraction, config.test_fraction)

    @classmethod
    def _of(
        cls, sources: dict[str, Source], found: dict[str, Encoded], tokenizer: Tokenizer,
        val_fraction: float, test_fraction: float,
    ) -> Corpus:  # fmt: skip
        main = sources["train"]
        tokens = found["train"].tokens
        fractions = [0.0 if "val" in found else val_fraction, 0.0 if "test" in found else test_fraction]
        parts = [(tokens, sources["train"].name, 2 * (1 + sum(share > 0 for share in fractions)))]
        parts += [
            (found[split].tokens, sources[split].name, 2) for split in ("val", "test") if split in found
        ]
        for ids, name, least in parts:
            if len(ids) < least:
                raise DataError(
                    f"{name} is too short: {len(ids)} known {tokenizer.unit}s, at least {least} are needed"
                )
        end, test = _cuts(len(tokens), *fractions)
        digests = [found[split].sha256 for split in ("train", "val", "test") if split in found]
        return cls(
            main.name, tokenizer, tokens[:end],
            found["val"].tokens if "val" in found else tokens[end:test],
            digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
            main.entropy if tokenizer.unit in ("character", "byte") else None,
            sum((encoded.unknown for encoded in found.values()), Counter()),
            found["test"].tokens if "test" in found else tokens[test:],
            tokens if len(found) == 1 else None,
        )  # fmt: skip


def tokenizer_of(config: DataConfig) -> Tokenizer:
    """The tokenizer that a configuration asks for, of the text that it names; errors as `Corpus.load`."""
    with ExitStack() as stack:
        return _tokenizer_for(config, _sources(config, tokenizer_class(config.tokenizer), stack).values())


def _sources(
    config: DataConfig, tokenizer: Tokenizer | type[Tokenizer], stack: ExitStack
) -> dict[str, Source]:
    errors = tokenizer.decoding_errors
    data = str(stack.enter_context(spooled_stdin())) if config.data == STDIN else config.data
    sources = open_text(data, config.encoding, errors)
    for split, own in (("val", config.val_data), ("test", config.test_data)):
        if own is not None:
            parts = open_text(own, config.encoding, errors)
            sources[split] = parts.get(split, parts["train"])
    for source in sources.values():
        _check_not_empty(source)
    return sources


def _check_not_empty(source: Source) -> None:
    if next(source.chunks(), None) is None:
        raise DataError(f"{source.name} is empty: give another text")


def _check_choice(source: Source, tokenizer: Tokenizer) -> None:
    if len(tokenizer) == 1:
        only = next(source.chunks())[0]
        raise DataError(f"{source.name} holds no {tokenizer.unit} but {only!r}: there is nothing to predict")


def _tokenizer_for(config: DataConfig, sources: Iterable[Source]) -> Tokenizer:
    """Made of all the parts: as with a text that is cut, each part is in the vocabulary."""
    options: dict[str, Any] = dataclasses.asdict(config)
    for name in _CUTTING:
        del options[name]
    return made_tokenizer(list(sources), config, options)


def _cuts(n: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Where training ends, and where the test begins; parts that are wanted get two tokens at least."""
    test = n
    if test_fraction:
        before = 4 if val_fraction else 2
        test = min(max(before, int(n * (1 - test_fraction))), n - 2)
    end = test
    if val_fraction:
        end = min(max(2, int(n * (1 - (val_fraction + test_fraction)))), test - 2)
    return end, test
