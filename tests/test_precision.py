"""Products of bfloat16, against sums in float64 of operands rounded in NumPy, and how a precision is asked for.

Without the instructions for them the kernels compute the same products from float32, so packing and indexing are
checked on every machine whose vector registers are known.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from charlstm.kernels.vectors import REGISTERS
from conftest import TINY, charlstm_command, make_ops

import charlstm
from charlstm.backends import LayerInput, Ops, StepWeights, fused_ops, get_ops, numba_ops, packing, precision
from charlstm.backends.packing import Packer
from charlstm.training import reopen

SIZES = [(1, 1), (3, 7), (8, 16), (25, 33), (50, 100)]  # rows of the batch and units
known = pytest.mark.skipif(REGISTERS is None, reason="this machine's vector registers are not known")
paired = pytest.mark.skipif(
    REGISTERS is None or precision.bfloat16_unavailable() is not None,
    reason="the processor has no products of bfloat16",
)


ENGINES = ["vectors", "matrices"]


@pytest.fixture(params=ENGINES)
def medium(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ops:
    return packed_in(packing.PAIRS, request.param, monkeypatch)


@pytest.fixture(params=ENGINES)
def high(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ops:
    return packed_in(packing.SPLIT, request.param, monkeypatch)


def packed_in(numbers: type, engine: str, monkeypatch: pytest.MonkeyPatch) -> Ops:
    """On vector registers, or on matrix registers or what stands for them here."""
    for module in (numba_ops, fused_ops):
        monkeypatch.setattr(module, "SMALLEST_PRODUCT", 1)
    monkeypatch.setattr(fused_ops, "SMALLEST_PACKED", 1)
    monkeypatch.setattr(packing, "FEWEST_ROWS", 1)
    tiles = engine == "matrices"
    if tiles and REGISTERS is not None and REGISTERS.name != "avx512":
        pytest.skip("rows of matrix registers are as wide as vectors of AVX-512")
    ops = fused_ops.FusedOps(2)
    ops._packer = Packer(ops.empty, ops._shards, numbers, tiles=tiles)
    return ops


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 to the nearest bfloat16, of two equally near ones the even one; as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def assert_as_rounded(ours: np.ndarray, expected: np.ndarray) -> None:
    """Nearly all as exact as float32, few off by a rounding that went the other way: to round wrongly is 1e-3."""
    scale = max(1e-30, float(np.abs(expected).max()))
    errors = np.abs(ours - expected) / scale
    assert errors.max() < 8e-3
    assert errors.mean() < 2e-5


@known
@pytest.mark.parametrize(("B", "H"), SIZES)
def test_layers(medium: Ops, B: int, H: int) -> None:
    T, V, rng = 9, 5, np.random.default_rng([B, H])

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    ids, dh, dc = rng.integers(0, V, (T, B)), normal(T, B, H), normal(B, H)
    R, h0, c0 = normal(H, 3 * H) / np.float32(H**0.5), normal(B, H), normal(B, H)
    reference = make_ops("numpy")
    for D in (0, 5, H):
        table, x, W = normal(V, 3 * H), normal(T, B, D), normal(D, 3 * H)
        source = LayerInput(table, ids, x, W) if D else LayerInput(table, ids)
        tape = medium.layer_forward(source, R, h0, c0)
        h, c = h0, c0.astype(np.float64)
        for t in range(T):
            a = table[ids[t]] + rounded(x[t]) @ rounded(W) + rounded(h) @ rounded(R)
            gates, c, after = reference.gates_forward(a, c)
            h = after.astype(np.float32)
            for ours, expected in ((tape.gates[t], gates), (tape.c[t + 1], c), (tape.h[t + 1], h)):
                assert_as_rounded(ours, expected)
        h, c_last = medium.layer_outputs(source, R, h0, c0)
        assert np.array_equal(h, tape.h)
        assert np.array_equal(c_last, tape.c[-1])

        dR, dW = np.empty_like(R), np.empty_like(W)
        back = medium.layer_backward(dh.copy(), dc, R, tape, source, dR, dW if D else None)
        da, carry, dh_next = np.empty((T, B, 3 * H)), dc.astype(np.float64), np.zeros((B, H))
        gates, cells = tape.gates.astype(np.float64), tape.c.astype(np.float64)
        for t in reversed(range(T)):
            da[t], carry = reference.gates_backward(dh[t] + dh_next, carry, gates[t], cells[t], cells[t + 1])
            dh_next = rounded(da[t]) @ rounded(R).T
        rows, dtable = rounded(da).reshape(T * B, 3 * H), np.zeros(table.shape)
        np.add.at(dtable, ids.reshape(-1), da.reshape(T * B, 3 * H))
        pairs = [(back.table, dtable), (back.c0, carry), (back.h0, da[0] @ R.T)]
        pairs.append((dR, rounded(tape.h[:-1]).reshape(T * B, H).T @ rows))
        if D:
            pairs.append((dW, rounded(x).reshape(T * B, D).T @ rows))
            pairs.append((back.x, (rows @ rounded(W).T).reshape(T, B, D)))
        for ours, expected in pairs:
            assert_as_rounded(ours, expected)


@known
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (130, 33, 50), (300, 70, 130), (1000, 3, 48)])
def test_products(medium: Ops, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Of matrices and of views that transpose one."""
    M, K, N = shape
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((M, K), (K, N)))
    expected = rounded(a) @ rounded(b)
    for left in (a, np.ascontiguousarray(a.T).T):
        for right in (b, np.ascontiguousarray(b.T).T):
            np.testing.assert_allclose(medium.matmul(left, right), expected, rtol=0, atol=1e-6 * K)


@known
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 3), (40, 9, 13), (350, 16, 200), (200, 21, 1001)])
@pytest.mark.parametrize("transposed", [False, True])
def test_head(medium: Ops, shape: tuple[int, int, int], transposed: bool, rng: np.random.Generator) -> None:
    N, H, V = shape
    rows, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((N, H), (H, V), (V,)))
    targets, size = rng.integers(0, V, N), np.arange(N)
    logits = rounded(rows) @ rounded(weight) + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = float(-np.log(p[size, targets]).mean())
    loss, confidence = medium.head_loss(rows, weight, bias, targets)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert confidence == pytest.approx(float(p.max(axis=1).mean()), rel=1e-5)

    dweight, dbias = np.empty((V, H) if transposed else (H, V), np.float32), np.empty(V, np.float32)
    given = np.ascontiguousarray(weight.T).T if transposed else weight
    loss, drows = medium.head_gradients(rows, given, bias, targets, dweight, dbias, transposed=transposed)
    assert loss == pytest.approx(expected, rel=1e-5)
    p[size, targets] -= 1
    dlogits = p / N
    dW = rounded(rows).T @ rounded(dlogits)
    assert_as_rounded(drows, rounded(dlogits) @ rounded(weight).T)
    assert_as_rounded(dweight, dW.T if transposed else dW)
    assert_as_rounded(dbias, dlogits.sum(axis=0))


@known
@pytest.mark.parametrize(("B", "H"), SIZES)
def test_split_layers(high: Ops, B: int, H: int) -> None:
    """Against the same sums in float64: some 2^-16 off, where rounded operands would be 2^-8 off."""
    T, V, rng = 9, 5, np.random.default_rng([B, H])
    exact = make_ops("numpy")
    for D in (0, 5, H):
        shapes = (V, 3 * H), (T, B, D), (D, 3 * H), (H, 3 * H), (B, H), (B, H), (T, B, H), (B, H)
        table, x, W, R, h0, c0, dh, dc = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        R /= np.float32(H**0.5)
        ids, results = rng.integers(0, V, (T, B)), []
        for ops, kind in ((exact, np.float64), (high, np.float32)):
            parts = (table.astype(kind), ids, x.astype(kind), W.astype(kind))
            source = LayerInput(*(parts if D else parts[:2]))
            given = [array.astype(kind) for array in (R, h0, c0)]
            tape = ops.layer_forward(source, *given)
            dR, dW = np.empty(R.shape, kind), np.empty(W.shape, kind) if D else None
            back = ops.layer_backward(dh.astype(kind), dc.astype(kind), given[0], tape, source, dR, dW)
            results.append([*tape, dR, back.table, back.h0, back.c0, *([dW, back.x] if D else [])])
        for expected, ours in zip(*results, strict=True):
            errors = np.abs(ours - expected) / max(1.0, float(np.abs(expected).max()))
            assert errors.max() < 3e-4
            assert errors.mean() < 1e-5


@known
def test_split_products_and_head(high: Ops, rng: np.random.Generator) -> None:
    for M, K, N in ((3, 5, 7), (130, 33, 50), (300, 70, 130)):
        a, b = (rng.standard_normal(s).astype(np.float32) for s in ((M, K), (K, N)))
        expected, size = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b)
        for left in (a, np.ascontiguousarray(a.T).T):
            for right in (b, np.ascontiguousarray(b.T).T):
                assert (np.abs(high.matmul(left, right) - expected) < 4e-5 * size).all()
    exact = make_ops("numpy")
    for N, H, V in ((5, 3, 3), (350, 16, 200), (200, 21, 1001)):
        rows, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((N, H), (H, V), (V,)))
        targets, results = rng.integers(0, V, N), []
        for ops, kind in ((exact, np.float64), (high, np.float32)):
            given = [array.astype(kind) for array in (rows, weight, bias)]
            dweight, dbias = np.empty((H, V), kind), np.empty(V, kind)
            loss, drows = ops.head_gradients(*given, targets, dweight, dbias)
            results.append([np.array(loss), drows, dweight, dbias, np.array(ops.head_loss(*given, targets))])
        for expected, ours in zip(*results, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=4e-5 * np.abs(expected).max())


@known
def test_steps_are_those_of_whole_sequences(medium: Ops, rng: np.random.Generator) -> None:
    """To the bit: a network of one layer and one of three, read token by token."""
    V, B, H, T = 7, 5, 19, 6
    for L in (1, 3):
        shapes = (V, 3 * H), (L - 1, H, 3 * H), (L - 1, 3 * H), (L, H, 3 * H), (H, V), (V,)
        weights = StepWeights(*(rng.standard_normal(shape).astype(np.float32) for shape in shapes))
        ids, state = rng.integers(0, V, (T, B)), np.zeros((2, L, B, H), np.float32)
        rows, lasts = None, []
        for k in range(L):
            source = (
                LayerInput(weights.table, ids)
                if rows is None
                else LayerInput(weights.b[k - 1 : k], None, rows, weights.W[k - 1])
            )
            h, _ = medium.layer_outputs(source, weights.R[k], state[0, k], state[1, k])
            rows = h[1:]
            lasts.append(h[-1])
        for t in range(T):
            logits, *state = medium.stack_step(weights, ids[t], *state)
        assert np.array_equal(state[0], np.stack(lasts))
        expected = rounded(lasts[-1]) @ rounded(weights.head) + weights.bias
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@known
def test_a_number_that_is_none_stays(medium: Ops) -> None:
    """Every bit pattern of a NaN, also one whose rounding would carry into the sign."""
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    a, b = np.zeros((3, 40), np.float32), np.ones((40, 50), np.float32)
    a[:, 7] = nan
    assert np.isnan(medium.matmul(a, b)).all()
    assert np.isnan(medium.matmul(b.T.copy(), a.T.copy())).all()
    a[:, 7] = np.inf
    assert (medium.matmul(a, b) == np.inf).all()


@paired
def test_gradients_are_near_those_of_float64() -> None:
    """Of a whole network: directions within a percent."""
    sizes = {"hidden_size": 64, "num_layers": 2, "embedding_size": 32}
    x, y = np.random.default_rng(0).integers(0, 30, (2, 40, 12))
    exact = charlstm.LanguageModel(30, **sizes, backend="numpy", dtype="float64")
    _, wanted, _ = exact.loss_and_gradients(x, y, exact.zero_state(12))
    for asked, least, allowed in (("highest", 0, 1e-5), ("medium", 1e-4, 2e-2)):
        model = charlstm.LanguageModel(30, **sizes, backend="numba", matmul_precision=asked)
        _, gradients, _ = model.loss_and_gradients(x, y, model.zero_state(12))
        for name in wanted:
            error = np.linalg.norm(gradients[name] - wanted[name])
            size = np.linalg.norm(wanted[name])
            assert least * size <= error < allowed * size, (asked, name)


@paired
def test_float64_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 100)), rng.standard_normal((100, 100))
    ops = get_ops("numba", matmul_precision="medium")
    np.testing.assert_allclose(ops.matmul(a, b), a @ b, atol=1e-12)


@paired
def test_training_and_generation_at_medium(text: Path, tmp_path: Path) -> None:
    """A resumed run goes on with its precision; what was made with another is loaded with any."""
    out = tmp_path / "run"
    options = ("--data", text, *TINY[:-1], "numba", "--matmul-precision", "medium", "--max-steps", 5)
    assert charlstm_command("train", *options, "--out", out).returncode == 0
    assert json.loads((out / "env.json").read_text())["matmul_precision"] == "medium"
    assert reopen(out, charlstm.TrainingConfig(max_steps=8)).model.ops.matmul_precision == "medium"
    done = charlstm_command("train", "--resume", out, "--max-steps", 8)
    assert done.returncode == 0, done.stderr
    texts = [
        charlstm_command("generate", out, "--length", 30, "--matmul-precision", asked).stdout
        for asked in ("highest", "medium", "auto")
    ]
    assert all(len(each) >= 30 for each in texts)
    assert texts[1] == texts[2]


def test_what_cannot_be_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_told", set())
    with caplog.at_level(logging.WARNING, "charlstm"):
        for _ in range(2):
            assert get_ops("numpy", matmul_precision="medium").matmul_precision == "highest"
        assert get_ops("numpy", matmul_precision="auto").matmul_precision == "highest"
    assert [record.getMessage() for record in caplog.records] == [
        "matrix products are made with precision highest, not medium: the numpy backend has no such products"
    ]
    with pytest.raises(charlstm.UsageError, match="highest, high, medium, auto"):
        get_ops("numpy", matmul_precision="low")  # type: ignore[arg-type]


def test_backends_tell_what_auto_takes() -> None:
    described = json.loads(charlstm_command("backends", "--json").stdout)["backends"]
    told = {row["backend"]: row["matmul_precision"] for row in described if row["available"]}
    assert told["numpy"] == "highest"
    assert told["numba"] == get_ops("numba", matmul_precision="auto").matmul_precision


MACHINE_CODE = """
import re, sys
import numpy as np
from numba import typeof
from charlstm.kernels import features

features.NO_TILES = None
from charlstm.kernels import matrices, recurrence

assert not matrices.EMULATED
kinds = "2f4 2i8 3f4 4u4 4u4 3f4 3f4 3f4 3u4 2u4".split()
arrays = [np.empty((1,) * int(kind[0]), kind[1:]) for kind in kinds]
recurrence.forward.compile(tuple(map(typeof, (*arrays, True, 0, 1))))
print(*set(re.findall("(?:tile|tdp|ldtile)[a-z0-9]+", "".join(recurrence.forward.inspect_asm().values()))))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86")
def test_matrix_registers_are_written_as_instructions(tmp_path: Path) -> None:
    """Compiled for a processor that has them, not run."""
    features = [
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512bf16",
        "avx2",
        "fma",
        "amx-tile",
        "amx-bf16",
    ]
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": ",".join("+" + feature for feature in features),
    }
    command = [sys.executable, "-c", MACHINE_CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = {"ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"}
    assert wanted <= set(done.stdout.split())


@known
def test_matrix_registers_are_tried_before_they_are_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if REGISTERS is not None and REGISTERS.name != "avx512":
        pytest.skip("rows of matrix registers are as wide as vectors of AVX-512")
    tried = packing.tiles_are_right.__wrapped__
    monkeypatch.setattr(packing, "NO_TILES", "there are none")
    assert not tried()
    monkeypatch.setattr(packing, "NO_TILES", None)
    assert tried()  # on what stands for them, here
    monkeypatch.setattr(packing.products, "product", lambda a, panels, out, *rest: out.fill(0))
    assert not tried()
    assert "report this processor" in caplog.text
