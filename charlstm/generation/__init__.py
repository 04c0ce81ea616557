"""Text from a model, one token after the other, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import OnUnknown
from ..data import Tokenizer
from ..model import CIFGModel
from ..sampling import SamplingConfig
from .beam import LENGTH_PENALTY, Hypothesis, beam_search
from .constraints import Constraint, constraint
from .streams import DRAWN_AT_ONCE, Batch, FinishReason, Stream, Token, sampler_of

__all__ = [
    "DRAWN_AT_ONCE", "LENGTH_PENALTY", "Batch", "Completion", "Constraint", "FinishReason", "Hypothesis", "Stream",
    "Token", "beam_search", "complete", "constraint", "generate", "generate_many", "sampler_of",
]  # fmt: skip


@dataclass(frozen=True)
class Completion:
    """What follows a prompt, and how it came about."""

    prompt: str
    text: str
    """Without the prompt."""
    seed: int
    finish_reason: FinishReason
    """"length": as many tokens as were asked for; "stop": a stop string; "match": the regular expression has
    matched, and the model would have gone on otherwise; "dead end": nothing was allowed to follow."""
    tokens: tuple[Token, ...]
    """Each with what the model itself thought of it."""


def generate(
    model: CIFGModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
) -> Iterator[str]:
    """Yield the characters of the `sampling.length` tokens that follow a prompt, without the prompt itself.

    An empty prompt starts as after a line feed (or the first token of a vocabulary without
    one). Draws come from `sampling.seed` alone. Raises, before the first character, what `Stream` does. Bytes
    that are no text come as U+FFFD.
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

    Stream k draws from the seed `sampling.seed` + k: it is the text that `generate` gives with this seed,
    whatever the other prompts are. Raises as `generate` does.
    """
    return _pieces(model, _streams(tokenizer, prompts, sampling, on_unknown))


def complete(
    model: CIFGModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig | None = None,
    on_unknown: OnUnknown = "error",
    alternatives: int = 0,
) -> list[Completion]:
    """As `generate_many`, all at once, with each token's log-probability and entropy.

    Beside each token stand so many `alternatives`: the most probable ones at its place.
    """
    streams = _streams(tokenizer, prompts, sampling, on_unknown, alternatives)
    parts = list(_pieces(model, streams))
    texts = ["".join(pieces) for pieces in zip(*parts, strict=True)] or [""] * len(streams)
    return [
        Completion(stream.prompt, text, stream.seed, stream.finish_reason or "length", tuple(stream.tokens))
        for stream, text in zip(streams, texts, strict=True)
    ]


def _streams(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig | None,
    on_unknown: OnUnknown,
    alternatives: int | None = None,
) -> list[Stream]:
    sampling = sampling if sampling is not None else SamplingConfig()
    return [
        Stream(tokenizer, prompt, sampling, on_unknown, sampling.seed + k, alternatives)
        for k, prompt in enumerate(prompts)
    ]


def _pieces(model: CIFGModel, streams: list[Stream]) -> Iterator[list[str]]:
    batch = Batch(model)
    batch.add(streams)
    while batch.streams:
        texts = batch.advance()
        yield [texts.get(stream, "") for stream in streams]
