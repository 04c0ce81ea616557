"""Steps of random length: the streams are cut at other places in every epoch."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from .batches import Batch, StreamBatches

USUAL = 0.95  # share of the steps that read about seq_len tokens; the others read about half as many
DEVIATION, SHORTEST = 5.0, 5  # tokens


class RandomLengthBatches(StreamBatches):
    """Streams of which each step reads a random number of tokens.

    Normal around seq_len, or in one of twenty steps around half of it (Merity et al. 2018, arXiv
    1708.02182, section 4.1). An epoch reads every token of the streams once; its last step takes what is
    left. Which tokens a step reads depends on the seed and the step's number alone. `steps_per_epoch` is
    that of the first epoch: others take a few more or fewer.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, seq_len: int, seed: int) -> None:
        """As for `StreamBatches`; the lengths are drawn from `seed`."""
        super().__init__(tokens, batch_size, seq_len)
        self._seed = seed
        self._first_steps = [0]  # of each epoch, as far as they are known
        self._drawn = (0, self._draw(0))
        self.steps_per_epoch = len(self._drawn[1]) - 1

    def __getitem__(self, step: int) -> Batch:
        while self._first_steps[-1] <= step:
            epoch = len(self._first_steps) - 1
            self._first_steps.append(self._first_steps[-1] + len(self._bounds(epoch)) - 1)
        epoch = bisect_right(self._first_steps, step) - 1
        number, bounds = step - self._first_steps[epoch], self._bounds(epoch)
        return self._cut(int(bounds[number]), int(bounds[number + 1]), number == 0)

    def _bounds(self, epoch: int) -> np.ndarray:
        """Where the steps of an epoch begin in each stream, and the stream's end."""
        if self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(epoch))
        return self._drawn[1]

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch])
        length, shortest = self._x.shape[1], min(SHORTEST, self.seq_len)
        most = length // shortest + 1
        around = np.where(rng.random(most) < USUAL, self.seq_len, self.seq_len / 2)
        ends = np.cumsum(np.maximum(np.rint(rng.normal(around, DEVIATION)), shortest).astype(np.int64))
        return np.concatenate(([0], ends[: np.searchsorted(ends, length)], [length]))
