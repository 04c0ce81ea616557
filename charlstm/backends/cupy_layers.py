"""Layers on a CUDA device: arrays, cuBLAS products, look-ups and the recurrence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .capture import Captured
from .checks import check_dtype, check_recurrence
from .cublas import Cublas
from .cuda_kernels import NULL, Kernels, KernelTable, blocks_for
from .layers import CIFGTape, LayerInput
from .ops import Ops
from .persistent import PersistentRecurrence, Plan
from .sampling import Array

CHUNK, PIECE = 1024, 64  # as in kernels/rows.cu
DRAWS = 16  # of a thread, as in kernels/dropout.cu


class DrawnMask(NamedTuple):
    """A dropout mask that is drawn wherever it is used, and never stored."""

    shape: tuple[int, ...]
    dtype: Any
    key: Array  # (2,) uint64
    place: tuple[int, int]
    threshold: int
    factor: float


class CuPyLayers(Ops):
    """What `CuPyOps` runs layers with.

    float32 products are float32 ("highest"), TF32 ("high") or of bfloat16 with float32 sums ("medium").
    """

    def __init__(self, xp: Any) -> None:
        """xp is the module `cupy`."""
        super().__init__(xp)
        self._table = KernelTable(xp)
        self._persistent = PersistentRecurrence(xp, self._table)
        self._cublas: Cublas | None = None
        self._numbers = threading.local()

    # ---- arrays -------------------------------------------------------------------------

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        host: np.ndarray = self.xp.asnumpy(self._drawn(x))
        return host

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def device(self) -> str:
        number = self.xp.cuda.runtime.getDevice()
        return str(self.xp.cuda.runtime.getDeviceProperties(number)["name"].decode())

    def captured(self, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return Captured(self.xp, function, self._leaving_numbers)

    @contextmanager
    def _leaving_numbers(self) -> Iterator[None]:
        """Inside, numbers stay on the device."""
        before = getattr(self._numbers, "stay", False)
        self._numbers.stay = True
        try:
            yield
        finally:
            self._numbers.stay = before

    def _number(self, x: Array) -> Any:
        return x if getattr(self._numbers, "stay", False) else float(x)

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
        table = self._drawn(table)
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
        (B, H), T = h0.shape, gates.shape[0]
        h, c = (self.empty((T + 1, B, H), gates.dtype) for _ in range(2))
        h[0], c[0] = h0, c0
        R, plan = self.xp.ascontiguousarray(R), self._plan(T, B, H, h.dtype)
        if plan is not None and self._persistent.forward(plan, gates, R, h, c):
            return CIFGTape(h, c, gates)
        for t in range(T):
            self._product(h[t], R, gates[t], accumulate=True)
            self._activate(gates[t], c[t], c[t + 1], h[t + 1])
        return CIFGTape(h, c, gates)

    def _plan(self, T: int, B: int, H: int, dtype: Any) -> Plan | None:
        """How the whole sequence runs in one launch, if it does: in bfloat16."""
        if self.matmul_precision != "medium" or dtype != np.float32 or 0 in (T, B):
            return None
        return self._persistent.plan(H, B)

    def _activate(self, gates: Array, c_prev: Array, c: Array, h: Array) -> None:
        """One step of the gates in place: pre-activations (B, 3H) become gates; writes c and h (B, H)."""
        sizes = (np.int32(n) for n in h.shape)
        self._kernels(h).launch("gates_forward", blocks_for(h.size), gates, c_prev, c, h, *sizes)

    def cifg_backward(
        self, dh: Array, dc_last: Array, R: Array, tape: CIFGTape
    ) -> tuple[Array, Array, Array]:
        T, B, H = dh.shape
        xp, kernels = self.xp, self._kernels(dh)
        dh, c, gates = (xp.ascontiguousarray(x) for x in (dh, tape.c, tape.gates))
        dwx = self.empty((T, B, 3 * H), dh.dtype)
        dc, dh_after = self.empty((B, H), dh.dtype), self.zeros((B, H), dh.dtype)
        dc[...] = dc_last
        plan, whole = self._plan(T, B, H, dh.dtype), CIFGTape(tape.h, c, gates)
        R = xp.ascontiguousarray(R)
        if plan is not None and self._persistent.backward(plan, dh, dc, R, whole, dwx, dh_after):
            return dwx, dh_after, dc
        for t in range(T - 1, -1, -1):
            arrays = dh[t], dh_after, dc, gates[t], c[t], c[t + 1], dwx[t]
            kernels.launch("gates_backward", blocks_for(B * H), *arrays, np.int32(B), np.int32(H))
            self._product(dwx[t], R.T, dh_after)
        return dwx, dh_after, dc

    # ---- parts --------------------------------------------------------------------------

    def _kernels(self, x: Array) -> Kernels:
        """The kernels for the dtype of an array."""
        return self._table.of(check_dtype(x.dtype))

    def _ids(self, ids: Array) -> Array:
        return self.xp.ascontiguousarray(ids, dtype=self.xp.int64)

    def _drawn(self, x: Any) -> Array:
        """x, or what a mask holds."""
        if not isinstance(x, DrawnMask):
            return x
        out = self.empty(x.shape, x.dtype)
        self._drop("dropout_mask", x, out)
        return out

    def _drop(self, kernel: str, mask: DrawnMask, out: Array, *x: Array) -> None:
        layer, kind = (np.int64(n) for n in mask.place)
        numbers = layer, kind, np.int32(mask.threshold), np.float64(mask.factor), np.int64(out.size)
        self._kernels(out).launch(
            kernel, blocks_for(blocks_for(out.size, DRAWS)), *x, out, mask.key, *numbers
        )
