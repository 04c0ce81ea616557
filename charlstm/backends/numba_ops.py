"""The Numba backend: the batch sharded over threads, fused gate loops beside BLAS products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..kernels import compiling, cpu, dropout, generation, optimizers
from .checks import check_recurrence, weights_and_sum
from .dropout import threshold_and_factor
from .layers import CIFGTape
from .numpy_ops import NumPyOps
from .optimizer import RULES, Update
from .precision import MatmulPrecision
from .sampling import Array, Drawn, Draws, StepWeights, nothing_drawn
from .shards import SMALLEST_LOOP, ShardPool

SMALLEST_PRODUCT = 1 << 22  # multiply-adds: less is not worth a second thread


class NumbaOps(NumPyOps):
    """Ops on the host; each thread takes its rows of the batch through the whole sequence.

    Rows of a batch are independent, so the threads meet once per sequence, not once per step.
    """

    name: ClassVar[str] = "numba"

    def __init__(self, threads: int | None = None, matmul_precision: MatmulPrecision = "highest") -> None:
        super().__init__(threads, matmul_precision)
        self._shards = ShardPool(self._threads)

    def threads(self) -> int:
        return self._threads

    def compile_seconds(self) -> float:
        return float(compiling.compile_seconds())

    # ---- products and look-ups ----------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        M, K, N = a.shape[0], a.shape[1], b.shape[1]
        if out is None:
            out = self.empty((M, N), a.dtype)
        smallest = max(1, SMALLEST_PRODUCT // max(1, K * N))
        self._shards.run(lambda s, e: np.matmul(a[s:e], b, out=out[s:e]), M, smallest, blas=True)
        return out

    def gather_rows(self, table: Array, ids: Array) -> Array:
        table, ids = np.ascontiguousarray(table), np.ascontiguousarray(ids)
        D = table.shape[1]
        out = self.empty((ids.shape[0], D), table.dtype)
        self._shards.run(
            lambda s, e: cpu.gather_rows(table, ids[s:e], out[s:e]), ids.shape[0], SMALLEST_LOOP // D
        )
        return out

    def scatter_add_rows(self, d: Array, ids: Array, rows: Array) -> None:
        ids, rows = np.ascontiguousarray(ids), np.ascontiguousarray(rows)
        # each thread takes columns, so that no two of them add to the same number
        smallest = SMALLEST_LOOP // max(1, ids.shape[0])
        self._shards.run(lambda s, e: cpu.scatter_add_rows(d, ids, rows, s, e), d.shape[1], smallest)

    # ---- the recurrence -----------------------------------------------------------------

    def cifg_forward(self, wx: Array, R: Array, h0: Array, c0: Array) -> CIFGTape:
        T, B, H = check_recurrence(wx, R, h0, c0)
        wx, R = np.ascontiguousarray(wx), np.ascontiguousarray(R)
        h = self.empty((T + 1, B, H), wx.dtype)
        c = self.empty((T + 1, B, H), wx.dtype)
        gates = self.empty((T, B, 3 * H), wx.dtype)
        h[0], c[0] = h0, c0

        def shard(s: int, e: int) -> None:
            hR = np.empty((e - s, 3 * H), wx.dtype)
            for t in range(T):
                np.matmul(h[t, s:e], R, out=hR)
                cpu.gates_forward(wx[t, s:e], hR, c[t, s:e], gates[t, s:e], c[t + 1, s:e], h[t + 1, s:e])

        self._shards.run(shard, B, self._smallest_batch(T, H), blas=True)
        return CIFGTape(h, c, gates)

    def cifg_backward(
        self, dh: Array, dc_last: Array, R: Array, tape: CIFGTape
    ) -> tuple[Array, Array, Array]:
        T, B, H = dh.shape
        dh = np.ascontiguousarray(dh)
        R_transposed = np.ascontiguousarray(R.T)  # BLAS takes a third longer with R transposed in place
        dwx = self.empty((T, B, 3 * H), dh.dtype)
        dh_next = self.zeros((B, H), dh.dtype)
        dc = np.array(dc_last, order="C")

        def shard(s: int, e: int) -> None:
            for t in range(T - 1, -1, -1):
                cpu.gates_backward(
                    dh[t, s:e], dh_next[s:e], dc[s:e], tape.gates[t, s:e], tape.c[t, s:e],
                    tape.c[t + 1, s:e], dwx[t, s:e],
                )  # fmt: skip
                np.matmul(dwx[t, s:e], R_transposed, out=dh_next[s:e])

        self._shards.run(shard, B, self._smallest_batch(T, H), blas=True)
        return dwx, dh_next, dc

    def generate(
        self,
        weights: StepWeights,
        logits: Array,
        h: Array,
        c: Array,
        draws: Draws,
        alternatives: int | None = None,
    ) -> Drawn:
        logits, h, c = (np.array(x, order="C") for x in (logits, h, c))
        drawn = nothing_drawn(draws, logits, h, c, alternatives)
        self._draw(generation.generate, weights[:6], drawn, draws)
        return drawn

    def _draw(self, kernel: Any, weights: tuple[Any, ...], drawn: Drawn, draws: Draws) -> None:
        """Fill in what is drawn by a kernel that takes logits, h and c on in place; threads share the streams."""
        tokens, counts, states, scores, *state = drawn
        draws, N, finite = draws._replace(states=states), len(tokens), []
        history = np.concatenate((draws.past, np.zeros_like(tokens.T)), axis=1)

        def shard(s: int, e: int) -> None:
            finite.append(kernel(*weights, *state, draws, history, tokens, counts, scores, s, e))

        self._shards.run(shard, len(counts), max(1, SMALLEST_PRODUCT // max(1, N * weights[3].size)))
        if not all(finite):
            raise FloatingPointError("logits are not finite numbers")

    @staticmethod
    def _smallest_batch(T: int, H: int, D: int = 0) -> int:
        """The fewest rows that are worth a thread of their own for a sequence."""
        return max(1, SMALLEST_PRODUCT // max(1, T * (D + H) * 3 * H))

    def _sums(self, function: Callable[[int, int], float], n: int, smallest: int) -> float:
        """The sum over shards of what a function returns for each, always in the same order."""
        parts: dict[int, float] = {}

        def shard(s: int, e: int) -> None:
            parts[s] = function(s, e)

        self._shards.run(shard, n, smallest)
        return sum(parts[s] for s in sorted(parts))

    # ---- the head -----------------------------------------------------------------------

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, smoothing: float = 0.0, row_weights: Array | None = None
    ) -> tuple[float, Array]:
        logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets)
        N, V = logits.shape
        dlogits = self.empty((N, V), logits.dtype)
        weights, whole = weights_and_sum(row_weights, N, logits.dtype)
        scale, share = logits.dtype.type(1 / whole), logits.dtype.type(smoothing)

        def shard(s: int, e: int) -> float:
            parts = logits[s:e], targets[s:e], weights[s:e], dlogits[s:e]
            return float(cpu.softmax_cross_entropy(*parts, scale, share))

        return self._sums(shard, N, SMALLEST_LOOP // V) / whole, dlogits

    # ---- training -----------------------------------------------------------------------

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, dtype: str, key: Array, place: tuple[int, int]
    ) -> Array:
        (threshold, factor), mask = threshold_and_factor(rate), self.empty(shape, dtype)
        flat, keep = mask.reshape(-1), mask.dtype.type(factor)

        def shard(s: int, e: int) -> None:
            start, stop = s * dropout.DRAWS, e * dropout.DRAWS
            dropout.dropout_mask(key, *place, start, np.uint16(threshold), keep, flat[start:stop])

        self._shards.run(shard, -(-mask.size // dropout.DRAWS), SMALLEST_LOOP // dropout.DRAWS)
        return mask

    def multiply(self, x: Array, factors: Array, out: Array | None = None) -> Array:
        if out is None:
            out = self.empty(x.shape, x.dtype)

        def shard(s: int, e: int) -> None:
            np.multiply(x[s:e], factors if factors.shape[0] == 1 else factors[s:e], out=out[s:e])

        self._shards.run(shard, x.shape[0], SMALLEST_LOOP * x.shape[0] // max(1, x.size))
        return out

    def activation_gradients(self, dh: Array, h: Array, activation: float, temporal: float) -> float:
        T, B, H = h.shape
        h, size, changes = np.ascontiguousarray(h), max(1, h.size), max(1, h.size - B * H)
        numbers = h.dtype.type(2 * activation / size), h.dtype.type(2 * temporal / changes)
        sums: dict[int, tuple[float, float]] = {}

        def shard(s: int, e: int) -> None:
            sums[s] = cpu.activation_gradients(dh, h, *numbers, s, e)

        self._shards.run(shard, T, SMALLEST_LOOP // max(1, B * H))
        sizes, steps = (float(sum(sums[s][k] for s in sorted(sums))) for k in range(2))
        penalty: float = activation * sizes / size + temporal * steps / changes
        return penalty

    def global_norm(self, flat: Array) -> float:
        sums = self._sums(lambda s, e: cpu.sum_of_squares(flat[s:e]), flat.shape[0], SMALLEST_LOOP)
        return math.sqrt(sums)

    def optimizer_update(
        self, update: Update, parameters: Array, gradients: Array, slots: Sequence[Array]
    ) -> None:
        rule = RULES[update.rule]
        kernel, arrays = getattr(optimizers, rule.kernel), (parameters, gradients, *slots)
        numbers = [parameters.dtype.type(x) for x in rule.numbers(update)]
        self._shards.run(
            lambda s, e: kernel(*(array[s:e] for array in arrays), *numbers),
            parameters.shape[0],
            SMALLEST_LOOP,
        )

    def move_towards(self, average: Array, parameters: Array, share: float) -> None:
        number = average.dtype.type(share)
        self._shards.run(
            lambda s, e: optimizers.move_towards(average[s:e], parameters[s:e], number),
            average.shape[0],
            SMALLEST_LOOP,
        )
