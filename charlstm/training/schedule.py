"""Learning rates."""

from __future__ import annotations

import math

from ..config import TrainingConfig

FLOOR = 0.01  # what the cosine schedule ends with, as a share of the learning rate


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """The learning rate of a step (from 0), `progress` of the training (0 to 1) being done.

    Linear warm-up, then constant or half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983)
    over the whole training, down to a hundredth.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        rate *= FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rate
