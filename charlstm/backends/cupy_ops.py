"""The CuPy backend: fused CUDA kernels beside cuBLAS products, nothing that waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..errors import BackendError
from .cuda_kernels import NULL, blocks_for
from .cupy_device import cupy_unavailable
from .cupy_layers import CuPyLayers, DrawnMask
from .dropout import threshold_and_factor
from .optimizer import RULES, Update
from .precision import MatmulPrecision, on_device
from .sampling import Array, Drawn, Draws, StepWeights
from .token_loop import TokenLoop

PARTS = 256  # partial sums of a large array


class CuPyOps(CuPyLayers):
    """Ops on the current CUDA device.

    Losses, norms and penalties are read from the device where a caller asks for them; within a function
    that runs by `captured` they stay there, as 0-d arrays, and nothing waits.
    """

    name: ClassVar[str] = "cupy"

    def __init__(self, threads: int | None = None, matmul_precision: MatmulPrecision = "highest") -> None:
        """`threads` is accepted as by every backend; the host's threads have nothing to do here."""
        reason = cupy_unavailable()
        if reason:
            raise BackendError(f"the cupy backend cannot run here: {reason}")
        import cupy

        super().__init__(cupy)
        self.matmul_precision = on_device(matmul_precision)

    # ---- sampling -----------------------------------------------------------------------

    def stack_step(
        self, weights: StepWeights, tokens: Array, h: Array, c: Array
    ) -> tuple[Array, Array, Array]:
        logits = self.empty((tokens.shape[0], weights.bias.shape[0]), h.dtype)
        h, c = h.copy(), c.copy()
        self._step(weights, tokens, logits, h, c)
        return logits, h, c

    def _step(self, weights: StepWeights, tokens: Array, logits: Array, h: Array, c: Array) -> None:
        """`stack_step` in place."""
        L, B, H = h.shape
        gates = self.empty((B, 3 * H), h.dtype)
        for k in range(L):
            if k:
                self._gather(weights.b[k - 1 : k], None, gates)
                self._product(h[k - 1], weights.W[k - 1], gates, accumulate=True)
            else:
                self._gather(weights.table, tokens, gates)
            self._product(h[k], weights.R[k], gates, accumulate=True)
            self._activate(gates, c[k], c[k], h[k])
        self._gather(weights.bias[None, :], None, logits)
        self._product(h[-1], weights.head, logits, accumulate=True)

    def pack_step_weights(self, weights: StepWeights) -> StepWeights:
        loop = TokenLoop(self.xp, self._table, partial(self._step, weights), self.captured)
        return weights._replace(packed=loop)

    def generate(
        self,
        weights: StepWeights,
        logits: Array,
        h: Array,
        c: Array,
        draws: Draws,
        alternatives: int | None = None,
    ) -> Drawn:
        if not TokenLoop.takes(draws, alternatives):
            return super().generate(weights, logits, h, c, draws, alternatives)
        loop: TokenLoop = weights.packed or self.pack_step_weights(weights).packed
        return loop.generate(logits, h, c, draws)

    # ---- the head -----------------------------------------------------------------------

    def softmax(self, logits: Array) -> Array:
        logits, (N, V) = self.xp.ascontiguousarray(logits), logits.shape
        out = self.empty((N, V), logits.dtype)
        self._kernels(logits).launch("softmax", blocks_for(32 * N), logits, out, np.int64(N), np.int32(V))
        return out

    def head_loss(
        self, rows: Array, weight: Array, bias: Array, targets: Array, row_weights: Array | None = None
    ) -> tuple[float, float]:
        logits = self._product(rows, weight)
        loss, largest = self._cross_entropy(logits, bias, targets, 0.0, row_weights, None)
        return self._number(loss), self._number(largest)

    def head_gradients(
        self,
        rows: Array,
        weight: Array,
        bias: Array,
        targets: Array,
        dweight: Array,
        dbias: Array,
        smoothing: float = 0.0,
        transposed: bool = False,
        row_weights: Array | None = None,
    ) -> tuple[float, Array]:
        logits = self._product(rows, weight)
        loss, _ = self._cross_entropy(logits, bias, targets, smoothing, row_weights, logits)
        if transposed:
            self._product(logits.T, rows, dweight)
        else:
            self._product(rows.T, logits, dweight)
        dbias[...] = self.xp.sum(logits, axis=0)
        return self._number(loss), self._product(logits, weight.T)

    def _cross_entropy(
        self,
        logits: Array,
        bias: Array | None,
        targets: Array,
        smoothing: float,
        row_weights: Array | None,
        dlogits: Array | None,
    ) -> tuple[Array, Array]:
        """The loss and the largest posterior, averaged: 0-d. Writes dlogits, which may be the logits."""
        N, V = logits.shape
        weights, whole = NULL, NULL
        if row_weights is not None:
            weights = self.xp.ascontiguousarray(row_weights)
            whole = self._sum(weights, "real_parts")
        losses, largest = (self.empty((N,), self.xp.float64) for _ in range(2))
        arrays = (
            logits,
            NULL if bias is None else self.xp.ascontiguousarray(bias),
            self._ids(targets),
            weights,
            whole,
        )
        results = NULL if dlogits is None else dlogits, losses, largest
        sizes = np.float64(smoothing), *results, np.int64(N), np.int32(V)
        self._kernels(logits).launch("cross_entropy", blocks_for(32 * N), *arrays, *sizes)
        loss, confidence = (self._sum(x, "double_parts", whole, N, like=logits) for x in (losses, largest))
        return loss, confidence

    def _sum(
        self,
        x: Array,
        parts: str,
        total: Any = NULL,
        divisor: float = 1.0,
        root: bool = False,
        like: Any = None,
    ) -> Array:
        """A sum in float64 (), by the kernels of kernels/sums.cu; `like`: an array of the kernels' dtype."""
        kernels = self._kernels(x if like is None else like)
        count = max(1, min(PARTS, blocks_for(x.size)))
        sums, out = self.empty((count,), self.xp.float64), self.empty((), self.xp.float64)
        kernels.launch(parts, count, x, sums, np.int64(x.size))
        kernels.launch(
            "finish_sum", 1, sums, total, np.float64(divisor), np.int32(root), out, np.int32(count)
        )
        return out

    # ---- training -----------------------------------------------------------------------

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, dtype: str, key: Array, place: tuple[int, int]
    ) -> Array:
        return DrawnMask(shape, np.dtype(dtype), self.asarray(key), place, *threshold_and_factor(rate))

    def multiply(self, x: Array, factors: Array, out: Array | None = None) -> Array:
        if not isinstance(factors, DrawnMask) or tuple(x.shape) != factors.shape:
            return super().multiply(x, self._drawn(factors), out)
        x = self.xp.ascontiguousarray(x)
        in_place = out is not None and out.flags.c_contiguous
        result = out if in_place else self.empty(x.shape, x.dtype)
        self._drop("dropout_multiply", factors, result, x)
        if out is None or in_place:
            return result
        out[...] = result
        return out

    def global_norm(self, flat: Array) -> float:
        norm: float = self._number(self._sum(self.xp.ascontiguousarray(flat), "square_parts", root=True))
        return norm

    def clipping(self, norm: Any, limit: float) -> Any:
        if not isinstance(norm, self.xp.ndarray):
            return super().clipping(norm, limit)
        return limit / self.xp.maximum(norm, limit)

    def optimizer_update(
        self, update: Update, parameters: Array, gradients: Array, slots: Sequence[Array]
    ) -> None:
        rule, factor = RULES[update.rule], NULL
        if isinstance(update.gradient_scale, self.xp.ndarray):
            factor, update = update.gradient_scale, update._replace(gradient_scale=1.0)
        arrays = parameters, self.xp.ascontiguousarray(gradients), *slots
        numbers = (np.float64(x) for x in rule.numbers(update))
        size = parameters.size
        self._kernels(parameters).launch(
            rule.kernel, blocks_for(size), *arrays, np.int64(size), factor, *numbers
        )

    def move_towards(self, average: Array, parameters: Array, share: float) -> None:
        size = average.size
        arrays = average, parameters, np.int64(size), np.float64(share)
        self._kernels(average).launch("move_towards", blocks_for(size), *arrays)
