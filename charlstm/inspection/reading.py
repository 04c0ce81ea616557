"""What a model expects at every token of a text, and the state of every cell after it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ..data import Tokenizer
from ..errors import DataError, DivergedError
from ..model import CIFGModel

ALTERNATIVES = 5  # most probable tokens that are kept at each place
CHUNK = 256  # time steps in one forward pass
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
    state = None
    for first in range(0, N + 1, CHUNK):
        last = min(first + CHUNK, N + 1)
        logits, tape = model.trace(ids[first:last, np.newaxis], state)
        state = tape.last_state(model.ops)
        for k, layer in enumerate(tape.layers):
            h[first:last, k] = model.ops.to_numpy(layer.h)[1:, 0]
            c[first:last, k] = model.ops.to_numpy(layer.c)[1:, 0]
        targets = ids[first + 1 : last + 1]  # the last token of all has nothing to predict
        place = slice(first, first + len(targets))
        log_posterior = _log_posterior(model.ops.to_numpy(logits)[: len(targets), 0])
        posterior = np.exp(log_posterior)
        surprise[place] = -log_posterior[np.arange(len(targets)), targets] / LN2
        entropy[place] = -(posterior * log_posterior).sum(axis=1) / LN2
        likely[place] = _largest(posterior, K)
        probabilities[place] = np.take_along_axis(posterior, likely[place], axis=1)
    texts = _texts(tokenizer, tokens)
    return Reading(ids[1:], texts, surprise, entropy, likely, probabilities, h[1:], c[1:])


def _log_posterior(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the softmax of logits (T, V), in float64 and finite."""
    if not np.isfinite(logits).all():
        raise DivergedError("the model's logits are not finite: its weights are unusable")
    shifted: np.ndarray = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _largest(posterior: np.ndarray, K: int) -> np.ndarray:
    """The K most probable tokens of each row (T, V), best first; of equal ones that of the lowest id."""
    order: np.ndarray = np.argsort(-posterior, axis=1, kind="stable")
    return order[:, :K]


def _texts(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """What each token adds to the text; its end, where the last token breaks off, goes to that one."""
    decoder = tokenizer.decoder()
    texts = [decoder.feed(tokens[k : k + 1]) for k in range(len(tokens))]
    texts[-1] += decoder.finish()
    return texts


def cut(tokenizer: Tokenizer, token: int) -> str:
    """A token by itself, as people read it; the bytes of a character's part as <C3>."""
    text = tokenizer.decode(np.array([token]))
    # "surrogateescape" keeps a byte as U+DC80 to U+DCFF
    return re.sub("[\udc80-\udcff]", lambda byte: f"<{ord(byte[0]) - 0xDC00:02X}>", text)
