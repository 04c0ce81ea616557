"""Text from a model, one character after the other, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .config import SamplingConfig
from .data import CharacterTokenizer, OnUnknown
from .errors import DivergedError
from .model import CIFGModel

PROMPT_CHUNK = 1024  # tokens of a prompt that are read at once


def generate(
    model: CIFGModel,
    tokenizer: CharacterTokenizer,
    prompt: str = "",
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
) -> Iterator[str]:
    """Yield the characters that follow a prompt, without the prompt itself.

    An empty prompt starts as after a line feed (or the first character of a vocabulary without
    one). Draws come from `sampling.seed` alone. Raises DataError, before the first character,
    for a prompt with characters outside of the vocabulary unless `on_unknown` says otherwise.
    """
    sampling = sampling if sampling is not None else SamplingConfig()
    start = "\n" if "\n" in tokenizer.vocabulary else tokenizer.vocabulary[0]
    ids = tokenizer.encode(prompt, on_unknown)
    if not len(ids):
        ids = tokenizer.encode(start)
    return _continue(model, tokenizer, ids, sampling)


def _continue(
    model: CIFGModel, tokenizer: CharacterTokenizer, ids: np.ndarray, sampling: SamplingConfig
) -> Iterator[str]:
    rng = np.random.default_rng(sampling.seed)
    state = model.zero_state(1)
    for first in range(0, len(ids), PROMPT_CHUNK):
        read, state = model.forward(ids[first : first + PROMPT_CHUNK, np.newaxis], state)
    logits = read[-1, ...]
    for _ in range(sampling.length):
        token = sample(model.ops.to_numpy(logits)[0], sampling.temperature, rng)
        yield tokenizer.vocabulary[token]
        logits, state = model.step(np.array([token]), state)


def sample(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """One draw from softmax(logits / temperature), logits (V,); the largest at temperature 0."""
    if not np.isfinite(logits).all():
        raise DivergedError("the model's logits are not finite numbers: its weights are unusable")
    if temperature == 0:
        return int(np.argmax(logits))
    shifted = logits.astype(np.float64) - logits.max()
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to exp(-inf)
        cumulative = np.cumsum(np.exp(shifted / temperature))
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
