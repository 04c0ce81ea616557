"""What dropout draws, from a seed and a counter alone: every backend drops the same units.

The generator is Philox4x64-10 (Salmon et al. 2011, SC'11), whose words are functions of a key and a counter:
a GPU draws them in parallel, and again in backward instead of storing them (kernels/dropout.cu).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STEPS = 1 << 16  # a rate is a multiple of 1 / STEPS: four draws from each word of 64 bits


def mask_key(seed: Sequence[int]) -> np.ndarray:
    """The key (2,) uint64 of all masks of one step."""
    return np.random.SeedSequence(seed).generate_state(2, np.uint64)


def draw_bits(shape: tuple[int, ...], key: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Unsigned integers below STEPS, all equally likely; `place` (layer, kind) tells masks of one key apart."""
    count = math.prod(shape)
    generator = np.random.Philox(key=key, counter=(0, 0, *place))
    words = generator.random_raw(-(-count // 4)).astype("<u8", copy=False)
    return words.view("<u2")[:count].reshape(shape)


def threshold_and_factor(rate: float) -> tuple[int, float]:
    """Draws below the threshold are dropped; the factor of those that stay keeps the mean at 1."""
    threshold = min(round(rate * STEPS), STEPS - 1)
    return threshold, STEPS / (STEPS - threshold)
