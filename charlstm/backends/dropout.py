"""What dropout draws, on the host and from a seed alone: every backend drops the same units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

STEPS = 1 << 16  # a rate is a multiple of 1 / STEPS: four draws from each word of 64 bits


def draw_bits(shape: tuple[int, ...], seed: Sequence[int]) -> np.ndarray:
    """Unsigned integers below STEPS, all equally likely."""
    count = math.prod(shape)
    words = np.random.SFC64(seed).random_raw(-(-count // 4)).astype("<u8", copy=False)
    return words.view("<u2")[:count].reshape(shape)


def threshold_and_factor(rate: float) -> tuple[int, float]:
    """Draws below the threshold are dropped; the factor of those that stay keeps the mean at 1."""
    threshold = min(round(rate * STEPS), STEPS - 1)
    return threshold, STEPS / (STEPS - threshold)
