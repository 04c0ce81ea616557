"""How a token is drawn: both forms of `draw` against a slow one written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import make_ops
from hypothesis import given, settings
from hypothesis import strategies as st

import charlstm
from charlstm import SamplingConfig
from charlstm.backends import SAMPLERS, Draws, Ops, Sampler, draw, numba_ops, plain_draws
from charlstm.backends.sampling import END, NOT_FINITE, empty_scores, score
from charlstm.model import LanguageModel

Draw = Callable[..., int]
NONE = np.empty(0, np.int64)


def compiled_draw(
    logits: np.ndarray,
    sampler: Sampler,
    temperature: float,
    uniforms: Sequence[float],
    recent: np.ndarray = NONE,
    bias: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    ends: bool = False,
) -> int:
    from charlstm.kernels import sampling

    record = np.array([tuple(sampler)], SAMPLERS)[0]
    bias = np.empty(0) if bias is None else bias
    allowed = np.empty(0, bool) if allowed is None else allowed
    space = sampling.room(len(logits))
    uniforms = np.array(uniforms, np.float64)
    return int(sampling.draw(logits, record, temperature, uniforms, recent, bias, allowed, ends, space))


def distribution(
    logits: Sequence[float],
    sampler: Sampler,
    temperature: float,
    recent: Sequence[int],
    bias: Sequence[float],
    allowed: Sequence[bool],
    ends: bool,
) -> dict[int, float]:
    """The probability of each token that may be drawn, of END as well, as the definitions have it."""
    values = [x + b for x, b in zip(logits, bias, strict=True)]
    for v in set(recent):
        penalty = sampler.repetition_penalty
        values[v] = values[v] / penalty if values[v] > 0 else values[v] * penalty
    n, tokens = sampler.no_repeat_ngram, range(len(logits))
    seen = {tuple(recent[k : k + n]) for k in range(len(recent) - n + 1)} if n else set()
    before = tuple(recent[len(recent) - n + 1 :])
    can = [v for v in tokens if allowed[v] and values[v] > -math.inf]
    fresh = [v for v in can if len(recent) < n - 1 or (*before, v) not in seen]
    chosen = fresh or can
    if not chosen:
        return {END: 1.0}
    outside = [v for v in tokens if ends and not allowed[v]]
    top = max(values[v] for v in chosen + outside)
    p = {v: math.exp((values[v] - top) / temperature) for v in chosen}
    if ends:
        p[len(logits)] = sum(math.exp((values[v] - top) / temperature) for v in outside)

    def normalised(some: list[int]) -> dict[int, float]:
        total = sum(p[v] for v in some)
        return {v: p[v] / total for v in some}

    def until(some: list[int], share: float) -> dict[int, float]:
        q, mass, kept = normalised(some), 0.0, []
        for v in some:
            kept.append(v)
            mass += q[v]
            if mass >= share:
                break
        return normalised(kept)

    p = normalised(sorted(p, key=lambda v: (-p[v], v))[: sampler.top_k or None])
    p = until(sorted(p, key=lambda v: (-p[v], v)), sampler.top_p) if sampler.top_p < 1 else p
    if sampler.typical < 1:
        entropy = -sum(q * math.log(q) for q in p.values() if q)
        by_surprise = {v: abs(-math.log(q) - entropy) if q else math.inf for v, q in p.items()}
        p = until(sorted(p, key=lambda v: (by_surprise[v], v)), sampler.typical)
    p = normalised([v for v in p if p[v] >= sampler.min_p * max(p.values())])
    return {END if v == len(logits) else v: q for v, q in p.items()}


def slow_draw(p: dict[int, float], uniforms: Sequence[float], redraw: bool) -> int:
    order = sorted(p, key=lambda v: math.inf if v == END else v)

    def at(uniform: float) -> int:
        mass = 0.0
        for v in order:
            mass += p[v]
            if mass > uniform:
                return v
        return order[-1]

    token = at(uniforms[0])
    return at(uniforms[1]) if redraw and p[token] < max(p.values()) else token


@st.composite
def situations(drawn: Any) -> dict[str, Any]:
    V = drawn(st.integers(1, 20))
    rng = np.random.default_rng(drawn(st.integers(0, 2**32)))
    chosen = lambda *values: drawn(st.sampled_from(values))  # noqa: E731
    recent = rng.integers(0, V, drawn(st.integers(0, 12)))
    sampler = Sampler(
        chosen(0, 1, 3, 25), chosen(1.0, 0.9, 0.4), chosen(1.0, 0.9, 0.4), chosen(0.0, 0.1, 0.9, 1.0),
        chosen(1.0, 1.3, 0.7), chosen(0, 1, 2, 3), len(recent), drawn(st.booleans()),
    )  # fmt: skip
    allowed = rng.random(V) < chosen(0.0, 0.5, 1.0) if drawn(st.booleans()) else None
    return {
        "logits": (drawn(st.sampled_from([0.5, 3, 20])) * rng.standard_normal(V)).astype(np.float32),
        "sampler": sampler,
        "temperature": chosen(0.2, 1.0, 3.0),
        "uniforms": rng.random(2),
        "recent": recent,
        "bias": np.where(rng.random(V) < 0.2, -np.inf, rng.standard_normal(V)) if drawn(st.booleans()) else None,
        "allowed": allowed,
        "ends": allowed is not None and drawn(st.booleans()),
    }  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(situations())
def test_draws_are_those_of_the_definitions(situation: dict[str, Any]) -> None:
    s, V = situation, len(situation["logits"])
    bias = [0.0] * V if s["bias"] is None else s["bias"].tolist()
    allowed = [True] * V if s["allowed"] is None else s["allowed"].tolist()
    p = distribution(
        s["logits"].tolist(), s["sampler"], s["temperature"], s["recent"].tolist(), bias, allowed, s["ends"]
    )
    expected = slow_draw(p, s["uniforms"], s["sampler"].redraw)
    assert draw(**s) == compiled_draw(**s) == expected


def test_many_tokens_are_drawn_as_few_are(rng: np.random.Generator) -> None:
    """Beyond some hundred candidates the compiled draw takes the first ones from a heap."""
    for _ in range(60):
        logits = (4 * rng.standard_normal(700)).round(1).astype(np.float32)  # with equal ones
        shares = rng.choice([1.0, 0.9], 2)
        sampler = Sampler(int(rng.choice([0, 5, 400])), float(shares[0]), float(shares[1]))
        uniforms = rng.random(1)
        assert draw(logits, sampler, 0.9, uniforms) == compiled_draw(logits, sampler, 0.9, uniforms)


@pytest.mark.parametrize("draws", [draw, compiled_draw])
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(top_k=2),
        Sampler(top_k=9),
        Sampler(top_p=0.5),
        Sampler(top_p=0.81),
        Sampler(min_p=0.2),
        Sampler(typical=0.6),
        Sampler(top_k=3, top_p=0.9, typical=0.7, min_p=0.1),
        Sampler(repetition_penalty=1.5, window=2),
        Sampler(no_repeat_ngram=1, window=2),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_have_the_frequencies_of_the_definitions(
    draws: Draw, sampler: Sampler, temperature: float, rng: np.random.Generator
) -> None:
    """Pearson's chi-square at the 0.1 % level (20.5 for 5 degrees of freedom); nothing that is cut is drawn."""
    logits, recent = np.log([0.1, 0.4, 0.049, 0.251, 0.15, 0.05]), np.array([3, 1])
    expected = distribution(
        logits.tolist(), sampler, temperature, recent.tolist(), [0] * 6, [True] * 6, False
    )
    counts = np.bincount(
        [draws(logits, sampler, temperature, u, recent) for u in rng.random((8000, 1))], minlength=6
    )
    assert set(np.flatnonzero(counts)) <= set(expected)
    assert sum((counts[v] - 8000 * q) ** 2 / (8000 * q) for v, q in expected.items()) < 20.5


@pytest.mark.parametrize("draws", [draw, compiled_draw])
def test_the_redraw_rule_squares_what_is_not_most_probable(draws: Draw, rng: np.random.Generator) -> None:
    """Drawn once again where it is not the most probable: p becomes p (1 - max), the largest 1 - the rest."""
    p = np.array([0.2, 0.5, 0.3])
    expected = 8000 * np.array([0.2 * 0.5, 0.5 + 0.5 * 0.5, 0.3 * 0.5])
    drawn = [draws(np.log(p), Sampler(redraw=True), 1.0, u) for u in rng.random((8000, 2))]
    assert np.sum((np.bincount(drawn, minlength=3) - expected) ** 2 / expected) < 13.8


@pytest.mark.parametrize("draws", [draw, compiled_draw])
@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-12])
def test_the_coldest_temperatures_take_the_most_probable(draws: Draw, temperature: float) -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    for uniform in (0.0, 0.3, np.nextafter(1, 0)):
        assert draws(logits, Sampler(), temperature, [uniform]) == 1
        assert draws(logits, Sampler(), temperature, [uniform], bias=np.array([0, -np.inf, 0])) == 2


@pytest.mark.parametrize("draws", [draw, compiled_draw])
def test_draws_at_the_ends_of_the_distribution(draws: Draw) -> None:
    logits = np.array([-np.inf, 0, 1, -800], np.float64)
    logits[0] = -900  # the first and the last have no weight at all
    assert draws(logits, Sampler(), 1.0, [0.0]) == 1
    assert draws(logits, Sampler(), 1.0, [np.nextafter(1, 0)]) == 2
    assert draws(logits, Sampler(top_p=0.1), 1.0, [0.999]) == 2


@pytest.mark.parametrize("draws", [draw, compiled_draw])
def test_where_nothing_is_left(draws: Draw) -> None:
    logits = np.array([0.0, 1.0, 2.0])
    nowhere, some = np.zeros(3, bool), np.array([True, False, False])
    assert draws(logits, Sampler(), 1.0, [0.5], allowed=nowhere) == END
    assert draws(logits, Sampler(), 1.0, [0.5], bias=np.array([-np.inf, 0, 0]), allowed=some) == END
    unigrams = Sampler(no_repeat_ngram=1, window=3)
    assert draws(logits, unigrams, 1.0, [0.5], np.array([0]), allowed=some) == 0  # rather again than nothing
    assert draws(logits, unigrams, 0.0, [0.5], np.array([2])) == 1
    for value in (np.nan, np.inf, -np.inf):
        assert draws(np.array([0.0, value]), Sampler(), 1.0, [0.5]) == NOT_FINITE


@pytest.mark.parametrize("draws", [draw, compiled_draw])
def test_the_end_has_the_probability_of_what_a_constraint_rules_out(
    draws: Draw, rng: np.random.Generator
) -> None:
    logits, allowed = np.log([0.5, 0.2, 0.3]), np.array([False, True, True])
    drawn = np.array(
        [draws(logits, Sampler(), 1.0, u, allowed=allowed, ends=True) for u in rng.random((4000, 1))]
    )
    assert abs((drawn == END).mean() - 0.5) < 0.03
    assert draws(logits, Sampler(), 0.0, [0.5], allowed=allowed, ends=True) == END
    assert draws(logits, Sampler(), 0.0, [0.5], allowed=~allowed, ends=True) == 0


def test_scores(rng: np.random.Generator) -> None:
    from charlstm.kernels import sampling

    logits = rng.standard_normal(9).round(1)
    both = empty_scores(1, 1, 4), empty_scores(1, 1, 4)
    score(logits, 5, both[0], 0, 0)
    sampling.score(logits, 5, both[1], 0, 0)
    p = np.exp(logits) / np.exp(logits).sum()
    for scores in both:
        assert scores.log_probabilities[0, 0] == pytest.approx(math.log(p[5]))
        assert scores.entropies[0, 0] == pytest.approx(-np.sum(p * np.log(p)))
        assert scores.best[0, 0].tolist() == np.argsort(-p, kind="stable")[:4].tolist()
        assert np.exp(scores.best_log_probabilities[0, 0]) == pytest.approx(np.sort(p)[::-1][:4])


# ---- the loop ----------------------------------------------------------------------------------


def mixed_draws(N: int, B: int, V: int, rng: np.random.Generator) -> Draws:
    """Streams of every kind: samplers of their own, biases, constraints, pasts and lengths."""
    samplers = [
        Sampler(), Sampler(9, 0.95), Sampler(typical=0.9, min_p=0.05), Sampler(redraw=True),
        Sampler(repetition_penalty=1.3, no_repeat_ngram=2, window=6),
    ]  # fmt: skip
    following = np.where(rng.random((3, V)) < 0.5, rng.integers(0, 3, (3, V)), -1).astype(np.int32)
    following[:, 0] = 2
    past = rng.integers(0, V, (B, 7))
    past[0, :5] = -1
    return Draws(
        rng.random((N, B, 2)), rng.choice([0.0, 0.7, 1.2], (N, B)),
        np.array([tuple(samplers[b % 5]) for b in range(B)], SAMPLERS), rng.standard_normal((B, V)), past,
        following, np.array([2, 1, 0]), np.array([False, False, True]), np.arange(B) % 4 - 1, N - np.arange(B) % 3,
    )  # fmt: skip


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("streams", [1, 3, 19])
@pytest.mark.parametrize("mixed", [False, True])
def test_tokens_of_every_backend(
    ops: Ops,
    dtype: str,
    layers: int,
    streams: int,
    mixed: bool,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same draws on each backend, at sizes that no vector divides, carried over two calls."""
    monkeypatch.setattr(numba_ops, "SMALLEST_PRODUCT", 1)  # streams on several threads
    if mixed:
        both = mixed_draws(25, streams, 11, rng), mixed_draws(15, streams, 11, rng)
    else:
        uniforms = rng.random((40, streams))
        both = tuple(plain_draws(part, 0.7, Sampler(9, 0.95), 11) for part in (uniforms[:25], uniforms[25:]))
    drawn = []
    for each in (ops, make_ops("numpy")):
        model = LanguageModel(11, 37, layers, 5, backend=each, dtype=dtype, seed=2)  # type: ignore[arg-type]
        model.parameters["head.weight"][...] *= 6
        weights = model.step_weights()
        logits, state = model.forward(np.full((1, streams), 3))
        first = each.generate(weights, logits[0, ...], *state, both[0], 2)
        going = first.counts == 25  # of the others nothing is said beyond their end
        second = each.generate(weights, first.logits, first.h, first.c, both[1], 2)
        again = each.generate(weights, logits[0, ...], *state, both[0], 2)
        assert np.array_equal(again.tokens, first.tokens)  # what it was given stayed as it was
        shapes = [(streams, 11), (layers, streams, 37), (layers, streams, 37)]
        assert [tuple(x.shape) for x in second[4:]] == shapes
        kept = [
            [part.tokens[: part.counts[b], b].tolist() for b in range(streams)] for part in (first, second)
        ]
        entropies = [first.scores.entropies[: first.counts[b], b] for b in range(streams)]
        drawn.append((kept[0], [kept[1][b] for b in np.flatnonzero(going)], first.counts.tolist(), entropies))
    assert drawn[0][:3] == drawn[1][:3]
    for ours, theirs in zip(drawn[0][3], drawn[1][3], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(set(drawn[0][0][0])) > 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_of_the_compiled_loop_do_not_depend_on_neighbours(
    dtype: str, rng: np.random.Generator
) -> None:
    """Bit for bit, so that a text is the same alone and in a batch."""
    ops = make_ops("numba")
    model = LanguageModel(65, 100, 2, backend=ops, dtype=dtype, seed=3)  # type: ignore[arg-type]
    weights, uniforms = model.step_weights(), rng.random((12, 21))
    logits, state = model.forward(rng.integers(0, 65, (1, 21)))
    together = ops.generate(weights, logits[0, ...], *state, plain_draws(uniforms, 1.0, V=65))
    for b in (0, 7, 20):
        alone = ops.generate(
            weights, logits[0, b : b + 1], *(part[:, b : b + 1] for part in state),
            plain_draws(uniforms[:, b : b + 1].copy(), 1.0, V=65),
        )  # fmt: skip
        assert np.array_equal(alone.logits[0], together.logits[b])


def test_draws_that_do_not_fit(ops: Ops) -> None:
    model = LanguageModel(5, 4, 1, backend=ops)
    logits, state = model.forward(np.zeros((1, 2), np.int64))
    good = plain_draws(np.zeros((3, 2)), 1.0, Sampler(window=2), 5)
    for wrong in (
        {"temperatures": np.ones((3, 1))},
        {"bias": np.zeros((2, 4))},
        {"past": np.full((2, 1), -1)},
        {"past": np.full((2, 2), 5)},
        {"states": np.array([0, -1])},
        {"samplers": np.array([tuple(Sampler(redraw=True))] * 2, SAMPLERS)},
    ):
        with pytest.raises(ValueError, match="do not fit"):
            model.ops.generate(model.step_weights(), logits[0, ...], *state, good._replace(**wrong))


# ---- what a user may ask for -----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "warm"},
        {"temperature": "1:2:3"},
        {"temperature": "0.5,-1"},
        {"temperature": ()},
        {"length": -1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"typical": 0.0},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-308},
        {"repetition_penalty": math.inf},
        {"no_repeat_ngram": -1},
        {"repetition_window": -1},
        {"stop": ("",)},
        {"stop": (3,)},
        {"logit_bias": ("e",)},
        {"logit_bias": ("=3",)},
        {"logit_bias": ("e=much",)},
        {"logit_bias": ("e=nan",)},
        {"logit_bias": {"e": math.inf}},
        {"seed": -1},
        {"top_k": 10**24},
        {"length": 10**24},
        {"no_repeat_ngram": 2**63},
    ],
)
def test_sampling_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(charlstm.UsageError, match=next(iter(wrong))):
        SamplingConfig(**wrong)


def test_temperatures() -> None:
    assert SamplingConfig(temperature="0.5").temperatures == (0.5,)
    assert SamplingConfig(temperature="0.5,1").temperatures == (0.5, 1.0)
    assert SamplingConfig(temperature=[0.5, 1]).temperatures == (0.5, 1)  # type: ignore[arg-type]
    falling = SamplingConfig(temperature="1.2:0")
    assert falling.falling
    assert falling.temperatures == (1.2, 0.0)
    assert not replace(falling, temperature=1.0).falling


def test_biases() -> None:
    assert SamplingConfig(logit_bias=("e=-2", "==3", " =-inf")).biases == {
        "e": -2,
        "=": 3,
        " ": -math.inf,
    }
    assert SamplingConfig(logit_bias={"e": -2.5}).biases == {"e": -2.5}
