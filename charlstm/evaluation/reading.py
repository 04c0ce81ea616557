"""A text read by a model: its loss and little else, as fast as can be, for training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..cifg import State
from ..data import Part, Tokenizer, Windows
from ..errors import DataError
from ..model import CIFGModel

STREAMS = 64  # pieces of the text that are read side by side
PIECE = 1024  # tokens; shorter texts are cut into fewer pieces, none shorter than this
WARM_UP = 128  # tokens read before a piece begins, uncounted, to arrive with a carried state
CHUNK = 128  # time steps in one forward pass
WINDOWS = 128  # that are read side by side
DECODED = 1 << 24  # tokens that are decoded at a time


@dataclass(frozen=True)
class Evaluation:
    """Figures over the tokens that were predicted."""

    loss: float
    """Mean negative log-likelihood, nats per token."""
    mean_max_posterior: float
    """The largest posterior at each step, averaged."""
    tokens: int
    """Tokens predicted: all of the text but the first, or but the first of each window."""
    characters: int
    """How many characters these stand for."""

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_char(self) -> float:
        """The same measure whatever the tokens are (where words were replaced, of the text that is left)."""
        return self.loss / math.log(2) * self.tokens / max(1, self.characters)

    def to_dict(self) -> dict[str, float]:
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_char": self.bits_per_char,
            "mean_max_posterior": self.mean_max_posterior,
            "tokens": self.tokens,
        }


def evaluate(
    model: CIFGModel, tokens: Part, streams: int = STREAMS, tokenizer: Tokenizer | None = None
) -> Evaluation:
    """Predict every token but the first from those that precede it; tokens (N,), N at least 2.

    The tokenizer tells how many characters they stand for; without one each is a character.

    The state is carried. To use the machine's width the text is cut into up to `streams` pieces,
    read side by side; each is preceded by 128 tokens that are read but not counted, so that it
    starts with a carried state, and each token is counted once. With streams=1 the text is read
    in one go, from the very first token on.

    Of `Windows`, each is read from a zero state.
    """
    if isinstance(tokens, Windows):
        return _evaluate_windows(model, tokens, tokenizer)
    N = len(tokens) - 1
    totals = np.zeros(2)

    def count(x: np.ndarray, targets: np.ndarray, state: State, starts: np.ndarray) -> State:
        loss, confidence, state = model.loss(x, targets, state)
        totals[:] += np.array([loss, confidence]) * targets.size
        return state

    read(model, tokens, streams, CHUNK, count)
    characters = N if tokenizer is None else 0
    if tokenizer is not None:
        for first in range(1, N + 1, DECODED):
            characters += tokenizer.characters(tokens[first : first + DECODED])
    return Evaluation(float(totals[0] / N), float(totals[1] / N), N, characters)


def _evaluate_windows(model: CIFGModel, windows: Windows, tokenizer: Tokenizer | None) -> Evaluation:
    totals, count, characters = np.zeros(2), 0, 0
    for first in range(0, len(windows), WINDOWS):
        columns = windows[np.arange(first, min(first + WINDOWS, len(windows)))]  # (T + 1, B)
        x, targets = columns[:-1], columns[1:]
        loss, confidence, _ = model.loss(x, targets, model.zero_state(x.shape[1]))
        totals += np.array([loss, confidence]) * targets.size
        count += targets.size
        characters += targets.size if tokenizer is None else tokenizer.characters(targets.T.ravel())
    return Evaluation(float(totals[0] / count), float(totals[1] / count), count, characters)


Step = Callable[[np.ndarray, np.ndarray, State, np.ndarray], State]  # x, targets, state, starts: next state


def width(tokens: np.ndarray, streams: int) -> int:
    """How many pieces of a text are read side by side; DataError where there is nothing to predict."""
    N = len(tokens) - 1
    if N < 1:
        raise DataError("at least two tokens are needed to evaluate")
    return max(1, min(streams, N // PIECE))


def read(model: CIFGModel, tokens: np.ndarray, streams: int, chunk: int, step: Step) -> None:
    """Take every token but the first through `step` once, as `evaluate` says, `chunk` time steps at a time.

    step  is called with tokens x (T, B), the targets that follow them (T, B), the state to start from
          and where each column of x starts in the text (B,); returns the state to go on with
    """
    N, B = len(tokens) - 1, width(tokens, streams)
    length = N // B
    starts = np.arange(B) * length
    state = model.zero_state(B)
    if B > 1:
        _, warm = model.forward(_columns(tokens, starts[1:] - WARM_UP, WARM_UP))
        state.h[:, 1:, ...] = warm.h
        state.c[:, 1:, ...] = warm.c

    def go_on(starts: np.ndarray, end: int, state: State) -> State:
        for t in range(0, end, chunk):
            T = min(chunk, end - t)
            columns = _columns(tokens, starts + t, T + 1)
            state = step(columns[:-1], columns[1:], state, starts + t)
        return state

    state = go_on(starts, length, state)
    if B * length < N:  # what the last piece is longer than the others
        last = State(state.h[:, -1:, ...], state.c[:, -1:, ...])
        go_on(np.array([B * length]), N - B * length, last)


def _columns(tokens: np.ndarray, starts: np.ndarray, T: int) -> np.ndarray:
    """(T, B): T tokens from each start on."""
    columns: np.ndarray = tokens[np.arange(T)[:, np.newaxis] + starts]
    return columns
