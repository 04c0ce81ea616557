"""What a model expects at every token of a text, and the state of every cell after it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..data import Tokenizer
from ..errors import DataError
from ..model import CIFGModel, log_posterior, most_probable

ALTERNATIVES = 5  # most probable tokens that are kept at each place
CHUNK = 256  # time steps in one forward pass
LOGITS = 1 << 22  # that are held at once
LN2 = math.log(2)


@dataclass(frozen=True)
class Reading:
    """N tokens as a model read them, each predicted from all that precede it."""

    tokens: np.ndarray
    """Token ids, (N,) int64."""
    texts: list[str]
    """What each token adds to the text; "" where it ends in the middle of a character, which then comes later."""
    surprise: np.ndarray
    """-log2 of the probability of each token, in bits, (N,) float64."""
    entropy: np.ndarray
    """Of the posterior that predicted each token, in bits, (N,) float64."""
    alternatives: np.ndarray
    """The most probable tokens at each place, best first, (N, K) int64."""
    probabilities: np.ndarray
    """Their probabilities, (N, K) float64."""
    h: np.ndarray
    """Output of every cell after each token, (N, L, H) in the model's dtype."""
    c: np.ndarray
    """Memory of every cell after each token, (N, L, H) in the model's dtype."""

    @property
    def text(self) -> str:
        """The text that was read."""
        return "".join(self.texts)

    @property
    def bits_per_token(self) -> float:
        """The mean surprise."""
        return float(self.surprise.mean())


def read(
    model: CIFGModel, tokenizer: Tokenizer, tokens: np.ndarray, alternatives: int = ALTERNATIVES
) -> Reading:
    """Let a model read token ids (N,), N at least 2, from a zero state after the tokenizer's start token.

    `alternatives` is how many of the most probable tokens are kept at each place; at most V.
    Raises DataError for fewer than two tokens, DivergedError where logits are not finite.
    """
    N, L, H = len(tokens), model.config.num_layers, model.config.hidden_size
    if N < 2:
        raise DataError(f"at least two {tokenizer.unit}s are needed to look inside, not {N}")
    ids = np.concatenate(([tokenizer.start_token], tokens)).astype(np.int64)
    K = min(alternatives, model.output_size)
    surprise, entropy, probabilities = np.empty(N), np.empty(N), np.empty((N, K))
    likely = np.empty((N, K), np.int64)
    h, c = (np.empty((N + 1, L, H), model.config.dtype) for _ in range(2))
    state, chunk = None, max(1, min(CHUNK, LOGITS // model.output_size))
    for first in range(0, N + 1, chunk):
        last = min(first + chunk, N + 1)
        logits, tape = model.trace(ids[first:last, np.newaxis], state)
        state = tape.last_state(model.ops)
        for k, layer in enumerate(tape.layers):
            h[first:last, k] = model.ops.to_numpy(layer.h)[1:, 0]
            c[first:last, k] = model.ops.to_numpy(layer.c)[1:, 0]
        targets = ids[first + 1 : last + 1]  # the last token of all has nothing to predict
        place = slice(first, first + len(targets))
        logarithms = log_posterior(model.ops.to_numpy(logits)[: len(targets), 0])
        posterior = np.exp(logarithms)
        surprise[place] = -logarithms[np.arange(len(targets)), targets] / LN2
        entropy[place] = -(posterior * logarithms).sum(axis=1) / LN2
        likely[place] = most_probable(logarithms, K)
        probabilities[place] = np.take_along_axis(posterior, likely[place], axis=1)
    texts = _texts(tokenizer, tokens)
    return Reading(ids[1:], texts, surprise, entropy, likely, probabilities, h[1:], c[1:])


def _texts(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """What each token adds to the text; its end, where the last token breaks off, goes to that one."""
    decoder = tokenizer.decoder()
    texts = [decoder.feed(tokens[k : k + 1]) for k in range(len(tokens))]
    texts[-1] += decoder.finish()
    return texts
