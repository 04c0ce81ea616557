"""Texts that are drawn side by side: each with its own seed, sampling and end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..backends import SAMPLERS, Array, Draws, Sampler, Scores, no_constraint
from ..cifg import State
from ..config import OnUnknown
from ..data import Tokenizer
from ..errors import DivergedError, UsageError
from ..model import CIFGModel
from ..sampling import SamplingConfig
from .constraints import Constraint, check_fits, constraint
from .reading import CHUNK, PromptScores, Reading
from .stops import StopStrings

DRAWN_AT_ONCE = 64  # tokens that a backend draws before they are shown

FinishReason = Literal["length", "stop", "match", "dead end"]


class Token(NamedTuple):
    """A token that was drawn, and what the model thought of it, before temperature and all else."""

    id: int
    text: str
    log_probability: float  # nats
    entropy: float  # of the posterior, nats
    alternatives: tuple[tuple[int, float], ...]  # the most probable tokens, with their log-probabilities


class Stream:
    """One text that is being drawn. What it becomes depends on its model, prompt, sampling and seed alone."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: str = "",
        sampling: SamplingConfig | None = None,
        on_unknown: OnUnknown = "error",
        seed: int | None = None,
        alternatives: int | None = None,
        prompt_scored: bool = False,
    ) -> None:
        """`seed` is that of the sampling unless it is given. With `alternatives` tokens are scored, beside so
        many of the most probable ones; those of the prompt as well if it is to be `prompt_scored`.

        Raises DataError for a prompt with tokens outside of the vocabulary unless `on_unknown` says
        otherwise, or the vocabulary has a token for those; UsageError for a bias of what is no token, a regular
        expression that nothing can match, and one that takes more tokens than `sampling.length`.
        """
        self.prompt, self.sampling = prompt, sampling if sampling is not None else SamplingConfig()
        self.seed = self.sampling.seed if seed is None else seed
        ids = tokenizer.encode(prompt, on_unknown)
        self.prompt_size = len(ids)
        self.prompt_ids = ids if len(ids) else np.array([tokenizer.start_token])
        self.alternatives, self.prompt_scored = alternatives, prompt_scored and alternatives is not None
        self.first_text, self.prompt_tokens = (
            "",
            list[Token](),
        )  # of the prompt, if it is scored; all but the first
        self.bias = _bias(tokenizer, self.sampling)
        self.constraint = _constraint(tokenizer, prompt, self.sampling)
        self.state = -1 if self.constraint is None else 0
        self._temperatures = np.array(self.sampling.temperatures)
        self.drawn, self.remaining = 0, self.sampling.length
        self.finish_reason: FinishReason | None = None if self.remaining else "length"
        self.tokens: list[Token] = []  # those that were scored
        self.rng = np.random.default_rng(self.seed)
        self._decoder, self._tokenizer = tokenizer.decoder(prompt), tokenizer
        self._stops = StopStrings(self.sampling.stop)

    @property
    def sampler(self) -> Sampler:
        return sampler_of(self.sampling, len(self.prompt_ids) + self.sampling.length)

    def uniforms(self, count: int, numbers: int) -> np.ndarray:
        """Numbers in [0, 1) for the next draws, (count, numbers), the same however they are split into calls."""
        drawn = self.rng.random((count, 2 if self.sampling.redraw else 1))
        return np.broadcast_to(drawn, (count, numbers)) if drawn.shape[1] < numbers else drawn

    def temperatures(self, count: int) -> np.ndarray:
        """Those of the next `count` tokens."""
        values, length = self._temperatures, self.sampling.length
        if len(values) == 1:
            return np.full(count, values[0])
        places = np.arange(length - self.remaining, length - self.remaining + count)
        if self.sampling.falling:
            first, last = values
            between: np.ndarray = first + (last - first) * np.minimum(places / max(1, length - 1), 1.0)
            return between
        return values[places % len(values)]

    def take(self, ids: np.ndarray, ended: bool, state: int, scores: Scores | None, column: int) -> str:
        """Take in tokens (n,) that were drawn, the last ones if it `ended`; the text that they add."""
        self.remaining -= len(ids)
        self.state = state
        text = self._decoded(ids) if scores is None else self._scored(ids, scores, column)
        if self._stops.stopped is not None:
            self.finish_reason = "stop"
        elif ended or self.remaining == 0:
            text += self._stops.feed(self._decoder.finish())
            stopped = self._stops.stopped is not None
            text += "" if stopped else self._stops.finish()
            self.finish_reason = "stop" if stopped else self._why_over(ended)
        return text

    def _why_over(self, ended: bool) -> FinishReason:
        if not ended:
            return "length"
        complete = self.constraint is not None and bool(self.constraint.final[self.state])
        return "match" if complete else "dead end"

    def _decoded(self, ids: np.ndarray) -> str:
        """The text of tokens; which of them completed a stop string is looked for once one has."""
        before = (self._decoder.copy(), self._stops.copy()) if self.sampling.stop else None
        text = self._stops.feed(self._decoder.feed(ids))
        self.drawn += len(ids)
        if before is not None and self._stops.stopped is not None:
            decoder, stops = before
            self.drawn -= len(ids)
            for token in ids.tolist():
                self.drawn += 1
                stops.feed(decoder.feed([token]))
                if stops.stopped is not None:
                    break
        return text

    def _scored(self, ids: np.ndarray, scores: Scores, column: int) -> str:
        """As `_decoded`, one token at a time; what was drawn beyond a stop string is left out."""
        parts = []
        kept = slice(self.alternatives)
        for n, token in enumerate(ids.tolist()):
            text = self._decoder.feed([token])
            self.drawn += 1
            best = (
                scores.best[n, column, kept].tolist(),
                scores.best_log_probabilities[n, column, kept].tolist(),
            )
            figures = float(scores.log_probabilities[n, column]), float(scores.entropies[n, column])
            self.tokens.append(Token(token, text, *figures, tuple(zip(*best, strict=True))))
            parts.append(self._stops.feed(text))
            if self._stops.stopped is not None:
                break
        return "".join(parts)

    def take_prompt(self, scores: PromptScores) -> None:
        """Take in what the model thought of the prompt."""
        decoder, kept = self._tokenizer.decoder(), slice(self.alternatives)
        self.first_text = decoder.feed(self.prompt_ids[:1])
        ids = self.prompt_ids[1:].tolist()
        figures = (part.tolist() for part in scores)
        for token, own, entropy, best, values in zip(ids, *figures, strict=True):
            alternatives = tuple(zip(best[kept], values[kept], strict=True))
            self.prompt_tokens.append(Token(token, decoder.feed([token]), own, entropy, alternatives))


def sampler_of(sampling: SamplingConfig, longest: int) -> Sampler:
    """What `draw` needs of a sampling, for a text of at most so many tokens."""
    s = sampling
    looks_back = s.repetition_penalty != 1 or s.no_repeat_ngram > 0
    return Sampler(
        s.top_k, s.top_p, s.typical, s.min_p, s.repetition_penalty, s.no_repeat_ngram,
        min(s.repetition_window, longest) if looks_back else 0, s.redraw,
    )  # fmt: skip


def _bias(tokenizer: Tokenizer, sampling: SamplingConfig) -> np.ndarray | None:
    """What is added to the logits (V,), if anything."""
    if not sampling.biases:
        return None
    bias = np.zeros(len(tokenizer))
    for text, value in sampling.biases.items():
        ids = tokenizer.encode(text, "skip")
        if len(ids) != 1 or tokenizer.unknown(text):
            raise UsageError(f"logit_bias: {text!r} is not one {tokenizer.unit} of the vocabulary")
        bias[ids[0]] = value
    if not (bias > -np.inf).any():
        raise UsageError("logit_bias forbids the whole vocabulary")
    return bias


def _constraint(tokenizer: Tokenizer, prompt: str, sampling: SamplingConfig) -> Constraint | None:
    if sampling.regex is None:
        return None
    made = constraint(sampling.regex, tokenizer, prompt)
    check_fits(made, sampling.length)
    return made


class Batch:
    """Streams that a model draws side by side; they may join before any `advance`, and leave when they end."""

    def __init__(self, model: CIFGModel) -> None:
        self._model = model
        self._weights = model.step_weights()
        self.streams: list[Stream] = []
        self._readings: dict[tuple[bytes, int | None], tuple[Reading, list[Stream]]] = {}
        self._logits = model.ops.empty((0, model.output_size), model.parameters.flat.dtype)
        self._state = model.zero_state(0)
        self._past = np.empty((0, 0), np.int64)
        self._settings = _Settings((), model.output_size)

    def __len__(self) -> int:
        """How many streams take part, or wait for their prompts to be read."""
        return len(self.streams) + sum(len(streams) for _, streams in self._readings.values())

    def add(
        self, streams: Sequence[Stream], read_already: Sequence[tuple[Array, State]] | None = None
    ) -> None:
        """Read the streams' prompts; the streams take part from now on.

        Of prompts that were `read_already` the last logits (1, V) and the states are given.
        """
        if read_already is not None:
            self._take_part(streams, read_already)
            return
        self.join(streams)
        while self._readings:
            self._read_on()

    def join(self, streams: Iterable[Stream]) -> None:
        """Let streams take part once their prompts are read, piece by piece between the draws of the others."""
        for stream in streams:
            if stream.remaining or stream.prompt_scored:
                alternatives = stream.alternatives if stream.prompt_scored else None
                key = stream.prompt_ids.tobytes(), alternatives  # read once for all who wait for it
                if key not in self._readings:
                    reading = Reading(self._model, stream.prompt_ids, alternatives=alternatives)
                    self._readings[key] = reading, []
                self._readings[key][1].append(stream)

    def remove(self, streams: Collection[Stream]) -> None:
        """Let streams go before they are over; their neighbours draw what they would have drawn."""
        for key, (reading, waiting) in list(self._readings.items()):
            self._readings[key] = reading, [stream for stream in waiting if stream not in streams]
            if not self._readings[key][1]:
                del self._readings[key]
        self._keep([stream not in streams for stream in self.streams])

    def advance(self, count: int = DRAWN_AT_ONCE) -> dict[Stream, str]:
        """Draw up to `count` tokens of each stream; the text that each has won.

        Some of what has joined is read before. Streams that are over have left, and have their
        `finish_reason`. Raises DivergedError where logits are not finite.
        """
        texts = dict.fromkeys(self._read_on(), "") if self._readings else {}
        streams = self.streams
        if not streams:
            return texts
        draws = self._draws(min(count, max(stream.remaining for stream in streams)))
        asked = [stream.alternatives for stream in streams if stream.alternatives is not None]
        try:
            drawn = self._model.ops.generate(
                self._weights, self._logits, *self._state, draws, max(asked) if asked else None
            )
        except FloatingPointError:
            raise DivergedError("the model's logits are not finite: its weights are unusable") from None
        for b, stream in enumerate(streams):
            number = int(drawn.counts[b])
            ended = number < min(len(drawn.tokens), stream.remaining)
            state = int(drawn.states[b]) - self._settings.start(stream)
            scores = None if stream.alternatives is None else drawn.scores
            texts[stream] = stream.take(drawn.tokens[:number, b], ended, state, scores, b)
        past = np.concatenate((self._past, drawn.tokens.T), axis=1)
        self._past = past[:, past.shape[1] - self._past.shape[1] :].copy()
        self._logits, self._state = drawn.logits, State(drawn.h, drawn.c)
        self._keep([stream.finish_reason is None for stream in streams])
        return texts

    def _take_part(self, streams: Sequence[Stream], read: Sequence[tuple[Array, State]]) -> None:
        concat = self._model.ops.xp.concat
        new = [(stream, *found) for stream, found in zip(streams, read, strict=True) if stream.remaining]
        self._logits = concat([self._logits, *(logits for _, logits, _ in new)], axis=0)
        self._state = State(
            *(concat([self._state[k], *(state[k] for _, _, state in new)], axis=1) for k in range(2))
        )
        past = [*self._past, *(stream.prompt_ids for stream, _, _ in new)]
        self.streams = self.streams + [stream for stream, _, _ in new]
        window = max((stream.sampler.window for stream in self.streams), default=0)
        self._past = np.array([_last(tokens, window) for tokens in past], np.int64).reshape(len(past), window)
        self._settings = _Settings(self.streams, self._model.output_size)

    def _read_on(self) -> list[Stream]:
        """Read some of the prompts, each a chunk at a time and in turn; the streams whose prompts were read."""
        ready, size = [], 0
        while self._readings and size < CHUNK:
            key = next(iter(self._readings))
            reading, streams = self._readings.pop(key)
            size += reading.step()
            if not reading.over:
                self._readings[key] = reading, streams
                continue
            for stream in streams:
                if stream.prompt_scored:
                    stream.take_prompt(reading.scores)
            ready += [(stream, reading.result) for stream in streams]
        if ready:
            self._take_part(*zip(*ready, strict=True))
        return [stream for stream, _ in ready]

    def _draws(self, count: int) -> Draws:
        streams, settings = self.streams, self._settings
        numbers = 2 if settings.samplers["redraw"].any() else 1
        return Draws(
            np.stack([stream.uniforms(count, numbers) for stream in streams], axis=1),
            np.stack([stream.temperatures(count) for stream in streams], axis=1),
            settings.samplers,
            settings.bias,
            self._past,
            *settings.automata,
            np.array([stream.state + settings.start(stream) for stream in streams]),
            np.array([stream.remaining for stream in streams]),
        )

    def _keep(self, going: Sequence[bool]) -> None:
        """Go on with some of the streams."""
        if all(going):
            return
        xp, left = self._model.ops.xp, np.flatnonzero(going)
        self.streams = [self.streams[b] for b in left]
        self._past = self._past[left]
        ids = self._model.ops.asarray(left)
        self._logits = xp.take(self._logits, ids, axis=0)
        self._state = State(*(xp.take(part, ids, axis=1) for part in self._state))
        self._settings = _Settings(self.streams, self._model.output_size)


class _Settings:
    """What of the draws stays the same as long as the streams do."""

    def __init__(self, streams: Sequence[Stream], V: int) -> None:
        self.samplers = np.array([tuple(stream.sampler) for stream in streams], SAMPLERS)
        biases = [stream.bias for stream in streams]
        self.bias = np.empty((0, V))
        if any(bias is not None for bias in biases):
            self.bias = np.stack([np.zeros(V) if bias is None else bias for bias in biases])
        self._starts: dict[int, int] = {}
        self.automata = self._joined([stream.constraint for stream in streams if stream.constraint], V)

    def start(self, stream: Stream) -> int:
        """Where the states of a stream's constraint begin among those of all."""
        return self._starts.get(id(stream.constraint), 0)

    def _joined(self, constraints: Sequence[Constraint], V: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The constraints as one automaton: `Draws.next`, `distance` and `final`."""
        tables, size = [no_constraint(V)], 0
        for key, each in {id(made): made for made in constraints}.items():
            self._starts[key] = size
            after = np.where(each.next < 0, -1, each.next + np.int32(size))
            tables.append((after, each.distance, each.final))
            size += len(each.final)
        after, distance, final = (np.concatenate(parts) for parts in zip(*tables, strict=True))
        return after.astype(np.int32), distance.astype(np.int64), final.astype(np.bool_)


def _last(tokens: np.ndarray, count: int) -> np.ndarray:
    """The last so many tokens, after -1 where there are fewer."""
    kept = tokens[max(0, len(tokens) - count) :]
    return np.concatenate((np.full(count - len(kept), -1, np.int64), kept))
