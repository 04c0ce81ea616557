"""The CuPy backend: fused CUDA kernels beside cuBLAS products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..errors import BackendError
from .checks import check_dtype, check_recurrence
from .cublas import Cublas
from .cuda_kernels import NULL, Kernels, KernelTable, blocks_for
from .cupy_device import cupy_unavailable
from .layers import CIFGTape, LayerInput
from .ops import Ops
from .optimizer import RULES, Update
from .precision import MatmulPrecision, on_device
from .sampling import Array

PARTS = 256  # partial sums of a large array
CHUNK, PIECE = 1024, 64  # as in kernels/rows.cu


class CuPyOps(Ops):
    """Ops on the current CUDA device; products run on cuBLAS, the rest on the kernels of kernels/*.cu.

    float32 products are float32, TF32 or of bfloat16 with float32 sums, as `matmul_precision` says. Only losses
    and norms wait for the device.
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
        self._table = KernelTable(cupy)
        self._cublas: Cublas | None = None

    # ---- arrays -------------------------------------------------------------------------

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(x)
        return host

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def device(self) -> str:
        number = self.xp.cuda.runtime.getDevice()
        return str(self.xp.cuda.runtime.getDeviceProperties(number)["name"].decode())

    # ---- products and look-ups ----------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self._product(a, b, out)

    def _product(self, a: Array, b: Array, out: Array | None = None, accumulate: bool = False) -> Array:
        """a b, written or with `accumulate` added to `out`; products on the device go through here."""
        (M, K), (K2, N) = a.shape, b.shape
        if K != K2 or (out is not None and out.shape != (M, N)):
            raise ValueError(
                f"matrices {a.shape} and {b.shape} have no product {out if out is None else out.shape}"
            )
        check_dtype(a.dtype)
        if not a.dtype == b.dtype == (a.dtype if out is None else out.dtype):
            raise TypeError(f"matrices must share one dtype, not {a.dtype} and {b.dtype}")
        if self._cublas is None:
            self._cublas = Cublas(self.xp)
        result = out if out is not None and out.flags.c_contiguous else self.empty((M, N), a.dtype)
        if accumulate and result is not out:
            result[...] = out
        self._cublas.gemm(a, b, result, self.matmul_precision, accumulate)
        if out is not None and result is not out:
            out[...] = result
        return result if out is None else out

    def gather_rows(self, table: Array, ids: Array) -> Array:
        out = self.empty((ids.shape[0], table.shape[1]), table.dtype)
        self._gather(table, ids, out)
        return out

    def _gather(self, table: Array, ids: Array | None, out: Array) -> None:
        """out (N, D), contiguous: the rows of `table` at ids (N,), or its first row N times."""
        (N, D), V = out.shape, table.shape[0]
        ids = NULL if ids is None else self._ids(ids)
        table = self.xp.ascontiguousarray(table)
        sizes = np.int64(N), np.int32(V), np.int32(D)
        self._kernels(out).launch("gather_rows", blocks_for(out.size), table, ids, out, *sizes)

    def scatter_add_rows(self, d: Array, ids: Array, rows: Array) -> None:
        (V, D), N = d.shape, ids.shape[0]
        if d.size == 0 or N == 0:
            return
        xp, kernels = self.xp, self._kernels(d)
        ids, rows, total = self._ids(ids), xp.ascontiguousarray(rows), xp.ascontiguousarray(d)
        chunks = blocks_for(N, CHUNK)
        counts, order = self.zeros((V, chunks), xp.int32), self.empty((N,), xp.int32)
        starts, pieces = (self.empty((V + 1,), xp.int32) for _ in range(2))
        sizes = np.int64(N), np.int32(V), np.int32(chunks)
        kernels.launch("count_ids", blocks_for(N), ids, counts, *sizes)
        kernels.launch("scan_counts", 1, counts, starts, pieces, *sizes[1:], threads=1024)
        kernels.launch("place_ids", chunks, ids, counts, order, *sizes, threads=CHUNK)
        most = N // PIECE + min(V, N)  # pieces there can be
        sums = self.empty((most, D), d.dtype)
        shape = np.int32(V), np.int32(D)
        given = total, rows, order, starts, pieces, sums, np.int64(most), *shape
        kernels.launch("sum_pieces", blocks_for(most * D), *given)
        kernels.launch("sum_segments", blocks_for(V * D), total, pieces, sums, *shape)
        if total is not d:
            d[...] = total

    # ---- the recurrence -----------------------------------------------------------------

    def cifg_forward(self, wx: Array, R: Array, h0: Array, c0: Array) -> CIFGTape:
        check_recurrence(wx, R, h0, c0)
        gates = self.empty(wx.shape, wx.dtype)
        gates[...] = wx
        return self._forward(gates, R, h0, c0)

    def layer_forward(self, source: LayerInput, R: Array, h0: Array, c0: Array) -> CIFGTape:
        gates = self._input_product(source)
        check_recurrence(gates, R, h0, c0)
        return self._forward(gates, R, h0, c0)

    def _input_product(self, source: LayerInput) -> Array:
        (T, B), D = (source.x if source.ids is None else source.ids).shape[:2], source.table.shape[1]
        wx = self.empty((T, B, D), source.table.dtype)
        rows = wx.reshape(T * B, D)
        self._gather(source.table, None if source.ids is None else source.ids.reshape(T * B), rows)
        if source.x is not None:
            self._product(source.x.reshape(T * B, source.x.shape[2]), source.W, rows, accumulate=True)
        return wx

    def _forward(self, gates: Array, R: Array, h0: Array, c0: Array) -> CIFGTape:
        """From the pre-activations without h_{t-1} R, which become the gates in place."""
        T, (B, H) = gates.shape[0], h0.shape
        h, c = (self.empty((T + 1, B, H), gates.dtype) for _ in range(2))
        h[0], c[0] = h0, c0
        R = self.xp.ascontiguousarray(R)
        for t in range(T):
            self._product(h[t], R, gates[t], accumulate=True)
            self._activate(gates[t], c[t], c[t + 1], h[t + 1])
        return CIFGTape(h, c, gates)

    def _activate(self, gates: Array, c_prev: Array, c: Array, h: Array) -> None:
        """One step of the gates in place: pre-activations (B, 3H) become gates; writes c and h (B, H)."""
        sizes = (np.int32(n) for n in h.shape)
        self._kernels(h).launch("gates_forward", blocks_for(h.size), gates, c_prev, c, h, *sizes)

    def cifg_backward(
        self, dh: Array, dc_last: Array, R: Array, tape: CIFGTape
    ) -> tuple[Array, Array, Array]:
        T, B, H = dh.shape
        xp, kernels = self.xp, self._kernels(dh)
        dh, (c, gates) = xp.ascontiguousarray(dh), (xp.ascontiguousarray(x) for x in tape[1:])
        dwx = self.empty((T, B, 3 * H), dh.dtype)
        dc, dh_after = self.empty((B, H), dh.dtype), self.zeros((B, H), dh.dtype)
        dc[...] = dc_last
        for t in range(T - 1, -1, -1):
            arrays = dh[t], dh_after, dc, gates[t], c[t], c[t + 1], dwx[t]
            kernels.launch("gates_backward", blocks_for(B * H), *arrays, np.int32(B), np.int32(H))
            self._product(dwx[t], R.T, dh_after)
        return dwx, dh_after, dc

    def gates_forward(self, a: Array, c_prev: Array) -> tuple[Array, Array, Array]:
        gates, c, h = (self.empty(x.shape, x.dtype) for x in (a, c_prev, c_prev))
        gates[...] = a
        self._activate(gates, self.xp.ascontiguousarray(c_prev), c, h)
        return gates, c, h

    def gates_backward(
        self, dh: Array, dc: Array, gates: Array, c_prev: Array, c: Array
    ) -> tuple[Array, Array]:
        B, H = c.shape
        dh, gates, c_prev, c = (self.xp.ascontiguousarray(x) for x in (dh, gates, c_prev, c))
        da, dc_prev = self.empty(gates.shape, gates.dtype), self.empty(c.shape, c.dtype)
        dc_prev[...] = dc
        arrays = dh, NULL, dc_prev, gates, c_prev, c, da
        self._kernels(c).launch("gates_backward", blocks_for(c.size), *arrays, np.int32(B), np.int32(H))
        return da, dc_prev

    # ---- the head -----------------------------------------------------------------------

    def softmax(self, logits: Array) -> Array:
        logits, (N, V) = self.xp.ascontiguousarray(logits), logits.shape
        out = self.empty((N, V), logits.dtype)
        self._kernels(logits).launch("softmax", blocks_for(32 * N), logits, out, np.int64(N), np.int32(V))
        return out

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, smoothing: float = 0.0, row_weights: Array | None = None
    ) -> tuple[float, Array]:
        logits = self.xp.ascontiguousarray(logits)
        dlogits = self.empty(logits.shape, logits.dtype)
        loss, _ = self._cross_entropy(logits, None, targets, smoothing, row_weights, dlogits)
        return float(loss), dlogits

    def head_loss(
        self, rows: Array, weight: Array, bias: Array, targets: Array, row_weights: Array | None = None
    ) -> tuple[float, float]:
        logits = self._product(rows, weight)
        loss, largest = self._cross_entropy(logits, bias, targets, 0.0, row_weights, None)
        return float(loss), float(largest)

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
        return float(loss), self._product(logits, weight.T)

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

    def global_norm(self, flat: Array) -> float:
        return float(self._sum(self.xp.ascontiguousarray(flat), "square_parts", root=True))

    def optimizer_update(
        self, update: Update, parameters: Array, gradients: Array, slots: Sequence[Array]
    ) -> None:
        rule = RULES[update.rule]
        arrays = parameters, self.xp.ascontiguousarray(gradients), *slots
        numbers = (np.float64(x) for x in rule.numbers(update))
        size = parameters.size
        self._kernels(parameters).launch(rule.kernel, blocks_for(size), *arrays, np.int64(size), *numbers)

    def move_towards(self, average: Array, parameters: Array, share: float) -> None:
        size = average.size
        arrays = average, parameters, np.int64(size), np.float64(share)
        self._kernels(average).launch("move_towards", blocks_for(size), *arrays)

    # ---- parts --------------------------------------------------------------------------

    def _kernels(self, x: Array) -> Kernels:
        """The kernels for the dtype of an array."""
        return self._table[check_dtype(x.dtype)]

    def _ids(self, ids: Array) -> Array:
        return self.xp.ascontiguousarray(ids, dtype=self.xp.int64)
