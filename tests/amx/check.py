"""Products, layers and heads of `medium` and `high` on matrix registers, against their definitions.

python tests/amx/check.py [medium] [high]     # on a processor with AMX, or an emulated one (emulate.sh)

Sizes that no tile divides, and some that they do. Errors are relative to the largest number of an array.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from charlstm.kernels import features

from charlstm.backends import LayerInput, Ops, get_ops
from charlstm.backends.packing import tiles_are_right
from charlstm.backends.precision import bfloat16_engine

PRODUCTS = ((70, 200, 100), (256, 256, 256))  # M, K, N
LAYERS = ((5, 37, 72, 40), (3, 64, 128, 128))  # T, B, H, D
HEAD = (130, 72, 65)  # N, H, V
EXACT = 1e-6  # of sums in another order
ALLOWED = {"medium": 1e-2, "high": 1e-4}  # against float64
started = time.time()
failures = 0


def say(*words: object) -> None:
    print(f"[{time.time() - started:6.1f} s]", *words, flush=True)


def compare(what: str, ours: Any, theirs: Any, allowed: float) -> None:
    global failures
    error = max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(ours, theirs, strict=True))
    failures += not error <= allowed
    say(f"{what}: {error:.1e}, allowed {allowed:.0e}", "" if error <= allowed else "FAILED")


def rounded(x: np.ndarray) -> np.ndarray:
    """x as bfloat16, to the nearest even, in float64."""
    words = x.view(np.uint32)
    words = words + 0x7FFF + ((words >> 16) & 1)
    return (words & 0xFFFF0000).view(np.float32).astype(np.float64)


def layer(ops: Ops, kind: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """What a layer gives forward and backward."""
    x, W, R, table, h, c, dh = (array.astype(kind) for array in arrays)
    source, dR, dW = LayerInput(table, None, x, W), np.empty_like(R), np.empty_like(W)
    tape = ops.layer_forward(source, R, h, c)
    found = ops.layer_backward(dh.copy(), c, R, tape, source, dR, dW, True)
    return tape.h, tape.c, found.table, found.x, found.h0, found.c0, dR, dW


def head(ops: Ops, kind: str, arrays: list[np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, ...]:
    rows, weight, bias = (array.astype(kind) for array in arrays)
    dweight, dbias = np.empty_like(weight), np.empty_like(bias)
    loss, drows = ops.head_gradients(rows, weight, bias, targets, dweight, dbias)
    return np.array([loss]), drows, dweight, dbias


def check(precision: str) -> None:
    ops, reference = get_ops("numba", matmul_precision=precision), get_ops("numpy")  # type: ignore[arg-type]
    say(precision, "runs as", ops.matmul_precision)
    if ops.matmul_precision != precision:
        raise SystemExit("there is no such precision on this processor")
    rng, allowed = np.random.default_rng(0), ALLOWED[precision]

    def numbers(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 8).astype(np.float32)

    for M, K, N in PRODUCTS:
        a, b = numbers(M, K), numbers(K, N)
        found = [ops.matmul(a, b)]
        if precision == "medium":
            compare(f"product {M, K, N}, of rounded operands", found, [rounded(a) @ rounded(b)], EXACT)
        compare(f"product {M, K, N}", found, [a.astype(np.float64) @ b], allowed)
    for T, B, H, D in LAYERS:
        shapes = (T, B, D), (D, 3 * H), (H, 3 * H), (1, 3 * H), (B, H), (B, H), (T, B, H)
        arrays = [numbers(*shape) for shape in shapes]
        what = f"layer T {T} B {B} H {H} D {D}, forward and backward"
        compare(what, layer(ops, "float32", arrays), layer(reference, "float64", arrays), allowed)
    N, H, V = HEAD
    arrays, targets = [numbers(N, H), numbers(H, V), numbers(V)], rng.integers(0, V, N)
    compare(
        "head", head(ops, "float32", arrays, targets), head(reference, "float64", arrays, targets), allowed
    )


def main() -> int:
    words = set(Path("/proc/cpuinfo").read_text().split())
    say("cpu flags:", *sorted(word for word in words if word.startswith("amx") or word == "avx512_bf16"))
    say("no matrix registers:", features.NO_TILES)
    say("a product tried on them came out right:", tiles_are_right())
    say(bfloat16_engine())
    for precision in sys.argv[1:] or ALLOWED:
        check(precision)
    say(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
