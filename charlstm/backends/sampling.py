"""What drawing tokens needs: a network's weights step by step, and how a token is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any  # an array of the backend's own namespace

END = -1  # drawn in place of a token: the text is over
NOT_FINITE = -2  # likewise: the logits are no numbers
NOTHING = np.empty(0, np.int64)


class StepWeights(NamedTuple):
    """A network's weights as sampling wants them, contiguous; made once, used for every token."""

    table: Array  # (V, 3H): the first layer's x W + b for each token
    W: Array  # (L-1, H, 3H), of the further layers
    b: Array  # (L-1, 3H), likewise
    R: Array  # (L, H, 3H)
    head: Array  # (H, V)
    bias: Array  # (V,)
    packed: Any = None  # the same in a backend's own layout, from `Ops.pack_step_weights`


class Sampler(NamedTuple):
    """How the tokens of one stream are drawn; the temperature goes with each token (`Draws`)."""

    top_k: int = 0  # only the k most probable tokens; 0: all
    top_p: float = 1.0  # only the most probable tokens that hold this much of the probability
    typical: float = 1.0  # only the tokens of the most typical surprise that hold this much of it
    min_p: float = 0.0  # only tokens with at least this share of the most probable one's probability
    repetition_penalty: float = (
        1.0  # logits of tokens within the window are divided (below 0: multiplied) by it
    )
    no_repeat_ngram: int = 0  # no sequence of so many tokens a second time within the window; 0: any
    window: int = 0  # tokens that the last two look back
    redraw: bool = False  # a draw that is not the most probable token is drawn once again


PLAIN = Sampler()
# a Sampler as a record of NumPy's, which compiled loops read
SAMPLERS = np.dtype([(name, type(value)) for name, value in PLAIN._asdict().items()], align=True)


class Draws(NamedTuple):
    """What decides on the next N tokens of each of B streams, beside the model.

    A constraint is an automaton: in state s the token v may follow where next[s, v] is the state after
    it, not -1, and where as many tokens are left as that state needs to reach a final one.
    """

    uniforms: np.ndarray  # (N, B, 1) in [0, 1), or (N, B, 2) where a sampler draws again
    temperatures: np.ndarray  # (N, B), divide the logits; 0 takes the most probable token
    samplers: np.ndarray  # (B,) of SAMPLERS
    bias: np.ndarray  # (B, V), added to the logits, -inf for what may never come; or (0, V)
    past: np.ndarray  # (B, W): the last tokens, at least the samplers' windows; -1 where there are fewer
    next: np.ndarray  # (S, V) int32
    distance: np.ndarray  # (S,): fewest tokens from a state to a final one
    final: np.ndarray  # (S,) bool
    states: np.ndarray  # (B,): that of each stream; -1 where it has no constraint
    remaining: np.ndarray  # (B,): tokens left of each stream; none is drawn beyond


def plain_draws(uniforms: np.ndarray, temperature: float, sampler: Sampler = PLAIN, V: int = 1) -> Draws:
    """Draws for uniforms (N, B) of streams that have just begun, all with one sampler and no constraint."""
    N, B = uniforms.shape
    return Draws(
        np.repeat(uniforms[:, :, np.newaxis], 2, axis=2)
        if sampler.redraw
        else uniforms[:, :, np.newaxis].copy(),
        np.full((N, B), temperature, np.float64),
        np.array([tuple(sampler)] * B, SAMPLERS),
        np.empty((0, V)),
        np.full((B, sampler.window), -1, np.int64),
        *no_constraint(V),
        np.full(B, -1, np.int64),
        np.full(B, N, np.int64),
    )


def no_constraint(V: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Draws.next`, `distance` and `final` where no stream has a constraint."""
    return np.empty((0, V), np.int32), np.empty(0, np.int64), np.empty(0, np.bool_)


def check_draws(draws: Draws, V: int) -> None:
    """Raise ValueError unless the arrays fit each other and V tokens: kernels read them unchecked."""
    (N, B, _), S = draws.uniforms.shape, len(draws.final)
    window = max((int(w) for w in draws.samplers["window"]), default=0)
    fits = (
        draws.temperatures.shape == (N, B)
        and draws.samplers.shape == draws.states.shape == draws.remaining.shape == (B,)
        and draws.bias.shape in ((B, V), (0, V))
        and draws.past.shape[0] == B
        and draws.past.shape[1] >= window
        and bool((draws.past < V).all())
        and draws.next.shape == (S, V)
        and draws.distance.shape == (S,)
        and bool((draws.states < S).all())
        and (draws.uniforms.shape[2] > 1 or not draws.samplers["redraw"].any())
        and all(part.flags.c_contiguous for part in draws)
    )
    if not fits:
        raise ValueError(f"draws for {B} streams and {V} tokens do not fit each other")


class Scores(NamedTuple):
    """What the model itself thought of each draw, before bias, temperature and all else; nats."""

    log_probabilities: np.ndarray  # (N, B), of what was drawn
    entropies: np.ndarray  # (N, B), of the posterior
    best: np.ndarray  # (N, B, A): the A most probable tokens
    best_log_probabilities: np.ndarray  # (N, B, A)


def empty_scores(N: int, B: int, alternatives: int | None) -> Scores:
    """Room for scores with so many alternatives; without any scores where that is None."""
    N, A = (0, 0) if alternatives is None else (N, alternatives)
    return Scores(np.empty((N, B)), np.empty((N, B)), np.empty((N, B, A), np.int64), np.empty((N, B, A)))


class Drawn(NamedTuple):
    """What `Ops.generate` drew, and where it left the streams."""

    tokens: np.ndarray  # (N, B) on the host; only the first counts[b] of a stream are its text
    counts: np.ndarray  # (B,): less than N where a stream ended
    states: np.ndarray  # (B,), of the constraints
    scores: Scores
    logits: Array  # (B, V)
    h: Array  # (L, B, H)
    c: Array  # (L, B, H)


def nothing_drawn(draws: Draws, logits: Array, h: Array, c: Array, alternatives: int | None) -> Drawn:
    """What `Ops.generate` fills in and returns; ValueError for draws that do not fit."""
    N, B, _ = draws.uniforms.shape
    V = int(logits.shape[1])
    check_draws(draws, V)
    scores = empty_scores(N, B, None if alternatives is None else min(alternatives, V))
    tokens, counts = np.zeros((N, B), np.int64), np.zeros(B, np.int64)
    return Drawn(tokens, counts, draws.states.copy(), scores, logits, h, c)


def draw_tokens(logits: np.ndarray, draws: Draws, drawn: Drawn, n: int) -> bool:
    """Draw token n of all streams that go on, from logits (B, V); whether any went on.

    Takes constraints on. Raises FloatingPointError where logits are not finite.
    """
    for b in np.flatnonzero(drawn.counts == n).tolist():
        token = next_token(logits[b], draws, drawn.tokens, n, b)
        if token == NOT_FINITE:
            raise FloatingPointError("logits are not finite numbers")
        if token != END:
            drawn.tokens[n, b], drawn.counts[b] = token, n + 1
            score(logits[b], token, drawn.scores, n, b)
            if drawn.states[b] >= 0:
                drawn.states[b] = draws.next[drawn.states[b], token]
    return bool((drawn.counts > n).any())


def next_token(logits: np.ndarray, draws: Draws, tokens: np.ndarray, n: int, stream: int) -> int:
    """Token n of a stream, after logits (V,) and the tokens (N, B) so far; END, or NOT_FINITE."""
    left, state = draws.remaining[stream] - n - 1, int(draws.states[stream])
    if left < 0:
        return END
    sampler = Sampler(*draws.samplers[stream].tolist())
    recent = np.concatenate((draws.past[stream], tokens[:n, stream]))
    recent = recent[len(recent) - sampler.window :]
    allowed = None
    if state >= 0:
        following = draws.next[state]
        allowed = (following >= 0) & (draws.distance[following] <= left)
    return draw(
        logits,
        sampler,
        float(draws.temperatures[n, stream]),
        draws.uniforms[n, stream],
        recent[recent >= 0],
        draws.bias[stream] if len(draws.bias) else None,
        allowed,
        state >= 0 and bool(draws.final[state]),
    )


def draw(
    logits: np.ndarray,
    sampler: Sampler,
    temperature: float,
    uniforms: Sequence[float] | np.ndarray,
    recent: np.ndarray = NOTHING,
    bias: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    ends: bool = False,
) -> int:
    """A token drawn from logits (V,); END where the text is over, NOT_FINITE where logits are not.

    uniforms  a number in [0, 1), and one more where the sampler draws again
    recent    the tokens that the sampler's repetition options look at, the last one at the end
    bias      (V,) added to the logits, -inf for what may never come
    allowed   (V,) what a constraint allows; `ends`: it is fulfilled, so the text may be over

    In this order: bias; repetition penalty (Keskar et al. 2019, arXiv 1909.05858, section 4.1); what would repeat
    an n-gram or is not allowed is ruled out (the former only as long as something else is left);
    temperature; then the top k; of these the top p (Holtzman et al. 2020, arXiv 1904.09751: the fewest most
    probable tokens whose probabilities sum up to p or more; of equal ones the first stay); of these the typical
    ones (Meister et al. 2022, arXiv 2202.00666: the fewest tokens whose surprise is nearest to the entropy); of
    these what has min_p of the most probable one's probability (Nguyen et al. 2024, arXiv 2407.01082).

    The draw is the inverse of the cumulative distribution at a uniform number. Where a constraint is
    fulfilled, the end of the text takes part in the draw with the probability of all that is not allowed: the
    text ends there as often as the model would have left the constraint.
    """
    V = len(logits)
    if not np.isfinite(logits).all():
        return NOT_FINITE
    values = logits.astype(np.float64) if bias is None else logits + bias
    if sampler.repetition_penalty != 1:
        seen, penalty = np.unique(recent), sampler.repetition_penalty
        values[seen] = np.where(values[seen] > 0, values[seen] / penalty, values[seen] * penalty)
    allowed = np.ones(V, bool) if allowed is None else allowed
    for choice in (allowed & ~_would_repeat(recent, sampler.no_repeat_ngram, V), allowed):
        masked = np.where(choice, values, -np.inf)
        if masked.max() > -np.inf:
            break
    else:
        return END
    outside = np.where(allowed | (not ends), -np.inf, values)
    if temperature == 0:
        return END if outside.max() > masked.max() else int(np.argmax(masked))
    top = max(masked.max(), outside.max())
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to exp(-inf)
        weights = np.exp((masked - top) / temperature)
        if ends:
            weights = np.append(weights, np.exp((outside - top) / temperature).sum())
    _cut(weights, sampler)
    token = _at(weights, uniforms[0])
    if sampler.redraw and token != int(np.argmax(weights)):
        token = _at(weights, uniforms[1])
    return END if token == V else token


def _would_repeat(recent: np.ndarray, size: int, V: int) -> np.ndarray:
    """Which tokens (V,) would make an n-gram of that size that `recent` holds already."""
    banned = np.zeros(V, bool)
    if size and len(recent) >= size:
        grams = np.lib.stride_tricks.sliding_window_view(recent, size)
        same = (grams[:, :-1] == recent[len(recent) - size + 1 :]).all(axis=1)
        banned[grams[same, -1]] = True
    return banned


def _cut(weights: np.ndarray, sampler: Sampler) -> None:
    """Set to 0 the weights that the sampler leaves out."""
    if 0 < sampler.top_k < len(weights) or sampler.top_p < 1:
        _keep(weights, weights, sampler.top_k or len(weights), sampler.top_p)
    if sampler.typical < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.log(weights.sum()) - np.log(weights)
            entropy = np.sum(weights / weights.sum() * np.where(weights > 0, surprise, 0))
            _keep(weights, -np.abs(surprise - entropy), len(weights), sampler.typical)
    weights[weights < sampler.min_p * weights.max()] = 0


def _keep(weights: np.ndarray, keys: np.ndarray, most: int, share: float) -> None:
    """Keep the weights of the largest keys: at most so many, and of these the first that hold the share."""
    order = np.argsort(-keys, kind="stable")
    sums = np.cumsum(weights[order[:most]])
    kept = most if share >= 1 else 1 + int(np.searchsorted(sums, share * sums[-1], side="left"))
    weights[order[kept:]] = 0


def _at(weights: np.ndarray, uniform: float) -> int:
    cumulative, last = np.cumsum(weights), np.flatnonzero(weights)[-1]
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), last))


def score(logits: np.ndarray, token: int, scores: Scores, n: int, stream: int) -> None:
    """Write what logits (V,) say of a token, where scores are asked for."""
    if not len(scores.entropies):
        return
    shifted = logits.astype(np.float64) - float(logits.max())
    log_posterior = shifted - np.log(np.exp(shifted).sum())
    best = np.argsort(-log_posterior, kind="stable")[: scores.best.shape[2]]
    scores.log_probabilities[n, stream] = log_posterior[token]
    scores.entropies[n, stream] = -np.sum(np.exp(log_posterior) * log_posterior)
    scores.best[n, stream, :] = best
    scores.best_log_probabilities[n, stream, :] = log_posterior[best]
