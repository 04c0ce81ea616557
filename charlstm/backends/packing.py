"""Matrices as the tile engine reads them, and room for pieces of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import products, recurrence
from ..kernels.tiles import ROWS
from ..kernels.vectors import REGISTERS
from .sampling import Array
from .shards import SMALLEST_LOOP, ShardPool

ROW_PAIRS = 16  # rows of pairs are multiples of a vector long


class Packer:
    """Packs in the numbers that products are made of: those of the matrices, or pairs of bfloat16."""

    def __init__(self, empty: Callable[..., Array], shards: ShardPool, pairs: bool) -> None:
        """`empty` makes arrays; with `pairs`, float32 matrices are packed in pairs."""
        self._empty, self._shards, self._pairs = empty, shards, pairs

    def numbers(self, dtype: Any) -> Any:
        """What matrices of this dtype are packed as; a pair is a uint32."""
        return np.dtype(np.uint32 if self._pairs and dtype == np.float32 else dtype)

    def depth(self, K: int, dtype: Any) -> int:
        """Steps that a sum over k < K has."""
        return -(-K // 2) if self.numbers(dtype) == np.uint32 else K

    def panels(self, b: Array, vectors: int) -> Array:
        """A matrix (K, N), or a view that transposes one, as panels of so many vectors."""
        (K, N), lanes = b.shape, lanes_of(b.dtype)
        shape = -(-N // (vectors * lanes)), self.depth(K, b.dtype), vectors, lanes
        panels = self._empty(shape, self.numbers(b.dtype))
        if b.flags.f_contiguous and not b.flags.c_contiguous:
            self._share(products.pack_transposed, self._along_rows(b.T), panels)
        else:
            self._share(products.pack, np.ascontiguousarray(b), panels)
        return panels

    def gate_panels(self, weights: Array) -> Array:
        """W or R (K, 3H), for forward: the three gates of a vector of units side by side."""
        (K, G), lanes = weights.shape, lanes_of(weights.dtype)
        shape = -(-G // 3 // lanes), self.depth(K, weights.dtype), recurrence.GATES, lanes
        panels = self._empty(shape, self.numbers(weights.dtype))
        self._share(recurrence.pack_gates, np.ascontiguousarray(weights), panels)
        return panels

    def blocks_of_transpose(self, weight: Array, width: int) -> Array:
        """Of weight (H, V), for each block of `width` columns, its transpose in panels; zeros beyond V."""
        (H, V), dtype = weight.shape, weight.dtype
        count, lanes = -(-V // width), lanes_of(dtype)
        panels = -(-H // (products.VECTORS * lanes))
        shape = count, panels, self.depth(width, dtype), products.VECTORS, lanes
        blocks = self._empty(shape, self.numbers(dtype))

        def shard(s: int, e: int) -> None:
            for n in range(s, e):
                part = weight[:, n * width : (n + 1) * width]
                if part.shape[1] < width:
                    part = np.pad(part, ((0, 0), (0, width - part.shape[1])))
                if part.flags.f_contiguous:
                    products.pack(part.T, blocks[n], 0, panels)
                else:
                    products.pack_transposed(
                        self._along_rows(np.ascontiguousarray(part)), blocks[n], 0, panels
                    )

        self._shards.run(shard, count, max(1, SMALLEST_LOOP // max(1, width * H)))
        return blocks

    def columns(self, width: int, steps: int, dtype: Any) -> Array:
        """Room for `products.pack_columns`: `steps` rows of this width."""
        return self._empty((-(-width // ROWS), self.depth(steps, dtype), ROWS), self.numbers(dtype))

    def panel(self, steps: int, dtype: Any, count: int = 1) -> Array:
        """Room for `products.pack_panel`: panels of `steps` rows."""
        shape = count, self.depth(steps, dtype), products.VECTORS, lanes_of(dtype)
        return self._empty(shape, self.numbers(dtype))

    def low_rows(self, *shape: int, dtype: Any) -> Array | None:
        """Room for rows (..., K) of this dtype in pairs, all zeros; None where nothing is packed in pairs."""
        if self.numbers(dtype) != np.uint32:
            return None
        *rows, K = shape
        low = self._empty((*rows, -(-K // (2 * ROW_PAIRS)) * ROW_PAIRS), np.uint32)
        low[...] = 0
        return low

    def _along_rows(self, rows: Array) -> Array:
        """A matrix whose transpose is packed, rounded to pairs along its rows where panels hold such."""
        low = self.low_rows(*rows.shape, dtype=rows.dtype)
        if low is None:
            return rows
        products.round_all(rows, low)
        return low

    def _share(self, pack: Any, weights: Array, panels: Array) -> None:
        smallest = max(1, SMALLEST_LOOP * panels.shape[0] // max(1, panels.size))
        self._shards.run(lambda s, e: pack(weights, panels, s, e), panels.shape[0], smallest)


def lanes_of(dtype: Any) -> int:
    """Numbers in a vector register."""
    assert REGISTERS is not None
    return int(REGISTERS.bits // (8 * np.dtype(dtype).itemsize))
