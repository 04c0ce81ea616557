"""Dropout masks drawn by a counter, number for number as NumPy's Philox draws them (`charlstm.backends.dropout`)."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel

DRAWS = 16  # of 16 bits, from the four words of a counter
LANES = 64  # counters side by side, for vector registers
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
FACTORS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@njit(inline="always", **OPTIONS)
def _product(a, b):
    """The high and the low 64 bits of a b, by halves: vector registers have no wider products."""
    a_low, a_high, b_low, b_high = a & LOW, a >> HALF, b & LOW, b >> HALF
    lowest = a_low * b_low
    first = a_high * b_low + (lowest >> HALF)
    second = a_low * b_high + (first & LOW)
    return a_high * b_high + (first >> HALF) + (second >> HALF), (second << HALF) | (lowest & LOW)


@njit(**OPTIONS)
def _philox(key, layer, kind, first, words):
    """Philox4x64-10 (Salmon et al. 2011, SC'11) of LANES counters from `first`, each the words (4,) of a column."""
    for lane in range(LANES):
        words[0, lane], words[1, lane] = first + np.uint64(lane), np.uint64(0)
        words[2, lane], words[3, lane] = layer, kind
    key0, key1 = key[0], key[1]
    for _ in range(10):
        for lane in range(LANES):
            high0, low0 = _product(FACTORS[0], words[0, lane])
            high1, low1 = _product(FACTORS[1], words[2, lane])
            words[0, lane], words[1, lane] = high1 ^ words[1, lane] ^ key0, low1
            words[2, lane], words[3, lane] = high0 ^ words[3, lane] ^ key1, low0
        key0 += STEPS[0]
        key1 += STEPS[1]


@kernel
def dropout_mask(key, layer, kind, start, threshold, keep, mask):
    """mask[k] = 0 where draw start + k lies below the threshold, else `keep`; `start` is a multiple of DRAWS."""
    words, ordered = np.empty((4, LANES), np.uint64), np.empty((LANES, 4), np.uint64)
    draws = ordered.reshape(-1).view(np.uint16)
    for done in range(0, mask.shape[0], DRAWS * LANES):
        first = np.uint64((start + done) // DRAWS + 1)  # NumPy counts from 1
        _philox(key, np.uint64(layer), np.uint64(kind), first, words)
        for lane in range(LANES):
            for k in range(4):
                ordered[lane, k] = words[k, lane]
        out = mask[done : done + DRAWS * LANES]
        for k in range(out.shape[0]):
            out[k] = keep if draws[k] >= threshold else mask.dtype.type(0)
