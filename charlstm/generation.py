"""Text from a model, one character after the other, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .backends import Sampler
from .cifg import State
from .config import SamplingConfig
from .data import CharacterTokenizer, OnUnknown
from .errors import DivergedError
from .model import CIFGModel

PROMPT_CHUNK = 1024  # tokens of a prompt that are read at once
DRAWN_AT_ONCE = 64  # characters that a backend draws before they are shown


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
    pieces = generate_many(model, tokenizer, [prompt], sampling, on_unknown)
    return (character for (piece,) in pieces for character in piece)


def generate_many(
    model: CIFGModel,
    tokenizer: CharacterTokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
) -> Iterator[list[str]]:
    """Yield, a few characters at a time, what follows each of several prompts, drawn side by side.

    Stream k draws from (seed, k) alone: its text does not depend on the other prompts, and that of
    stream 0 is what `generate` gives. Raises as `generate` does.
    """
    sampling = sampling if sampling is not None else SamplingConfig()
    start = "\n" if "\n" in tokenizer.vocabulary else tokenizer.vocabulary[0]
    encoded = [tokenizer.encode(prompt, on_unknown) for prompt in prompts]
    encoded = [ids if len(ids) else tokenizer.encode(start) for ids in encoded]
    return _continue(model, tokenizer, encoded, sampling) if encoded else iter(())


def _continue(
    model: CIFGModel, tokenizer: CharacterTokenizer, prompts: list[np.ndarray], sampling: SamplingConfig
) -> Iterator[list[str]]:
    ops = model.ops
    draws = [np.random.default_rng([sampling.seed, k] if k else sampling.seed) for k in range(len(prompts))]
    sampler = Sampler(sampling.temperature, sampling.top_k, sampling.top_p)
    read = [_read(model, ids) for ids in prompts]
    logits = ops.xp.concat([last for last, _ in read], axis=0)
    h, c = (ops.xp.concat([state[k] for _, state in read], axis=1) for k in range(2))
    weights = model.step_weights()
    for first in range(0, sampling.length, DRAWN_AT_ONCE):
        count = min(DRAWN_AT_ONCE, sampling.length - first)
        uniforms = np.stack([rng.random(count) for rng in draws], axis=1)
        try:
            tokens, logits, h, c = ops.generate(weights, logits, h, c, uniforms, sampler)
        except FloatingPointError:
            raise DivergedError("the model's logits are not finite: its weights are unusable") from None
        yield [tokenizer.decode(column) for column in tokens.T]


def _read(model: CIFGModel, ids: np.ndarray) -> tuple[np.ndarray, State]:
    """The last logits (1, V) and the state after tokens (N,)."""
    state = model.zero_state(1)
    for first in range(0, len(ids), PROMPT_CHUNK):
        logits, state = model.forward(ids[first : first + PROMPT_CHUNK, np.newaxis], state)
    return logits[-1, ...], state
