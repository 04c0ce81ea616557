"""Which tokens a step of training, a validation and an evaluation read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..config import Config, DataConfig
from ..errors import UsageError
from .batches import StreamBatches
from .corpus import Corpus
from .leakage import covered_share, repeated_share
from .lengths import RandomLengthBatches
from .windows import WindowBatches, Windows, count_windows, split_windows

Part = np.ndarray | Windows  # tokens (N,) that follow each other, or windows that each begin anew


def part_of(corpus: Corpus, config: DataConfig, split: str) -> Part | None:
    """The "train", "val" or "test" part of a corpus; None where it is empty.

    With config.split "windows", windows of corpus.train are what trains and what validates, in a
    corpus that has no validation text of its own.
    """
    if config.split == "windows" and split != "test" and not len(corpus.val):
        train, val = split_windows(
            corpus.train, config.seq_len, config.window_stride, config.val_fraction, config.split_seed
        )
        return train if split == "train" else val
    tokens: np.ndarray = {"train": corpus.train, "val": corpus.val, "test": corpus.test}[split]
    return tokens if len(tokens) else None


def limited(part: Part | None, most: int) -> Part | None:
    """The first tokens or windows of a part, `most` tokens at most to predict."""
    if isinstance(part, Windows):
        return part.limited(most // part.seq_len)
    return None if part is None else part[: most + 1]


def predicted(part: Part) -> int:
    """How many tokens of a part an evaluation predicts."""
    return len(part) * part.seq_len if isinstance(part, Windows) else len(part) - 1


def batches_of(corpus: Corpus, config: Config) -> StreamBatches | WindowBatches:
    """What training reads; its seed shuffles windows, and draws random lengths."""
    data, training = config.data, config.training
    if not data.reads_windows:
        if training.random_seq_len:
            return RandomLengthBatches(corpus.train, data.batch_size, data.seq_len, training.seed)
        return StreamBatches(corpus.train, data.batch_size, data.seq_len)
    if training.random_seq_len:
        raise UsageError("windows are of one length: leave out --random-seq-len")
    if data.split == "windows" and len(corpus.val):
        raise UsageError(f"{corpus.name} has a part that validates already: leave out --split windows")
    part = part_of(corpus, data, "train")
    if not isinstance(part, Windows):
        part = Windows(corpus.train, data.seq_len, data.window_stride)
    return WindowBatches(part, data.batch_size, training.seed)


def fit_to(tokens: int, config: DataConfig) -> DataConfig:
    """The configuration with batch_size and seq_len shrunk until a step fits `tokens`."""
    if not config.reads_windows:
        T = min(config.seq_len, tokens - 1)
        B = max(1, min(config.batch_size, (tokens - 1) // T))
        return replace(config, batch_size=B, seq_len=T)
    splits = config.split == "windows" and config.val_fraction > 0
    room = tokens - 1 - (config.window_stride if splits else 0)  # for a second window
    T = max(1, min(config.seq_len, room))
    count = count_windows(tokens, T, config.window_stride)
    train = int(count * (1 - config.val_fraction)) if splits else count
    return replace(config, batch_size=max(1, min(config.batch_size, train)), seq_len=T)


def overlap(corpus: Corpus, config: DataConfig) -> dict[str, float]:
    """How much of what validates is trained on too: `covered_share` of windows, else `repeated_share`."""
    train, val = part_of(corpus, config, "train"), part_of(corpus, config, "val")
    if isinstance(train, Windows) and isinstance(val, Windows):
        return {"covered": covered_share(train, val)}
    repeated = repeated_share(corpus.train, corpus.val)
    return {} if repeated is None else {"repeated": repeated}


def describe(corpus: Corpus, config: DataConfig) -> str:
    """How much trains, validates and tests, in words."""
    unit = f"{corpus.tokenizer.unit}s"
    train, val = part_of(corpus, config, "train"), part_of(corpus, config, "val")
    trained = f"{len(corpus.train):,} {unit} train"
    validated = f"{len(val):,} validate" if val is not None else "none validate"
    if isinstance(train, Windows):
        trained = f"{len(train):,} windows of {train.seq_len} {unit} train"
    return f"{trained}, {validated}" + (f", {len(corpus.test):,} test" if len(corpus.test) else "")
