"""Contiguous streams of tokens, read side by side, for stateful truncated BPTT."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import DataError


class Batch(NamedTuple):
    """What one training step reads."""

    x: np.ndarray  # (T, B) tokens
    y: np.ndarray  # (T, B) the tokens that follow them
    fresh: bool  # True where the streams begin anew, so that no state is carried into it


class StreamBatches:
    """Tokens cut into B streams of equal length; step after step reads T further tokens of each.

    A stream's h and c after one batch are the right ones to start the next with. Which tokens a
    step reads depends on its number alone. Where T does not divide the streams' length, each
    epoch starts at another offset, so that no token is left out every time.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, seq_len: int) -> None:
        """tokens (N,) of any integer type; N must exceed batch_size * seq_len, else DataError."""
        length = (len(tokens) - 1) // batch_size
        if length < seq_len:
            raise DataError(f"{len(tokens)} tokens are too few for batches of {batch_size} x {seq_len}")
        self._x = tokens[: batch_size * length].reshape(batch_size, length)
        self._y = tokens[1 : batch_size * length + 1].reshape(batch_size, length)
        self.batch_size, self.seq_len = batch_size, seq_len
        self.steps_per_epoch = length // seq_len
        self._rest = length % seq_len

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, number = divmod(step, self.steps_per_epoch)
        start = (epoch * (self._rest // 2 + 1)) % (self._rest + 1) + number * self.seq_len
        return self._cut(start, start + self.seq_len, number == 0)

    def _cut(self, start: int, stop: int, fresh: bool) -> Batch:
        """What every stream holds from `start` to `stop`."""
        x, y = (np.ascontiguousarray(part[:, start:stop].T, dtype=np.int64) for part in (self._x, self._y))
        return Batch(x, y, fresh)
