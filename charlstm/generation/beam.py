"""The most probable texts, as far as a search finds them that keeps a few beginnings at a time."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..config import OnUnknown
from ..data import Decoder, Tokenizer
from ..errors import UsageError
from ..model import CIFGModel, log_posterior
from .constraints import Constraint, check_fits
from .reading import read
from .stops import StopStrings

LENGTH_PENALTY = 0.6  # as the paper has it, unless told otherwise
OVER = -1  # in place of a token: the text ends before it


class Hypothesis(NamedTuple):
    """A text that a search found."""

    text: str
    """What follows the prompt, without the stop string that ended it."""
    log_probability: float
    """In nats: of its tokens, those of the stop string included, and of ending where the constraint left a choice."""
    score: float
    """Its log-probability over the length penalty: the larger, the better."""
    finished: bool
    """Whether a stop string or the constraint ended it; False where it was cut off at `length`."""


class _Ended(NamedTuple):
    """A hypothesis that will not go on; of equal scores the one that ended first comes first."""

    cost: float  # its score, negated
    arrival: int
    log_probability: float
    step: int  # at which it ended
    parent: int  # the beam that `token` followed
    token: int  # or OVER
    finished: bool


class _Watch(NamedTuple):
    """The text of one beam, as far as stop strings ask for it."""

    decoder: Decoder
    stops: StopStrings

    def after(self, token: int) -> _Watch:
        watch = _Watch(self.decoder.copy(), self.stops.copy())
        watch.stops.feed(watch.decoder.feed([token]))
        return watch


class _Beams(NamedTuple):
    """B beginnings of the same length, the most probable first."""

    log_probability: np.ndarray  # (B,) float64
    states: np.ndarray  # (B,): of the constraint
    watches: list[_Watch]  # B; none where there are no stop strings


class _Candidates(NamedTuple):
    """N ways to go on, the most probable first."""

    log_probability: np.ndarray  # (N,) float64
    parents: np.ndarray  # (N,): beams
    tokens: np.ndarray  # (N,), or OVER
    states: np.ndarray  # (N,): of the constraint, after the token
    watches: list[_Watch]
    ended: np.ndarray  # (N,) bool


def beam_search(
    model: CIFGModel,
    tokenizer: Tokenizer,
    prompt: str = "",
    *,
    beams: int,
    length: int,
    length_penalty: float,
    stop: Sequence[str] = (),
    constraint: Constraint | None = None,
    on_unknown: OnUnknown = "error",
) -> list[Hypothesis]:
    """The `beams` best texts after a prompt, or fewer where there are no more, the best first.

    After each token the `beams` most probable beginnings are kept. A hypothesis of n tokens and
    probability p scores log p / ((5 + n) / 6) ** length_penalty (Wu et al. 2016, arXiv 1609.08144,
    equation 14 without coverage): 0 compares probabilities, larger values favour longer texts. It ends

    - with a stop string, found in the text as `StopStrings` does, and left out of it;
    - where the constraint has matched as a whole: to end there has the probability of all tokens that do not
      lead on to another match within `length`, as if the model had left the constraint with one of them;
    - at `length` tokens, which under a constraint are a whole match as well.

    With as many beams as there are texts this is exhaustive search. Of equally probable ways to go on,
    that of the more probable beginning, then that of the smaller token id comes first.

    Raises UsageError for beams or length below 1, a penalty that is negative or not finite, an empty
    stop string, or a constraint that `length` tokens cannot match; DataError as `generate` does;
    DivergedError where logits are not finite.
    """
    if beams < 1 or length < 1:
        raise UsageError(f"beam search needs at least 1 beam and 1 token, not {beams} and {length}")
    if not (math.isfinite(length_penalty) and length_penalty >= 0):
        raise UsageError(f"length_penalty must be a number from 0 on, not {length_penalty}")
    if constraint is not None:
        check_fits(constraint, length)
    ids = tokenizer.encode(prompt, on_unknown)
    watch = _Watch(tokenizer.decoder(prompt), StopStrings(stop))
    search = _Search(beams, length, length_penalty, constraint, watch if len(stop) else None)
    if constraint is not None and search.cannot_go_on(np.zeros(1, dtype=np.int64), 0).all():
        return [Hypothesis("", 0.0, 0.0, True)]
    search.run(model, ids if len(ids) else np.array([tokenizer.start_token]))
    return [search.hypothesis(ended, watch) for ended in search.pool]


class _Search:
    """What is common to all steps of one search."""

    def __init__(
        self, beams: int, length: int, penalty: float, constraint: Constraint | None, watch: _Watch | None
    ) -> None:
        self._beams, self._length, self._penalty = beams, length, penalty
        self._constraint = constraint
        self._first = _Beams(np.zeros(1), np.zeros(1, dtype=np.int64), [] if watch is None else [watch])
        self._history: list[tuple[np.ndarray, np.ndarray]] = []  # parents and tokens of each step's beams
        self._arrivals = 0
        self.pool: list[_Ended] = []  # the best that ended, the best first

    def run(self, model: CIFGModel, ids: np.ndarray) -> None:
        ops, live = model.ops, self._first
        logits, (h, c) = read(model, ids)
        weights = model.step_weights()
        for step in range(1, self._length + 1):
            found = self._candidates(live, ops.to_numpy(logits), step)
            self._end(found, step)
            kept = np.flatnonzero(~found.ended)[: self._beams]
            if not len(kept) or self._cannot_improve(found.log_probability[kept[0]]):
                return
            parents, tokens = found.parents[kept], found.tokens[kept]
            self._history.append((parents, tokens))
            live = _Beams(
                found.log_probability[kept],
                found.states[kept],
                [found.watches[k] for k in kept] if found.watches else [],
            )
            h, c = (ops.xp.take(state, ops.asarray(parents), axis=1) for state in (h, c))
            logits, h, c = ops.stack_step(weights, ops.asarray(tokens), h, c)

    def _candidates(self, live: _Beams, logits: np.ndarray, step: int) -> _Candidates:
        """Twice as many ways to go on as there are beams, since some of them may end here."""
        logarithms = log_posterior(logits)
        if self._constraint is not None:
            logarithms = self._constrained(logarithms, live.states, step)
        total = (live.log_probability[:, np.newaxis] + logarithms).reshape(-1)
        best = _largest(total, 2 * self._beams)
        parents, tokens = np.divmod(best, logarithms.shape[1])
        tokens[tokens == logits.shape[1]] = OVER
        ended = (tokens == OVER) | (step == self._length)
        states = live.states[parents]
        if self._constraint is not None:
            states = np.where(tokens == OVER, states, self._constraint.next[states, tokens])
            ended |= self.cannot_go_on(states, step)
        watches: list[_Watch] = []
        if live.watches:
            chosen = zip(parents.tolist(), tokens.tolist(), strict=True)
            watches = [live.watches[b] if v == OVER else live.watches[b].after(v) for b, v in chosen]
            ended |= np.array([watch.stops.stopped is not None for watch in watches])
        return _Candidates(total[best], parents, tokens, states, watches, ended)

    def _constrained(self, logarithms: np.ndarray, states: np.ndarray, step: int) -> np.ndarray:
        """Log-probabilities (B, V + 1) of what is allowed in states (B,); those to end in the last column."""
        assert self._constraint is not None
        after = self._constraint.next[states]
        allowed = (after >= 0) & (self._constraint.distance[after] <= self._length - step)
        outside = np.where(allowed, 0, np.exp(logarithms)).sum(axis=1) * self._constraint.final[states]
        with np.errstate(divide="ignore"):
            ending = np.log(outside)
        return np.concatenate([np.where(allowed, logarithms, -np.inf), ending[:, np.newaxis]], axis=1)

    def cannot_go_on(self, states: np.ndarray, step: int) -> np.ndarray:
        """Whether no token leads from states (N,) of the constraint to a match within the length, (N,)."""
        assert self._constraint is not None
        after = self._constraint.next[states]
        far = np.iinfo(np.int32).max
        distance = np.where(after >= 0, self._constraint.distance[after], far).min(axis=1)
        cannot: np.ndarray = distance >= self._length - step
        return cannot

    def _score(self, log_probability: float, tokens: int) -> float:
        return log_probability / float(((5 + tokens) / 6) ** self._penalty)

    def _cannot_improve(self, log_probability: float) -> bool:
        """Whether no text that goes on from a beginning of this probability gets into the full pool."""
        best = self._score(log_probability, self._length)  # probabilities only fall
        return len(self.pool) == self._beams and best <= -self.pool[-1].cost

    def _end(self, found: _Candidates, step: int) -> None:
        """Take those that end at this step into the pool."""
        for k in np.flatnonzero(found.ended):
            log_p, token = float(found.log_probability[k]), int(found.tokens[k])
            stopped = bool(found.watches) and found.watches[k].stops.stopped is not None
            ended = _Ended(
                cost=-self._score(log_p, step - (token == OVER)),
                arrival=self._arrivals,
                log_probability=log_p,
                step=step,
                parent=int(found.parents[k]),
                token=token,
                finished=stopped or self._constraint is not None,
            )
            insort(self.pool, ended)
            self._arrivals += 1
        del self.pool[self._beams :]

    def hypothesis(self, ended: _Ended, start: _Watch) -> Hypothesis:
        """The text of a hypothesis, from the start of the search."""
        tokens, beam = [] if ended.token == OVER else [ended.token], ended.parent
        for parents, chosen in reversed(self._history[: ended.step - 1]):
            tokens.append(int(chosen[beam]))
            beam = int(parents[beam])
        decoder, stops = start.decoder.copy(), start.stops.copy()
        text = stops.feed(decoder.feed(tokens[::-1]) + decoder.finish()) + stops.finish()
        finished = ended.finished or stops.stopped is not None
        return Hypothesis(text, ended.log_probability, -ended.cost, finished)


def _largest(values: np.ndarray, most: int) -> np.ndarray:
    """Where the largest values (N,) above -inf stand, the largest first; of equal ones the first ones."""
    if most >= len(values):
        found = np.arange(len(values))
    else:
        least = np.partition(values, len(values) - most)[len(values) - most]
        above = np.flatnonzero(values > least)
        found = np.concatenate([above, np.flatnonzero(values == least)[: most - len(above)]])
    found = found[values[found] > -np.inf]
    order: np.ndarray = found[np.lexsort((found, -values[found]))]
    return order
