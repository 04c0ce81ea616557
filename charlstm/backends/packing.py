"""Matrices as the tile engine reads them, and room for pieces of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..kernels import gates, packing, products, recurrence
from ..kernels.features import NO_TILES, REGISTERS
from ..kernels.matrices import HEIGHT, SIDE
from ..kernels.tiles import ROWS
from ..kernels.vectors import PARTS
from .sampling import Array
from .shards import SMALLEST_LOOP, ShardPool

_log = logging.getLogger("charlstm")

PAIRS = np.uint32  # two steps of k in a number, rounded to bfloat16
SPLIT = np.int32  # two steps of k in a number, split into parts of bfloat16
FEWEST_ROWS = 8  # of the left matrix for which matrix registers pay, which take 16 at a time


class Packer:
    """Packs in the numbers that products are made of: those of the matrices, or pairs of bfloat16."""

    def __init__(
        self, empty: Callable[..., Array], shards: ShardPool, numbers: Any = None, tiles: bool = False
    ) -> None:
        """`empty` makes arrays; `numbers`: what float32 becomes, PAIRS or SPLIT, for matrix registers if `tiles`."""
        self._empty, self._shards, self._packed, self._tiles = empty, shards, numbers, bool(numbers) and tiles

    def numbers(self, dtype: Any) -> Any:
        """What matrices of this dtype are packed as."""
        return np.dtype(self._packed if self._packed and dtype == np.float32 else dtype)

    def _in_pairs(self, dtype: Any) -> bool:
        return bool(self.numbers(dtype) != dtype)

    def depth(self, K: int, dtype: Any) -> int:
        """Steps that a sum over k < K has: for matrix registers, a multiple of theirs."""
        if not self._in_pairs(dtype):
            return K
        if self._packed is SPLIT:
            return PARTS * SIDE * -(-K // (2 * SIDE))
        return -(-K // (2 * SIDE)) * SIDE if self._tiles else -(-K // 2)

    def tiles(self, rows: int, dtype: Any) -> bool | None:
        """True where matrix registers make the products of so many rows; else None."""
        return True if self._tiles and self._in_pairs(dtype) and rows >= FEWEST_ROWS else None

    def panels(self, b: Array, vectors: int) -> Array:
        """A matrix (K, N), or a view that transposes one, as panels of so many vectors."""
        (K, N), lanes = b.shape, lanes_of(b.dtype)
        shape = -(-N // (vectors * lanes)), self.depth(K, b.dtype), vectors, lanes
        panels = self._empty(shape, self.numbers(b.dtype))
        self._end(panels, K)
        if b.flags.f_contiguous and not b.flags.c_contiguous:
            self._share(packing.pack_transposed, self._along_rows(b.T), panels)
        else:
            self._share(packing.pack, np.ascontiguousarray(b), panels)
        return panels

    def gate_panels(self, weights: Array) -> Array:
        """W or R (K, 3H), for forward: the three gates of a vector of units side by side."""
        (K, G), lanes = weights.shape, lanes_of(weights.dtype)
        shape = -(-G // 3 // lanes), self.depth(K, weights.dtype), gates.GATES, lanes
        panels = self._empty(shape, self.numbers(weights.dtype))
        self._end(panels, K)
        self._share(recurrence.pack_gates, np.ascontiguousarray(weights), panels)
        return panels

    def blocks_of_transpose(self, weight: Array, width: int) -> Array:
        """Of weight (H, V), for each block of `width` columns, its transpose in panels; zeros beyond V."""
        (H, V), dtype = weight.shape, weight.dtype
        count, lanes = -(-V // width), lanes_of(dtype)
        panels = -(-H // (products.VECTORS * lanes))
        shape = count, panels, self.depth(width, dtype), products.VECTORS, lanes
        blocks = self._empty(shape, self.numbers(dtype))
        for block in blocks:
            self._end(block, width)

        def shard(s: int, e: int) -> None:
            for n in range(s, e):
                part = weight[:, n * width : (n + 1) * width]
                if part.shape[1] < width:
                    part = np.pad(part, ((0, 0), (0, width - part.shape[1])))
                if part.flags.f_contiguous:
                    packing.pack(part.T, blocks[n], 0, panels)
                else:
                    packing.pack_transposed(
                        self._along_rows(np.ascontiguousarray(part)), blocks[n], 0, panels
                    )

        self._shards.run(shard, count, max(1, SMALLEST_LOOP // max(1, width * H)))
        return blocks

    def columns(self, width: int, steps: int, dtype: Any, tiles: bool | None) -> Array:
        """Room for `packing.pack_columns`: `steps` rows of this width, for vector registers or `tiles`."""
        group = SIDE if tiles else ROWS
        return self._empty((-(-width // group), self.depth(steps, dtype), group), self.numbers(dtype))

    def panel(self, steps: int, dtype: Any, count: int = 1) -> Array:
        """Room for `packing.pack_panel`: panels of `steps` rows."""
        shape = count, self.depth(steps, dtype), products.VECTORS, lanes_of(dtype)
        return self._empty(shape, self.numbers(dtype))

    def low_rows(self, *shape: int, dtype: Any) -> Array | None:
        """Room for rows (..., K) of this dtype in pairs, all zeros; None where nothing is packed in pairs."""
        if not self._in_pairs(dtype):
            return None
        *rows, K = shape
        # matrix registers read whole ones of rows: what they make of those beyond is thrown away
        P, number = -(-K // (2 * SIDE)) * SIDE, math.prod(rows)
        P *= PARTS if self._packed is SPLIT else 1
        low = self._empty((number + (HEIGHT if self._tiles else 0), P), self._packed)
        low[...] = 0
        return low[:number].reshape(*rows, P)

    def _end(self, panels: Array, K: int) -> None:
        """Zeros in the steps of panels beyond k = K."""
        if panels.dtype == SPLIT:
            panels[...] = 0
        elif panels.dtype == PAIRS:
            panels[:, -(-K // 2) :] = 0

    def _along_rows(self, rows: Array) -> Array:
        """A matrix whose transpose is packed, rounded to pairs along its rows where panels hold such."""
        low = self.low_rows(*rows.shape, dtype=rows.dtype)
        if low is None:
            return rows
        packing.round_all(rows, low)
        return low

    def _share(self, pack: Any, weights: Array, panels: Array) -> None:
        smallest = max(1, SMALLEST_LOOP * panels.shape[0] // max(1, panels.size))
        self._shards.run(lambda s, e: pack(weights, panels, s, e), panels.shape[0], smallest)


@cache
def tiles_are_right() -> bool:
    """Whether matrix registers can be used here: there are some, and a small product on them comes out right.

    Anything else would be silent: so they are tried once in a process before anything is left to them.
    """
    if NO_TILES is not None:
        return False
    rng, M, K, N = np.random.default_rng(0), 40, 70, 50
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((M, K), (K, N)))
    packer, out = Packer(np.empty, ShardPool(1), PAIRS, tiles=True), np.empty((M, N), np.float32)
    panels, low = packer.panels(b, products.VECTORS), packer.low_rows(M, K, dtype=a.dtype)
    products.product(a, panels, out, low, packer.tiles(M, a.dtype), 0, M)
    right = np.array_equal(out, a @ b)  # small whole numbers: every sum is exact
    if not right:
        _log.warning(
            "matrix registers (AMX) compute wrongly here and are not used: please report this processor"
        )
    return right


def lanes_of(dtype: Any) -> int:
    """Numbers in a vector register."""
    assert REGISTERS is not None
    return int(REGISTERS.bits // (8 * np.dtype(dtype).itemsize))
