"""Text from a model, one token after the other, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..backends import Sampler
from ..cifg import State
from ..config import OnUnknown, SamplingConfig
from ..data import Decoder, Tokenizer
from ..errors import DivergedError
from ..model import CIFGModel

PROMPT_CHUNK = 1024  # tokens of a prompt that are read at once
DRAWN_AT_ONCE = 64  # tokens that a backend draws before they are shown


def generate(
    model: CIFGModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
) -> Iterator[str]:
    """Yield the characters of the `sampling.length` tokens that follow a prompt, without the prompt itself.

    An empty prompt starts as after a line feed (or the first token of a vocabulary without
    one). Draws come from `sampling.seed` alone. Raises DataError, before the first character,
    for a prompt with tokens outside of the vocabulary unless `on_unknown` says otherwise, or the
    vocabulary has a token for those. Bytes that are no text come as U+FFFD.
    """
    pieces = generate_many(model, tokenizer, [prompt], sampling, on_unknown)
    return (character for (piece,) in pieces for character in piece)


def generate_many(
    model: CIFGModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
) -> Iterator[list[str]]:
    """Yield, a few characters at a time, what follows each of several prompts, drawn side by side.

    Stream k draws from (seed, k) alone: its text does not depend on the other prompts, and that of
    stream 0 is what `generate` gives. Raises as `generate` does.
    """
    sampling = sampling if sampling is not None else SamplingConfig()
    encoded = [tokenizer.encode(prompt, on_unknown) for prompt in prompts]
    encoded = [ids if len(ids) else np.array([tokenizer.start_token]) for ids in encoded]
    decoders = [tokenizer.decoder(prompt) for prompt in prompts]
    return _text(_continue(model, encoded, sampling), decoders) if encoded else iter(())


def _text(pieces: Iterator[np.ndarray], decoders: list[Decoder]) -> Iterator[list[str]]:
    for tokens in pieces:
        yield [decoder.feed(column) for decoder, column in zip(decoders, tokens.T, strict=True)]
    yield [decoder.finish() for decoder in decoders]


def _continue(model: CIFGModel, prompts: list[np.ndarray], sampling: SamplingConfig) -> Iterator[np.ndarray]:
    """A few tokens (n, B) at a time of what follows each of B prompts."""
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
        yield tokens


def _read(model: CIFGModel, ids: np.ndarray) -> tuple[np.ndarray, State]:
    """The last logits (1, V) and the state after tokens (N,)."""
    state = model.zero_state(1)
    for first in range(0, len(ids), PROMPT_CHUNK):
        logits, state = model.forward(ids[first : first + PROMPT_CHUNK, np.newaxis], state)
    return logits[-1, ...], state
