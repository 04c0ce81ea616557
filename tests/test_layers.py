"""Whole layers, products and the head of every backend, against plain NumPy sums in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_ops import TOLERANCE, recurrence_inputs

from charlstm.backends import LayerInput, Ops, fused_ops, get_ops, numba_ops, packing

pytestmark = pytest.mark.usefixtures("smallest_shards")


@pytest.fixture(params=["shards of any size", "shards worth a thread"])
def smallest_shards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: everything shared out and on the tile engine, and small work on one thread."""
    if request.param == "shards of any size":
        if "ops" in request.fixturenames and request.getfixturevalue("ops").name != "numba":
            pytest.skip("only the numba backend has shards")
        for module in (numba_ops, fused_ops):
            monkeypatch.setattr(module, "SMALLEST_PRODUCT", 1)
            monkeypatch.setattr(module, "SMALLEST_LOOP", 1)
        monkeypatch.setattr(packing, "SMALLEST_LOOP", 1)
        monkeypatch.setattr(fused_ops, "SMALLEST_PACKED", 1)


@pytest.mark.parametrize("H", [1, 7, 16, 100, 257])
@pytest.mark.parametrize("B", [1, 3, 8, 50])
def test_layers_agree_at_odd_sizes(ops: Ops, dtype: str, H: int, B: int) -> None:
    """A whole layer, forward with and without a tape, and backward, against plain NumPy sums."""
    T, V = 11, 6  # with 50 rows several pieces of time steps, the last one smaller
    rng = np.random.default_rng([H, B])
    exact = get_ops("numpy")
    wx, R, h0, c0 = recurrence_inputs(T, B, H, dtype)
    table, W, square = (rng.standard_normal((n, 3 * H)).astype(dtype) for n in (V, 5, H))
    x, wide = (rng.standard_normal((T, B, D)).astype(dtype) for D in (5, H))
    ids = rng.integers(0, V, (T, B))
    dh, dc = rng.standard_normal((T, B, H)).astype(dtype), rng.standard_normal((B, H)).astype(dtype)
    for source in (
        LayerInput(table, ids),
        LayerInput(table[:1], None, x, W),
        LayerInput(table, ids, x, W),
        LayerInput(table[:1], None, wide, square),  # dx may take the place of dh
        LayerInput(wx.reshape(T * B, 3 * H), np.arange(T * B).reshape(T, B)),
    ):
        read = source.table[np.zeros((T, B), int) if source.ids is None else source.ids].astype("float64")
        if source.x is not None:
            read = read + source.x.astype("float64") @ source.W.astype("float64")
        tape = exact.cifg_forward(read, *(array.astype("float64") for array in (R, h0, c0)))
        da, dh0, dc0 = exact.cifg_backward(
            dh.astype("float64"), dc.astype("float64"), R.astype("float64"), tape
        )
        rows = da.reshape(T * B, 3 * H)
        dtable = np.zeros(source.table.shape)
        np.add.at(dtable, np.zeros(T * B, int) if source.ids is None else source.ids.reshape(-1), rows)

        there = LayerInput(*(None if array is None else ops.asarray(array) for array in source))
        R_there, h_there, c_there = (ops.asarray(array) for array in (R, h0, c0))
        kept = ops.layer_forward(there, R_there, h_there, c_there)
        h, c_last = ops.layer_outputs(there, R_there, h_there, c_there)
        dR = ops.empty((H, 3 * H), kept.h.dtype)
        dW = None if source.W is None else ops.empty(source.W.shape, kept.h.dtype)
        back = ops.layer_backward(ops.asarray(dh.copy()), ops.asarray(dc), R_there, kept, there, dR, dW)
        pairs = [
            (kept.h, tape.h),
            (kept.c, tape.c),
            (kept.gates, tape.gates),
            (h, tape.h),
            (c_last, tape.c[-1]),
        ]
        pairs += [(back.table, dtable), (back.h0, dh0), (back.c0, dc0)]
        pairs.append((dR, tape.h[:-1].reshape(T * B, H).T @ rows))
        if source.x is not None:
            pairs += [
                (dW, source.x.reshape(T * B, -1).astype("float64").T @ rows),
                (back.x, da @ source.W.astype("float64").T),
            ]
        for ours, expected in pairs:
            assert ours.dtype == kept.h.dtype
            scale = max(1.0, float(np.max(np.abs(expected))))
            assert_allclose(ops.to_numpy(ours), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 5, 7), (300, 70, 130), (70, 300, 65), (1000, 3, 48), (129, 257, 97)]
)
def test_products(ops: Ops, dtype: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Every combination of a matrix, a view that transposes one, and one with strides."""
    M, K, N = shape
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    expected = a.astype("float64") @ b.astype("float64")

    def forms(array: np.ndarray) -> list[Any]:
        wide = np.zeros((array.shape[0], 2 * array.shape[1]), array.dtype)
        wide[:, ::2] = array
        return [ops.asarray(array), ops.asarray(np.ascontiguousarray(array.T)).T, ops.asarray(wide)[:, ::2]]

    for left in forms(a):
        for right in forms(b):
            out = ops.empty((M, N), left.dtype)
            for product in (ops.matmul(left, right), ops.matmul(left, right, out=out)):
                assert_allclose(ops.to_numpy(product), expected, rtol=0, atol=K * TOLERANCE[dtype] / 3)


@pytest.mark.parametrize(
    "shape", [(1, 1, 2), (5, 3, 1), (40, 9, 13), (700, 33, 65), (350, 16, 200), (200, 20, 1000)]
)
def test_head(ops: Ops, dtype: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    N, H, V = shape
    rows, weight, bias = (rng.standard_normal(s).astype(dtype) for s in ((N, H), (H, V), (V,)))
    targets = rng.integers(0, V, N)
    logits = rows.astype("float64") @ weight.astype("float64") + bias
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(posterior[np.arange(N), targets]).mean()
    dlogits = posterior.copy()
    dlogits[np.arange(N), targets] -= 1
    dlogits /= N
    arrays = [ops.asarray(array) for array in (rows, weight, bias, targets)]
    loss, confidence = ops.head_loss(*arrays)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert confidence == pytest.approx(posterior.max(axis=1).mean(), rel=1e-5)
    dweight, dbias = ops.empty((H, V), arrays[0].dtype), ops.empty((V,), arrays[0].dtype)
    loss, drows = ops.head_gradients(*arrays, dweight, dbias)
    assert loss == pytest.approx(expected, rel=1e-5)
    for ours, reference in (
        (drows, dlogits @ weight.astype("float64").T),
        (dweight, rows.astype("float64").T @ dlogits),
        (dbias, dlogits.sum(axis=0)),
    ):
        assert_allclose(ops.to_numpy(ours), reference, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("rising", [1, -1])
def test_logits_far_apart_in_a_large_vocabulary(ops: Ops, dtype: str, rising: int) -> None:
    """The largest logits come in the last block of the vocabulary, or in the first."""
    V, targets = 2000, np.array([0, 1999, 1000])
    bias = rising * np.linspace(-300, 300, V)
    expected = np.log(np.exp(bias - 300).sum()) + 300 - bias[targets]
    rows, weight = np.zeros((3, 4), dtype), np.zeros((4, V), dtype)
    arrays = [ops.asarray(array) for array in (rows, weight, bias.astype(dtype), targets)]
    assert ops.head_loss(*arrays)[0] == pytest.approx(expected.mean(), rel=1e-5)
    dweight, dbias = ops.empty((4, V), arrays[0].dtype), ops.empty((V,), arrays[0].dtype)
    assert ops.head_gradients(*arrays, dweight, dbias)[0] == pytest.approx(expected.mean(), rel=1e-5)
    posterior = np.exp(bias - 300) / np.exp(bias - 300).sum()
    posterior[targets] -= 1 / 3
    assert_allclose(ops.to_numpy(dbias), posterior, rtol=0, atol=1e-4 if dtype == "float32" else 1e-13)


T, B, H, D, V = 4, 3, 8, 5, 6
WRONG = {
    "ids": (IndexError, {"ids": np.full((T, B), V)}),
    "negative ids": (IndexError, {"ids": np.full((T, B), -1)}),
    "ids of another shape": (ValueError, {"ids": np.zeros((T, B + 1), int)}),
    "W": (ValueError, {"W": np.zeros((D - 1, 3 * H))}),
    "table": (ValueError, {"table": np.zeros((V, 3 * H + 1))}),
    "dtype": (TypeError, {"W": np.zeros((D, 3 * H), "float32")}),
    "integers": (TypeError, {"x": np.zeros((T, B, D), "int64")}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_layers_raise(wrong: str) -> None:
    """The compiled layers trust what they are given, so it is checked before."""
    ops = get_ops("numba", threads=2)
    _, R, h0, c0 = recurrence_inputs(T, B, H)
    good = LayerInput(np.zeros((V, 3 * H)), np.zeros((T, B), int), np.zeros((T, B, D)), np.zeros((D, 3 * H)))
    error, change = WRONG[wrong]
    tape, dh, dR = ops.layer_forward(good, R, h0, c0), np.zeros((T, B, H)), np.zeros((H, 3 * H))
    bad, dW = good._replace(**change), np.zeros((D, 3 * H))
    ops.layer_backward(dh, h0, R, tape, good, dR, dW)
    for run in (ops.layer_forward, ops.layer_outputs):
        with pytest.raises(error):
            run(bad, R, h0, c0)
    with pytest.raises(error):
        ops.layer_backward(dh, h0, R, tape, bad, dR, dW)


def test_what_does_not_fit_raises() -> None:
    ops = get_ops("numba", threads=2)
    _, R, h0, c0 = recurrence_inputs(T, B, H)
    source = LayerInput(np.zeros((V, 3 * H)), np.zeros((T, B), int))
    tape, dR, dh = ops.layer_forward(source, R, h0, c0), np.zeros((H, 3 * H)), np.zeros((T, B, H))
    rows, weight, bias, targets = np.zeros((9, H)), np.zeros((H, V)), np.zeros(V), np.zeros(9, int)
    for error, wrong in (
        (TypeError, lambda: ops.layer_backward(dh.astype("f4"), h0, R, tape, source, dR)),
        (ValueError, lambda: ops.layer_backward(dh, h0, R, tape, source, dR[1:])),
        (ValueError, lambda: ops.layer_backward(dh[1:], h0, R, tape, source, dR)),
        (ValueError, lambda: ops.cifg_backward(dh, h0, R, tape._replace(c=tape.c[1:]))),
        (TypeError, lambda: ops.head_loss(rows, weight.astype("f4"), bias, targets)),
        (IndexError, lambda: ops.head_loss(rows, weight, bias, targets + V)),
        (ValueError, lambda: ops.head_gradients(rows, weight, bias, targets, weight[1:].copy(), bias)),
        (ValueError, lambda: ops.matmul(np.zeros((9, 4)), np.zeros((5, 7)))),
        (ValueError, lambda: ops.matmul(np.zeros((9, 4)), np.zeros((4, 7)), np.zeros((8, 7)))),
    ):
        with pytest.raises(error):
            wrong()
    integers = np.arange(300 * 300).reshape(300, 300)
    assert np.array_equal(ops.matmul(integers, integers), integers @ integers)


def test_a_loss_that_is_not_finite_is_not_hidden(ops: Ops, dtype: str) -> None:
    rows, weight, targets = np.ones((50, 4), dtype), np.ones((4, 3), dtype), np.zeros(50, int)
    for value, seen in ((np.nan, np.isnan), (np.inf, lambda x: not np.isfinite(x))):
        rows[20, 1] = value
        arrays = [ops.asarray(array) for array in (rows, weight, np.zeros(3, dtype), targets)]
        dweight, dbias = ops.empty((4, 3), arrays[0].dtype), ops.empty((3,), arrays[0].dtype)
        with np.errstate(invalid="ignore"):
            assert seen(ops.head_loss(*arrays)[0])
            assert seen(ops.head_gradients(*arrays, dweight, dbias)[0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_layers(shape: tuple[int, int]) -> None:
    ops = get_ops("numba", threads=2)
    (T, B), H = shape, 8
    R, state = np.ones((H, 3 * H)), np.ones((B, H))
    source = LayerInput(np.zeros((2, 3 * H)), np.zeros((T, B), int))
    tape, dR = ops.layer_forward(source, R, state, state), np.ones((H, 3 * H))
    assert np.array_equal(ops.layer_outputs(source, R, state, state)[1], state)
    layer = ops.layer_backward(np.zeros((T, B, H)), state, R, tape, source, dR)
    assert not dR.any()
    assert not layer.table.any()
    assert not layer.h0.any()
    assert np.array_equal(layer.c0, state)


def test_arrays_that_cannot_be_written_are_left_alone(rng: np.random.Generator) -> None:
    ops, (T, B, H) = get_ops("numba", threads=2), (3, 4, 5)
    x, dh = rng.standard_normal((2, T, B, H))
    W, R = rng.standard_normal((2, H, 3 * H))
    dh.flags.writeable = False
    before, state, dR, dW = dh.copy(), np.zeros((B, H)), np.empty((H, 3 * H)), np.empty((H, 3 * H))
    source = LayerInput(np.zeros((1, 3 * H)), None, x, W)
    tape = ops.layer_forward(source, R, state, state)
    layer = ops.layer_backward(dh, state, R, tape, source, dR, dW)
    assert np.array_equal(dh, before)
    assert np.array_equal(ops.layer_backward(dh.copy(), state, R, tape, source, dR, dW).x, layer.x)
