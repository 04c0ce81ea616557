"""Texts of any length, read by a model in constant memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backends.sampling import Array
from ..cifg import State
from ..model import CIFGModel, log_posterior, most_probable

CHUNK = (
    256  # tokens that are read at once: more are hardly faster, and hold up for longer who draws beside them
)


class PromptScores(NamedTuple):
    """What a model thought of the tokens of a prompt but the first; nats."""

    log_probabilities: np.ndarray  # (N-1,)
    entropies: np.ndarray  # (N-1,), of the posterior
    best: np.ndarray  # (N-1, A): the A most probable tokens
    best_log_probabilities: np.ndarray  # (N-1, A)


class Reading:
    """A text that is being read, a chunk at a time."""

    def __init__(
        self,
        model: CIFGModel,
        ids: np.ndarray,
        state: State | None = None,
        alternatives: int | None = None,
    ) -> None:
        """Of tokens (N,), N at least 1. With `alternatives` they are scored, beside so many of the most probable."""
        self._model, self._ids, self._done, self._alternatives = model, ids, 0, alternatives
        self._state = model.zero_state(1) if state is None else state
        self._logits: Array = None
        self._scores: list[PromptScores] = []

    @property
    def over(self) -> bool:
        return self._done == len(self._ids)

    @property
    def result(self) -> tuple[Array, State]:
        """The last logits (1, V) and the state."""
        return self._logits, self._state

    @property
    def scores(self) -> PromptScores:
        """Those of all tokens but the first, once it is `over`."""
        return PromptScores(*(np.concatenate(parts) for parts in zip(*self._scores, strict=True)))

    def step(self) -> int:
        """Read one more chunk; how many tokens it had."""
        ids = self._ids[self._done : self._done + CHUNK]
        logits, self._state = self._model.forward(ids[:, np.newaxis], self._state)
        self._done += len(ids)
        self._logits = logits[-1, ...]
        if self._alternatives is not None:
            following = self._ids[self._done - len(ids) + 1 : self._done + 1]
            rows = self._model.ops.to_numpy(logits)[: len(following), 0]
            self._scores.append(_scored(rows, following, self._alternatives))
        return len(ids)


def read(model: CIFGModel, ids: np.ndarray, state: State | None = None) -> tuple[Array, State]:
    """The last logits (1, V) and the state after tokens (N,), N at least 1, from a state on (zeros if None)."""
    reading = Reading(model, ids, state)
    while not reading.over:
        reading.step()
    return reading.result


def _scored(logits: np.ndarray, following: np.ndarray, alternatives: int) -> PromptScores:
    """Scores of tokens (n,) that logits (n, V) were followed by."""
    values = log_posterior(logits)
    best = most_probable(values, alternatives)
    return PromptScores(
        values[np.arange(len(following)), following],
        -np.sum(np.exp(values) * values, axis=1),
        best,
        np.take_along_axis(values, best, axis=1),
    )
