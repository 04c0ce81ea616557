"""Shuffled windows: short pieces of a text that are each read from a zero state."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from .batches import Batch

_ROUNDS = 8


class Permutation:
    """A random order of 0 to n - 1 that is computed, not stored: a Feistel network.

    Its rounds permute the numbers below the next power of 4; what falls outside of n is put
    through again until it falls inside (cycle walking: Black & Rogaway 2002). The round function
    is the finaliser of SplitMix64 (Steele et al. 2014) of a half and the round's key.
    """

    def __init__(self, n: int, *seed: int) -> None:
        """n at least 1; other seeds give other orders."""
        self.n = n
        self._half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The numbers at some places of the order, (K,) int64 each."""
        return self._walk(index, forwards=True)

    def inverse(self, number: np.ndarray) -> np.ndarray:
        """The places of some numbers in the order, (K,) int64 each."""
        return self._walk(number, forwards=False)

    def _walk(self, values: np.ndarray, forwards: bool) -> np.ndarray:
        found = np.asarray(values).astype(np.uint64)
        outside = np.ones(found.shape, bool)
        while outside.any():
            found[outside] = self._network(found[outside], forwards)
            outside = found >= self.n
        return found.astype(np.int64)

    def _network(self, values: np.ndarray, forwards: bool) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys if forwards else self._keys[::-1]:
            if forwards:
                left, right = right, left ^ (_mixed(right, key) & self._mask)
            else:
                left, right = right ^ (_mixed(left, key) & self._mask), left
        return (left << self._half) | right


def _mixed(x: np.ndarray, key: np.uint64) -> np.ndarray:
    x = x + key  # wraps around, without a warning in arrays
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


class Windows:
    """All windows of seq_len + 1 tokens, one every `stride` tokens, or a share of them."""

    def __init__(
        self, tokens: np.ndarray, seq_len: int, stride: int = 1,
        order: Permutation | None = None, first: int = 0, last: int | None = None,
    ) -> None:  # fmt: skip
        """tokens (N,) of any integer type. Window k stands at place k of the order, from `first` up to
        `last`, which is left out; without an order, windows stand as in the text. DataError for a text
        too short for one window.
        """
        count = count_windows(len(tokens), seq_len, stride)
        if count < 1:
            raise DataError(f"{len(tokens)} tokens are too few for a window of {seq_len + 1}")
        self.tokens, self.seq_len, self.stride = tokens, seq_len, stride
        self.order, self.first = order, first
        self._count = (count if last is None else last) - first

    def __len__(self) -> int:
        return self._count

    def starts(self, index: np.ndarray) -> np.ndarray:
        """Where windows begin in the text, (K,) each."""
        places = np.asarray(index, dtype=np.int64) + self.first
        numbers = places if self.order is None else self.order(places)
        return numbers * self.stride

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Windows (K,) as columns: tokens (seq_len + 1, K)."""
        columns = self.tokens[np.arange(self.seq_len + 1)[:, np.newaxis] + self.starts(index)]
        return np.ascontiguousarray(columns, dtype=np.int64)

    def limited(self, most: int) -> Windows:
        """The first `most` of these windows, at least one."""
        last = self.first + max(1, min(most, len(self)))
        return Windows(self.tokens, self.seq_len, self.stride, self.order, self.first, last)


def count_windows(tokens: int, seq_len: int, stride: int) -> int:
    """How many windows of seq_len + 1 a text holds."""
    return max(0, (tokens - seq_len - 1) // stride + 1) if tokens > seq_len else 0


def split_windows(
    tokens: np.ndarray, seq_len: int, stride: int, val_fraction: float, seed: int
) -> tuple[Windows, Windows | None]:
    """Windows of one text, shuffled, to train on and to validate with: None where val_fraction is 0.

    Windows overlap, so that almost all that validates is also trained on: see `leakage`. Raises
    DataError for a text that holds a single window.
    """
    count = count_windows(len(tokens), seq_len, stride)
    if val_fraction == 0:
        return Windows(tokens, seq_len, stride), None
    if count < 2:
        raise DataError(f"{len(tokens)} tokens hold fewer than two windows of {seq_len + 1} to split")
    train = min(max(1, int(count * (1 - val_fraction))), count - 1)
    order = Permutation(count, seed)
    return (
        Windows(tokens, seq_len, stride, order, 0, train),
        Windows(tokens, seq_len, stride, order, train),
    )


class WindowBatches:
    """Batches of B windows, all of them in each epoch in an order of its own but for a last few.

    Which windows a step reads depends on the seed and the step's number alone.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int) -> None:
        """Raises DataError for fewer windows than a batch takes."""
        if len(windows) < batch_size:
            raise DataError(f"{len(windows)} windows are too few for batches of {batch_size}")
        self._windows, self._seed = windows, seed
        self.batch_size, self.seq_len = batch_size, windows.seq_len
        self.steps_per_epoch = len(windows) // batch_size
        self._epoch, self._order = -1, Permutation(1)

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, Permutation(len(self._windows), self._seed, epoch)
        places = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        columns = self._windows[self._order(places)]
        return Batch(columns[:-1], columns[1:], True)
