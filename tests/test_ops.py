"""Every op of every backend against plain references that share no code with it."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from charlstm.backends import BACKENDS, CIFGTape, Ops, mask_key
from charlstm.backends.fused_ops import FusedOps
from charlstm.verification import directional_error

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
SHAPES = [(1, 1, 1), (4, 1, 5), (5, 3, 16), (3, 50, 7), (2, 8, 37)]


def recurrence_inputs(T: int, B: int, H: int, dtype: str = "float64", seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng([T, B, H, seed])
    return [
        rng.standard_normal((T, B, 3 * H)).astype(dtype),
        (rng.standard_normal((H, 3 * H)) / math.sqrt(H)).astype(dtype),
        rng.uniform(-1, 1, (B, H)).astype(dtype),
        rng.standard_normal((B, H)).astype(dtype),
    ]


def run_forward(ops: Ops, inputs: list[np.ndarray]) -> CIFGTape:
    return ops.cifg_forward(*(ops.asarray(x) for x in inputs))


def numpy_tape(ops: Ops, tape: CIFGTape) -> CIFGTape:
    return CIFGTape(*(ops.to_numpy(x) for x in tape))


def scalar_cifg(wx: np.ndarray, R: np.ndarray, h0: np.ndarray, c0: np.ndarray) -> CIFGTape:
    """The equations of the paper, one number at a time, with the exponential written out."""
    T, B, G = wx.shape
    H = G // 3
    h, c = np.zeros((T + 1, B, H)), np.zeros((T + 1, B, H))
    gates = np.zeros((T, B, G))
    h[0], c[0] = h0, c0

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for t in range(T):
        for b in range(B):
            for k in range(H):
                a = [
                    wx[t, b, n * H + k] + sum(h[t, b, j] * R[j, n * H + k] for j in range(H))
                    for n in range(3)
                ]
                i, o, g = logistic(a[0]), logistic(a[1]), math.tanh(a[2])
                f = 1 - i
                c[t + 1, b, k] = f * c[t, b, k] + i * g
                h[t + 1, b, k] = o * math.tanh(c[t + 1, b, k])
                gates[t, b, k], gates[t, b, H + k], gates[t, b, 2 * H + k] = i, o, g
    return CIFGTape(h, c, gates)


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_equations(ops: Ops, dtype: str, shape: tuple[int, int, int]) -> None:
    inputs = recurrence_inputs(*shape, dtype)
    expected = scalar_cifg(*(x.astype(np.float64) for x in inputs))
    for ours, reference in zip(numpy_tape(ops, run_forward(ops, inputs)), expected, strict=True):
        assert ours.dtype == dtype
        assert_allclose(ours, reference, rtol=0, atol=TOLERANCE[dtype])


def recurrence_loss(ops: Ops, inputs: list[np.ndarray], dh: np.ndarray, dc: np.ndarray) -> float:
    tape = numpy_tape(ops, run_forward(ops, inputs))
    return float(np.sum(tape.h[1:] * dh) + np.sum(tape.c[-1] * dc))


def run_backward(
    ops: Ops, inputs: list[np.ndarray], dh: np.ndarray, dc: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Gradients by wx, R, h0 and c0 on the host."""
    tape = run_forward(ops, inputs)
    dwx, dh0, dc0 = (
        ops.to_numpy(x)
        for x in ops.cifg_backward(ops.asarray(dh), ops.asarray(dc), ops.asarray(inputs[1]), tape)
    )
    h = ops.to_numpy(tape.h)[:-1]
    return dwx, np.einsum("tbh,tbg->hg", h, dwx), dh0, dc0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("varied", ["wx", "R", "h0", "c0"])
def test_recurrence_gradients(
    ops: Ops, shape: tuple[int, int, int], varied: str, rng: np.random.Generator
) -> None:
    T, B, H = shape
    inputs = recurrence_inputs(*shape)
    dh, dc = rng.standard_normal((T, B, H)), rng.standard_normal((B, H))
    which = ["wx", "R", "h0", "c0"].index(varied)
    direction = rng.standard_normal(inputs[which].shape)

    def along(size: float) -> float:
        moved = [x + size * direction if k == which else x for k, x in enumerate(inputs)]
        return recurrence_loss(ops, moved, dh, dc)

    derivative = float(np.sum(run_backward(ops, inputs, dh, dc)[which] * direction))
    assert directional_error(along, derivative) <= 1e-7


def test_backward_in_float32_agrees_with_float64(ops: Ops, rng: np.random.Generator) -> None:
    inputs = recurrence_inputs(6, 5, 19)
    dh, dc = rng.standard_normal((6, 5, 19)), rng.standard_normal((5, 19))
    exact = run_backward(ops, inputs, dh, dc)
    single = run_backward(
        ops, [x.astype("float32") for x in inputs], dh.astype("float32"), dc.astype("float32")
    )
    for ours, reference in zip(single, exact, strict=True):
        assert ours.dtype == np.float32
        assert np.max(np.abs(ours - reference)) <= 2e-5 * np.max(np.abs(reference))


def test_chunks_with_carried_state_equal_the_whole(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    wx, R, h0, c0 = recurrence_inputs(9, 4, 11, dtype)
    dh, dc = rng.standard_normal((9, 4, 11)).astype(dtype), rng.standard_normal((4, 11)).astype(dtype)
    whole = numpy_tape(ops, run_forward(ops, [wx, R, h0, c0]))
    first = numpy_tape(ops, run_forward(ops, [wx[:5], R, h0, c0]))
    second = numpy_tape(ops, run_forward(ops, [wx[5:], R, first.h[-1], first.c[-1]]))
    assert_allclose(np.concatenate((first.h, second.h[1:])), whole.h, rtol=0, atol=TOLERANCE[dtype])
    assert_allclose(np.concatenate((first.c, second.c[1:])), whole.c, rtol=0, atol=TOLERANCE[dtype])

    dwx, _, dh0, dc0 = run_backward(ops, [wx, R, h0, c0], dh, dc)
    late = run_backward(ops, [wx[5:], R, first.h[-1], first.c[-1]], dh[5:], dc)
    into_first = dh[:5].copy()
    into_first[-1] += late[2]
    early = run_backward(ops, [wx[:5], R, h0, c0], into_first, late[3])
    assert_allclose(np.concatenate((early[0], late[0])), dwx, rtol=0, atol=10 * TOLERANCE[dtype])
    assert_allclose(early[2], dh0, rtol=0, atol=10 * TOLERANCE[dtype])
    assert_allclose(early[3], dc0, rtol=0, atol=10 * TOLERANCE[dtype])


def test_a_step_is_a_sequence_of_one(ops: Ops, dtype: str) -> None:
    wx, R, h0, c0 = recurrence_inputs(1, 3, 13, dtype)
    tape = numpy_tape(ops, run_forward(ops, [wx, R, h0, c0]))
    h, c = ops.cifg_step(*(ops.asarray(x) for x in (wx[0], R, h0, c0)))
    assert_allclose(ops.to_numpy(h), tape.h[1], rtol=0, atol=TOLERANCE[dtype])
    assert_allclose(ops.to_numpy(c), tape.c[1], rtol=0, atol=TOLERANCE[dtype])


def test_inputs_stay_as_they_were(ops: Ops, rng: np.random.Generator) -> None:
    inputs = [ops.asarray(x) for x in recurrence_inputs(4, 3, 8)]
    dh = ops.asarray(rng.standard_normal((4, 3, 8)))
    dc = ops.asarray(rng.standard_normal((3, 8)))
    before = [ops.to_numpy(x).copy() for x in (*inputs, dh, dc)]
    tape = ops.cifg_forward(*inputs)
    taped = [ops.to_numpy(x).copy() for x in tape]
    ops.cifg_backward(dh, dc, inputs[1], tape)
    for now, then in zip((*inputs, dh, dc, *tape), (*before, *taped), strict=True):
        assert np.array_equal(ops.to_numpy(now), then)


def test_two_live_tapes_stay_right(ops: Ops) -> None:
    one, other = recurrence_inputs(40, 16, 64, seed=1), recurrence_inputs(40, 16, 64, seed=2)
    first = run_forward(ops, one)
    kept = [ops.to_numpy(x).copy() for x in first]
    second = run_forward(ops, other)
    assert all(np.array_equal(ops.to_numpy(x), y) for x, y in zip(first, kept, strict=True))
    assert not np.array_equal(ops.to_numpy(first.h), ops.to_numpy(second.h))
    del first
    third = run_forward(ops, one)  # may use the memory of the first, not that of the second
    again = run_forward(ops, other)
    assert np.array_equal(ops.to_numpy(second.h), ops.to_numpy(again.h))
    assert all(np.array_equal(ops.to_numpy(x), y) for x, y in zip(third, kept, strict=True))


def test_arrays_that_are_not_contiguous(ops: Ops, rng: np.random.Generator) -> None:
    inputs = recurrence_inputs(4, 3, 8)
    dh, dc = rng.standard_normal((4, 3, 8)), rng.standard_normal((3, 8))
    expected = run_backward(ops, inputs, dh, dc)

    def strided(x: np.ndarray) -> np.ndarray:
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return wide

    wide = [ops.asarray(strided(x))[..., ::2] for x in (*inputs, dh, dc)]
    turned = [ops.asarray(np.asfortranarray(x)) for x in (*inputs, dh, dc)]
    for wx, R, h0, c0, dh, dc in (wide, turned):
        tape = ops.cifg_forward(wx, R, h0, c0)
        dwx, dh0, dc0 = ops.cifg_backward(dh, dc, R, tape)
        for ours, reference in zip((dwx, dh0, dc0), (expected[0], *expected[2:]), strict=True):
            assert_allclose(ops.to_numpy(ours), reference, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4)])
def test_empty_sequences_and_batches(ops: Ops, shape: tuple[int, int, int]) -> None:
    T, B, H = shape
    inputs = recurrence_inputs(*shape)
    dc = np.ones((B, H))
    tape = numpy_tape(ops, run_forward(ops, inputs))
    assert tape.h.shape == (T + 1, B, H)
    assert np.array_equal(tape.h[0], inputs[2])
    dwx, dR, dh0, dc0 = run_backward(ops, inputs, np.zeros((T, B, H)), dc)
    assert dwx.shape == (T, B, 3 * H)
    assert not dR.any()
    assert not dh0.any()
    assert np.array_equal(dc0, dc) or T


def test_the_cell_stays_within_its_bound(ops: Ops) -> None:
    wx, R, h0, c0 = recurrence_inputs(50, 4, 8)
    tape = numpy_tape(ops, run_forward(ops, [100 * wx, R, h0, c0]))
    assert np.max(np.abs(tape.c)) <= max(1, np.max(np.abs(c0))) + 1e-12
    assert np.isfinite(tape.h).all()


def test_nan_passes_through(ops: Ops) -> None:
    wx, R, h0, c0 = recurrence_inputs(2, 2, 5)
    wx[0, 1, 0] = np.nan
    tape = numpy_tape(ops, run_forward(ops, [wx, R, h0, c0]))
    assert np.isnan(tape.h[2, 1]).all()
    assert np.isfinite(tape.h[:, 0]).all()


@pytest.mark.parametrize("bad", ["float16", "int64", "complex128"])
def test_other_dtypes_are_refused(bad: str) -> None:
    for name in ("numpy", "numba"):
        from conftest import make_ops

        inputs = [x.astype(bad) for x in recurrence_inputs(2, 2, 3)]
        with pytest.raises(TypeError, match=f"{bad} is not supported: use float32 or float64"):
            make_ops(name).cifg_forward(*inputs)


def test_mixed_dtypes_and_wrong_shapes_are_refused(ops: Ops) -> None:
    wx, R, h0, c0 = recurrence_inputs(2, 2, 3)
    with pytest.raises(TypeError, match="share one dtype"):
        run_forward(ops, [wx.astype("float32"), R, h0, c0])
    for wrong in ([wx, R[:, :-1], h0, c0], [wx, R, h0[:1], c0], [wx[0], R, h0, c0], [wx, R, h0, c0.T]):
        with pytest.raises(ValueError, match=r"3H"):
            run_forward(ops, wrong)


# ---- the other ops ------------------------------------------------------------------------


def test_gather_and_scatter_rows(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    for V, D, N in ((3, 5, 40), (1100, 2, 64), (4, 40, 700), (2, 3, 0)):
        table = rng.standard_normal((V, D)).astype(dtype)
        ids = rng.integers(0, V, N)
        rows = rng.standard_normal((N, D)).astype(dtype)
        assert np.array_equal(ops.to_numpy(ops.gather_rows(ops.asarray(table), ops.asarray(ids))), table[ids])
        d = ops.asarray(table.copy())
        ops.scatter_add_rows(d, ops.asarray(ids), ops.asarray(rows))
        expected = table.astype(np.float64)
        np.add.at(expected, ids, rows)
        assert_allclose(ops.to_numpy(d), expected, rtol=0, atol=100 * TOLERANCE[dtype])


def test_matmul_large_enough_to_be_shared_out(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    a = rng.standard_normal((301, 97)).astype(dtype)
    b = rng.standard_normal((97, 203)).astype(dtype)
    expected = np.einsum("mk,kn->mn", a.astype(np.float64), b.astype(np.float64))
    out = ops.empty((301, 203), ops.asarray(a).dtype)
    ops.matmul(ops.asarray(a), ops.asarray(b), out=out)
    assert_allclose(ops.to_numpy(out), expected, rtol=0, atol=50 * TOLERANCE[dtype])
    transposed = ops.matmul(ops.asarray(b).T, ops.asarray(a).T)
    assert_allclose(ops.to_numpy(transposed), expected.T, rtol=0, atol=50 * TOLERANCE[dtype])


def test_softmax_cross_entropy(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    logits = (3 * rng.standard_normal((900, 30))).astype(dtype)
    targets = rng.integers(0, 30, 900)
    wide = logits.astype(np.float64)
    posterior = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    loss, dlogits = ops.softmax_cross_entropy(ops.asarray(logits), ops.asarray(targets))
    assert loss == pytest.approx(-np.log(posterior[np.arange(900), targets]).mean(), rel=1e-6)
    posterior_minus = posterior.copy()
    posterior_minus[np.arange(900), targets] -= 1
    assert_allclose(ops.to_numpy(dlogits), posterior_minus / 900, rtol=0, atol=TOLERANCE[dtype] / 100)
    assert_allclose(ops.to_numpy(ops.softmax(ops.asarray(logits))), posterior, atol=TOLERANCE[dtype])


def test_cross_entropy_of_huge_logits(ops: Ops, dtype: str) -> None:
    logits = np.array([[1e30, 0.0, -1e30], [-800.0, -801.0, -1e30]], dtype)
    loss, dlogits = ops.softmax_cross_entropy(ops.asarray(logits), ops.asarray(np.array([0, 1])))
    assert loss == pytest.approx((0 + math.log(1 + math.e)) / 2, rel=1e-5)
    assert np.isfinite(ops.to_numpy(dlogits)).all()


def test_global_norm(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    flat = rng.standard_normal(200_001).astype(dtype)
    expected = math.sqrt(math.fsum(flat.astype(np.float64) ** 2))
    assert ops.global_norm(ops.asarray(flat)) == pytest.approx(expected, rel=1e-9)


def test_dropout_masks_keep_the_mean_and_repeat(ops: Ops, dtype: str) -> None:
    shape = (50, 40, 30)

    def drawn(seed: int, layer: int, kind: int) -> np.ndarray:
        return ops.to_numpy(ops.dropout_mask(shape, 0.3, dtype, mask_key((1, seed)), (layer, kind)))

    mask = drawn(2, 3, 4)
    assert mask.dtype == dtype
    assert np.mean(mask == 0) == pytest.approx(0.3, abs=0.01)
    assert mask.mean() == pytest.approx(1, abs=0.02)
    assert np.unique(mask[mask > 0]) == pytest.approx(1 / 0.7, rel=1e-4)
    assert np.array_equal(mask, drawn(2, 3, 4))
    for other in ((3, 3, 4), (2, 4, 4), (2, 3, 3), (2, 4, 3)):
        assert not np.array_equal(mask, drawn(*other))
    again = ops.dropout_mask(shape, 0.3, dtype, mask_key((1, 2)), (3, 4))
    assert np.array_equal(ops.to_numpy(ops.multiply(ops.asarray(2 * np.ones(shape, dtype)), again)), 2 * mask)


def test_every_backend_drops_what_numpy_draws(ops: Ops, dtype: str) -> None:
    """Sizes that end within a counter's words, and some that threads share."""
    key = mask_key((5, 9))
    for size, place in ((1, (0, 0)), (16, (1, 0)), (17, (0, 2)), (5000, (7, 4)), (140_001, (1, 3))):
        words = np.random.Philox(key=key, counter=(0, 0, *place)).random_raw(-(-size // 4))
        kept = words.astype("<u8").view("<u2")[:size] >= 1 << 14
        mask = ops.to_numpy(ops.dropout_mask((size,), 0.25, dtype, key, place))
        assert np.array_equal(mask, np.where(kept, np.asarray(4 / 3, dtype), 0))


@pytest.mark.parametrize("name", BACKENDS)
def test_overriding_ops_have_the_contracts_signatures(name: str) -> None:
    module, _, cls_name = BACKENDS[name].partition(".")
    cls = getattr(__import__(f"charlstm.backends.{module}", fromlist=[cls_name]), cls_name)
    classes = [cls, FusedOps] if name == "numba" else [cls]
    overridden = [n for n in vars(Ops) if not n.startswith("_") and callable(vars(Ops)[n])]
    assert "cifg_forward" in overridden
    for cls, method in itertools.product(classes, overridden):
        assert inspect.signature(getattr(cls, method)) == inspect.signature(getattr(Ops, method)), method
