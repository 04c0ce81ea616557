"""Text from a model, one character after the other, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .config import SamplingConfig
from .data import CharacterTokenizer, OnUnknown
from .errors import DivergedError
from .model import CIFGModel

PROMPT_CHUNK = 1024  # tokens of a prompt that are read at once
DRAWN_AT_ONCE = 32  # characters that a backend draws before they are shown


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
    ops, rng = model.ops, np.random.default_rng(sampling.seed)
    state = model.zero_state(1)
    for first in range(0, len(ids), PROMPT_CHUNK):
        read, state = model.forward(ids[first : first + PROMPT_CHUNK, np.newaxis], state)
    logits, h, c = read[-1, ...], state.h, state.c
    weights = model.step_weights()
    for first in range(0, sampling.length, DRAWN_AT_ONCE):
        uniforms = rng.random(min(DRAWN_AT_ONCE, sampling.length - first))
        try:
            tokens, logits, h, c = ops.generate(weights, logits, h, c, uniforms, sampling.temperature)
        except FloatingPointError:
            raise DivergedError("the model's logits are not finite: its weights are unusable") from None
        yield from tokenizer.decode(tokens)
