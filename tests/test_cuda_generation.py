"""Tokens drawn on the emulated GPU are those that the host draws."""

from __future__ import annotations

import cuda_emulator
import numpy as np
import pytest
from conftest import make_ops

from charlstm.backends import PLAIN, SAMPLERS, Draws, Ops, Sampler, plain_draws
from charlstm.backends.token_loop import TokenLoop
from charlstm.model import LanguageModel

V = 300  # more than the threads of a block


def drawn(ops: Ops, draws: Draws, V: int = V, calls: int = 1, dtype: str = "float64") -> list[np.ndarray]:
    """Tokens of several calls in a row, and the last logits, h and c."""
    model = LanguageModel(V, 9, 2, backend=ops, dtype=dtype, seed=3)  # type: ignore[arg-type]
    model.parameters["head.weight"][...] = (
        9 * model.parameters["head.weight"]
    )  # some tokens likelier than others
    weights, B = model.step_weights(), draws.uniforms.shape[1]
    start = np.arange(B)[np.newaxis, :] % V
    logits, state = model.forward(start, model.zero_state(B))
    logits, h, c = logits[0], state.h, state.c
    tokens = []
    for _ in range(calls):
        found = ops.generate(weights, logits, h, c, draws)
        tokens.append(np.where(np.arange(len(found.tokens))[:, np.newaxis] < found.counts, found.tokens, -1))
        logits, h, c = found.logits, found.h, found.c
    return [*tokens, *(ops.to_numpy(x) for x in (logits, h, c))]


def agree(cuda: str, draws: Draws, V: int = V, calls: int = 1) -> None:
    assert TokenLoop.takes(draws, None)
    ours, theirs = (drawn(make_ops(name), draws, V, calls) for name in (cuda, "numpy"))
    for one, other in zip(ours[:calls], theirs[:calls], strict=True):
        assert np.array_equal(one, other)
    if (draws.remaining >= len(draws.uniforms)).all():
        for one, other in zip(ours[calls:], theirs[calls:], strict=True):
            assert np.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "sampler", [PLAIN, Sampler(min_p=0.2), Sampler(redraw=True), Sampler(0, min_p=0.05, redraw=True)]
)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1e-5, 50.0])
def test_samplers(cuda: str, sampler: Sampler, temperature: float, rng: np.random.Generator) -> None:
    agree(cuda, plain_draws(rng.random((7, 5)), temperature, sampler, V))


@pytest.mark.parametrize("size", [1, 2, 255, 257])
def test_vocabularies_of_any_size(cuda: str, size: int, rng: np.random.Generator) -> None:
    agree(cuda, plain_draws(rng.random((4, 3)), 1.0, PLAIN, size), size)


def test_uniform_numbers_at_the_ends(cuda: str) -> None:
    uniforms = np.array([[0.0, 1 - 2**-53], [1 - 2**-53, 0.0]])
    agree(cuda, plain_draws(uniforms, 1.0, PLAIN, V))
    agree(cuda, plain_draws(uniforms, 1e-3, PLAIN, V))


def test_streams_of_their_own(cuda: str, rng: np.random.Generator) -> None:
    """Each its temperatures, sampler and bias; one ends early; calls in a row are captured and replayed."""
    draws = plain_draws(rng.random((6, 4)), 1.0, Sampler(redraw=True), V)
    bias = rng.standard_normal((4, V))
    bias[1, : V // 2] = -np.inf
    samplers = [(*Sampler(min_p=0.1 * b)[:-1], b % 2 == 0) for b in range(4)]
    draws = draws._replace(
        bias=bias, samplers=np.array(samplers, SAMPLERS), temperatures=rng.choice([0, 0.5, 2], (6, 4))
    )
    agree(cuda, draws, calls=4)
    agree(cuda, draws._replace(remaining=np.array([6, 2, 9, 0])))


def test_all_tokens_come_in_one_launch(cuda: str, rng: np.random.Generator) -> None:
    ops = make_ops(cuda)
    draws = plain_draws(rng.random((8, 3)), 1.0, PLAIN, V)
    drawn(ops, draws, calls=1)
    model = LanguageModel(V, 9, 2, backend=ops, dtype="float32")
    weights, (logits, state) = model.step_weights(), model.forward(np.zeros((1, 3), int))
    for _ in range(2):
        ops.generate(weights, logits[0], *state, draws)
    waited = cuda_emulator.waits
    ops.generate(weights, logits[0], *state, draws)
    assert cuda_emulator.waits == waited + 2  # tokens, and whether all was finite


def test_what_only_the_host_draws(rng: np.random.Generator) -> None:
    draws = plain_draws(rng.random((2, 3)), 1.0, PLAIN, V)
    assert TokenLoop.takes(draws, None)
    assert not TokenLoop.takes(draws, 0)
    assert not TokenLoop.takes(draws._replace(states=np.array([-1, 0, -1])), None)
    nothing = np.full((3, V), -np.inf)
    assert not TokenLoop.takes(draws._replace(bias=nothing), None)
    for sampler in (Sampler(3), Sampler(top_p=0.9), Sampler(typical=0.9), Sampler(repetition_penalty=1.1),
                    Sampler(no_repeat_ngram=2)):  # fmt: skip
        draws = plain_draws(rng.random((2, 3)), 1.0, sampler, V)
        assert not TokenLoop.takes(draws, None)


def test_logits_that_are_no_numbers(cuda: str, rng: np.random.Generator) -> None:
    ops = make_ops(cuda)
    model = LanguageModel(V, 9, 2, backend=ops)
    model.parameters["head.bias"][200:] = np.inf
    logits, state = model.forward(np.zeros((1, 2), int))
    for remaining, fails in (([3, 3], True), ([0, 0], False)):
        draws = plain_draws(rng.random((3, 2)), 1.0, PLAIN, V)._replace(remaining=np.array(remaining))
        if fails:
            with pytest.raises(FloatingPointError, match="not finite"):
                ops.generate(model.step_weights(), logits[0], *state, draws)
        else:
            assert ops.generate(model.step_weights(), logits[0], *state, draws).counts.tolist() == [0, 0]
