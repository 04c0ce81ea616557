"""The Numba backend on machines whose vector registers it knows: fused layers, own products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import generation, head, products, recurrence, stepping
from ..kernels.gates import UNITS
from ..kernels.tiles import ROWS
from .checks import DTYPES, check_arrays, check_contiguous, check_ids, check_recurrence, weights_and_sum
from .layers import CIFGTape, LayerGradients, LayerInput
from .numba_ops import SMALLEST_PRODUCT, NumbaOps
from .packing import PAIRS, SPLIT, Packer, lanes_of, tiles_are_right
from .precision import MatmulPrecision
from .sampling import Array, Drawn, Draws, StepWeights, nothing_drawn
from .shards import SMALLEST_LOOP

ROWS_AT_ONCE = 160  # of da or of logits, gathered for a product: they must fit the nearest caches
DEPTH = 256  # steps of k that a transposed product takes at a time, likewise
SMALLEST_PACKED = 1 << 19  # multiply-adds of a product for which packing pays; fewer are left to BLAS


class FusedOps(NumbaOps):
    """Each thread takes its rows of the batch through a whole layer, input product included."""

    def __init__(self, threads: int | None = None, matmul_precision: MatmulPrecision = "highest") -> None:
        super().__init__(threads, matmul_precision)
        numbers = {"highest": None, "high": SPLIT, "medium": PAIRS}[self.matmul_precision]
        self._packer = Packer(
            self.empty, self._shards, numbers, tiles=numbers is not None and tiles_are_right()
        )

    # ---- products -----------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        (M, K), N = a.shape, b.shape[1]
        if out is None:
            out = self.empty((M, N), a.dtype)
        ours = a.dtype == b.dtype == out.dtype and a.dtype.name in DTYPES and out.flags.c_contiguous
        fits = b.shape[0] == K and out.shape == (M, N)  # where it does not, NumPy says so
        if M * K * N < SMALLEST_PACKED or not ours or not fits:
            return super().matmul(a, b, out)
        if a.flags.f_contiguous and not a.flags.c_contiguous:
            self._transposed_product(a.T, np.ascontiguousarray(b), out)
        else:
            self._product(np.ascontiguousarray(a), b, out)
        return out

    def _product(self, a: Array, b: Array, out: Array) -> None:
        panels = self._packer.panels(b, products.VECTORS)

        def shard(s: int, e: int) -> None:
            low = self._packer.low_rows(min(products.ROWS_AT_ONCE, e - s), a.shape[1], dtype=a.dtype)
            products.product(a, panels, out, low, self._packer.tiles(e - s, a.dtype), s, e)

        self._shards.run(shard, a.shape[0], max(ROWS, SMALLEST_PRODUCT // b.size))

    def _transposed_product(self, a: Array, b: Array, out: Array) -> None:
        K, M = a.shape
        depth, tiles = min(DEPTH, K), self._packer.tiles(M, a.dtype)
        columns = self._packer.columns(M, depth, a.dtype, tiles)

        def shard(s: int, e: int) -> None:
            products.transposed_product(a, b, out, columns, self._packer.panel(depth, a.dtype), tiles, s, e)

        smallest = SMALLEST_PRODUCT // (K * b.shape[1] * columns.shape[2])
        self._shards.run(shard, columns.shape[0], max(1, smallest))

    # ---- the recurrence -----------------------------------------------------------------

    def cifg_forward(self, wx: Array, R: Array, h0: Array, c0: Array) -> CIFGTape:
        T, B, H = check_recurrence(wx, R, h0, c0)
        rows = np.ascontiguousarray(wx).reshape(T * B, 3 * H)
        return self.layer_forward(LayerInput(rows, _numbers(T, B)), R, h0, c0)

    def cifg_backward(
        self, dh: Array, dc_last: Array, R: Array, tape: CIFGTape
    ) -> tuple[Array, Array, Array]:
        T, B, H = dh.shape
        da = self.zeros((T * B, 3 * H), dh.dtype)
        source = _Input.of(LayerInput(da, _numbers(T, B)))
        _, dh0, dc0 = self._backward(
            dh, dc_last, R, tape, source, [da] * self._threads, self.empty(R.shape, R.dtype), None
        )
        return da.reshape(T, B, 3 * H), dh0, dc0

    def layer_forward(self, source: LayerInput, R: Array, h0: Array, c0: Array) -> CIFGTape:
        whole = _check_layer(source, R, h0, c0)
        T, (B, H) = whole.ids.shape[0], h0.shape
        c, gates = self.empty((T + 1, B, H), R.dtype), self.empty((T, B, 3 * H), R.dtype)
        h = self._forward(whole, R, h0, c0, c, gates)
        return CIFGTape(h, c, gates)

    def layer_outputs(self, source: LayerInput, R: Array, h0: Array, c0: Array) -> tuple[Array, Array]:
        whole = _check_layer(source, R, h0, c0)
        c = np.empty((1, *c0.shape), R.dtype)
        return self._forward(whole, R, h0, c0, c, None), c[0]

    def _forward(
        self, source: _Input, R: Array, h0: Array, c0: Array, c: Array, gates: Array | None
    ) -> Array:
        """Writes c and gates; returns h (T+1, B, H)."""
        T, (B, H) = source.ids.shape[0], h0.shape
        h = self.empty((T + 1, B, H), R.dtype)
        h[0], c[0] = h0, c0
        W, R = self._packer.gate_panels(source.W), self._packer.gate_panels(R)
        D = source.x.shape[2]
        low = self._packer.low_rows(2, B, H, dtype=h.dtype), self._packer.low_rows(B, D, dtype=h.dtype)
        parts = (*source[:3], W, R, h, c, gates, *low, self._tiles(B, h.dtype))
        self._shards.run(lambda s, e: recurrence.forward(*parts, s, e), B, self._smallest_batch(T, H, D))
        return h

    def _tiles(self, B: int, dtype: Any) -> bool | None:
        """Whether matrix registers make the products of a batch that the threads share."""
        return self._packer.tiles(B // self._threads, dtype)

    def layer_backward(
        self,
        dh: Array,
        dc_last: Array,
        R: Array,
        tape: CIFGTape,
        source: LayerInput,
        dR: Array,
        dW: Array | None = None,
        state_gradients: bool = True,
    ) -> LayerGradients:
        whole = _Input.of(source)
        (T, B, H), V = dh.shape, whole.table.shape[0]
        count = len(self._shards.parts(B, self._smallest_batch(T, H, whole.x.shape[2])))
        if V > 1 and V * count > T * B:  # tables for all threads would be larger than all of da
            da = self.zeros((T * B, R.shape[1]), dh.dtype)
            own_rows = whole._replace(table=da, ids=_numbers(T, B))
            dx, dh0, dc0 = self._backward(
                dh, dc_last, R, tape, own_rows, [da] * count, dR, dW, state_gradients
            )
            dtable = self.zeros(whole.table.shape, dh.dtype)
            self.scatter_add_rows(dtable, whole.ids.reshape(-1), da)
        else:
            tables = [self.zeros(whole.table.shape, dh.dtype) for _ in range(count)]
            dx, dh0, dc0 = self._backward(dh, dc_last, R, tape, whole, tables, dR, dW, state_gradients)
            dtable = tables[0]
            for table in tables[1:]:
                dtable += table
        return LayerGradients(dtable, None if source.x is None else dx, dh0, dc0)

    def _backward(
        self,
        dh: Array,
        dc_last: Array,
        R: Array,
        tape: CIFGTape,
        source: _Input,
        tables: list[Array],
        dR: Array,
        dW: Array | None,
        state_gradients: bool = True,
    ) -> tuple[Array, Array | None, Array]:
        """dx, dh0 (None without `state_gradients`) and dc0.

        Writes dR and dW, and adds to `tables`, of which each thread has its own.
        """
        (T, B, H), D, V = dh.shape, source.x.shape[2], source.table.shape[0]
        states = [(tape.h, (T + 1, B, H)), (tape.c, (T + 1, B, H)), (tape.gates, (T, B, 3 * H))]
        weights = [(R, (H, 3 * H)), (dR, (H, 3 * H)), (source.W, (D, 3 * H))]
        given = [(source.table, (V, 3 * H)), (source.x, (T, B, D)), (dh, (T, B, H)), (dc_last, (B, H))]
        if dW is None:
            dW = np.empty((D, 3 * H), dR.dtype)
        check_arrays(*given, *states, *weights, (dW, (D, 3 * H)))
        check_contiguous(dR, dW)
        check_ids(source.ids, (T, B), V)
        dh, dc = np.ascontiguousarray(dh), np.array(dc_last, order="C")
        R, h, c, gates = (np.ascontiguousarray(array) for array in (R, *tape))
        # a thread has done with dh_t when it writes dx_t
        in_place = D == H and dh.flags.writeable
        dx = dh if in_place else self.empty((T, B, D), dh.dtype)
        dh0 = np.empty_like(dc) if state_gradients else None
        R_panels = self._packer.panels(R.T, UNITS)
        W_panels = self._packer.panels(source.W.T, products.VECTORS)
        smallest = self._smallest_batch(T, H, D)
        threads = {start: k for k, (start, _) in enumerate(self._shards.parts(B, smallest))}
        sums = [[dR, dW]]  # of each thread; the first one's are the result
        sums += [[self.empty(total.shape, dh.dtype) for total in sums[0]] for _ in range(1, len(threads))]

        tiles = self._tiles(B, dh.dtype)

        def shard(s: int, e: int) -> None:
            own, table = sums[threads[s]], tables[threads[s]]
            for total in own:
                total[...] = 0
            steps = max(1, min(T, ROWS_AT_ONCE // max(1, e - s)))
            da = self.empty((steps + 1, e - s, 3 * H), dh.dtype)
            da[-1] = 0
            low = self._packer.low_rows(steps + 1, e - s, 3 * H, dtype=dh.dtype)
            n = steps * (e - s + (e - s) % 2)  # pairs are of rows of the same time step
            columns = (self._packer.columns(width, n, dh.dtype, tiles) for width in (H, D))
            recurrence.backward(
                dh, dc, R_panels, W_panels, h, c, gates, source.ids, source.x, table, dx, *own, da, low,
                *columns, self._packer.panel(n, dh.dtype), tiles, s, e,
            )  # fmt: skip
            if dh0 is not None:
                np.matmul(da[-1], R.T, out=dh0[s:e])

        self._shards.run(shard, B, smallest, blas=state_gradients)
        for parts in zip(*sums, strict=True):
            self._add_up(parts)
        return dx, dh0, dc

    def _add_up(self, parts: Sequence[Array]) -> None:
        """Add all further parts to the first, always in the same order."""
        total, *others = parts

        def shard(s: int, e: int) -> None:
            for part in others:
                total[s:e] += part[s:e]

        if others:
            self._shards.run(shard, total.shape[0], max(1, SMALLEST_LOOP // max(1, total.shape[1])))

    # ---- sampling -----------------------------------------------------------------------

    def stack_step(
        self, weights: StepWeights, tokens: Array, h: Array, c: Array
    ) -> tuple[Array, Array, Array]:
        W, R, head_panels = weights.packed or self.pack_step_weights(weights).packed
        (L, H, _), V, B = weights.R.shape, weights.bias.shape[0], tokens.shape[0]
        further = (weights.W, (L - 1, H, 3 * H)), (weights.b, (L - 1, 3 * H))
        ends = (weights.table, (V, 3 * H)), (weights.head, (H, V)), (weights.bias, (V,))
        check_arrays((h, (L, B, H)), (c, (L, B, H)), (weights.R, (L, H, 3 * H)), *further, *ends)
        check_ids(tokens, (B,), V)
        tokens, h = np.ascontiguousarray(tokens, dtype=np.int64), np.ascontiguousarray(h)
        h_next, c_next = np.empty_like(h), np.array(c, order="C")
        logits = np.empty((B, V), h.dtype)
        low = self._packer.low_rows(3, B, H, dtype=h.dtype)
        parts = (
            weights.table,
            W,
            weights.b,
            R,
            head_panels,
            weights.bias,
            low,
            self._tiles(B, h.dtype),
            tokens,
            h,
            h_next,
            c_next,
            logits,
        )
        self._shards.run(lambda s, e: stepping.step(*parts, s, e), B, max(1, SMALLEST_PRODUCT // R.size))
        return logits, h_next, c_next

    def pack_step_weights(self, weights: StepWeights) -> StepWeights:
        R = np.stack([self._packer.gate_panels(matrix) for matrix in weights.R])
        W = np.empty((len(weights.W), *R.shape[1:]), R.dtype)
        for k, matrix in enumerate(weights.W):
            W[k] = self._packer.gate_panels(matrix)
        return weights._replace(packed=(W, R, self._packer.panels(weights.head, products.VECTORS)))

    def generate(
        self,
        weights: StepWeights,
        logits: Array,
        h: Array,
        c: Array,
        draws: Draws,
        alternatives: int | None = None,
    ) -> Drawn:
        W, R, head_panels = weights.packed or self.pack_step_weights(weights).packed
        (L, H, _), V, B = weights.R.shape, weights.bias.shape[0], draws.uniforms.shape[1]
        further = (weights.W, (L - 1, H, 3 * H)), (weights.b, (L - 1, 3 * H))
        ends = (weights.table, (V, 3 * H)), (weights.head, (H, V)), (weights.bias, (V,))
        check_arrays(
            (logits, (B, V)), (h, (L, B, H)), (c, (L, B, H)), (weights.R, (L, H, 3 * H)), *further, *ends
        )
        states = np.empty((2, *h.shape), h.dtype)
        states[0] = h
        drawn = nothing_drawn(
            draws, np.array(logits, order="C"), states, np.array(c, order="C"), alternatives
        )
        low = self._packer.low_rows(3, B, H, dtype=h.dtype)
        tiles = self._tiles(B, h.dtype)
        parts = (weights.table, W, weights.b, R, head_panels, weights.bias, low, tiles)
        self._draw(generation.generate_fused, parts, drawn, draws)
        return drawn._replace(h=states[len(drawn.tokens) % 2])

    # ---- the head -----------------------------------------------------------------------

    def head_loss(
        self, rows: Array, weight: Array, bias: Array, targets: Array, row_weights: Array | None = None
    ) -> tuple[float, float]:
        rows, targets = np.ascontiguousarray(rows), np.ascontiguousarray(targets)
        (N, H), V = rows.shape, weight.shape[1]
        check_arrays((rows, (N, H)), (weight, (H, V)), (bias, (V,)))
        check_ids(targets, (N,), V)
        weights, whole = weights_and_sum(row_weights, N, rows.dtype)
        W = self._packer.panels(weight, products.VECTORS)
        sums: dict[int, tuple[float, float]] = {}

        def shard(s: int, e: int) -> None:
            piece = min(ROWS_AT_ONCE, max(1, e - s))
            block = self.empty((piece, _block_of(V, rows.dtype)), rows.dtype)
            low = self._packer.low_rows(piece, H, dtype=rows.dtype)
            tiles = self._packer.tiles(piece, rows.dtype)
            sums[s] = head.loss(rows, W, bias, targets, weights, block, low, tiles, s, e)

        self._shards.run(shard, N, self._smallest_head(weight))
        losses, confidences = zip(*(sums[s] for s in sorted(sums)), strict=True)
        return sum(losses) / whole, sum(confidences) / whole

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
        rows, targets = np.ascontiguousarray(rows), np.ascontiguousarray(targets)
        (N, H), V, dtype = rows.shape, weight.shape[1], rows.dtype
        shape = (V, H) if transposed else (H, V)
        check_arrays((rows, (N, H)), (weight, (H, V)), (bias, (V,)), (dweight, shape), (dbias, (V,)))
        check_contiguous(dweight)
        check_ids(targets, (N,), V)
        weights, whole = weights_and_sum(row_weights, N, dtype)
        W, width = self._packer.panels(weight, products.VECTORS), _block_of(V, dtype)
        WT = self._packer.blocks_of_transpose(weight, width)
        drows = self.empty((N, H), dtype)
        sums: dict[int, tuple[float, Array, Array]] = {}

        def shard(s: int, e: int) -> None:
            piece = min(ROWS_AT_ONCE, max(1, e - s))
            dW, db = dweight if s == 0 else self.empty(shape, dtype), self.zeros((V,), dtype)
            dW[...] = 0
            blocks = self.empty((WT.shape[0], piece, width), dtype)
            tiles = self._packer.tiles(piece, dtype)
            columns = self._packer.columns(width if transposed else H, piece, dtype, tiles)
            panels = self._packer.panel(piece, dtype, WT.shape[1] if transposed else 1)
            low = (self._packer.low_rows(piece, K, dtype=dtype) for K in (H, width))
            loss = head.gradients(
                rows, W, bias, targets, weights, WT, drows, dW, db, blocks, columns, panels, *low,
                tiles,
                dtype.type(1 / whole), dtype.type(smoothing), transposed, s, e,
            )  # fmt: skip
            sums[s] = loss, dW, db

        self._shards.run(shard, N, self._smallest_head(weight))
        losses, dWs, dbs = zip(*(sums[s] for s in sorted(sums)), strict=True)
        self._add_up(dWs)
        dbias[...] = sum(dbs)
        return sum(losses) / whole, drows

    @staticmethod
    def _smallest_head(weight: Array) -> int:
        return max(ROWS, SMALLEST_PRODUCT // int(weight.size))


class _Input(NamedTuple):
    """A layer's input with nothing left out and everything contiguous, as the kernels want it."""

    table: Array  # (V, 3H)
    ids: Array  # (T, B)
    x: Array  # (T, B, D), D = 0 where there are no vectors
    W: Array  # (D, 3H)

    @classmethod
    def of(cls, source: LayerInput) -> _Input:
        table, ids, x, W = source
        if ids is None:
            ids = np.zeros(x.shape[:2], np.int64)
        if x is None:
            x, W = np.empty((*ids.shape, 0), table.dtype), np.empty((0, table.shape[1]), table.dtype)
        table, x, W = (np.ascontiguousarray(array) for array in (table, x, W))
        return cls(table, np.ascontiguousarray(ids, np.int64), x, W)


def _numbers(T: int, B: int) -> Array:
    """Rows numbered in order: for a table that has one for each step and row of the batch."""
    return np.arange(T * B).reshape(T, B)


def _block_of(V: int, dtype: Any) -> int:
    """How many of V symbols the head takes at a time: all of a small vocabulary."""
    return min(V, head.PANELS * products.VECTORS * lanes_of(dtype))


def _check_layer(source: LayerInput, R: Array, h0: Array, c0: Array) -> _Input:
    """The whole input, once it is known to fit."""
    whole = _Input.of(source)
    (H, G), (T, B, D), V = R.shape, whole.x.shape, whole.table.shape[0]
    state = [(h0, (B, H)), (c0, (B, H))]
    check_arrays((whole.table, (V, G)), (whole.x, (T, B, D)), (whole.W, (D, G)), (R, (H, 3 * H)), *state)
    check_ids(whole.ids, (T, B), V)
    return whole
