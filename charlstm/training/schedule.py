"""Learning rates."""

from __future__ import annotations

import math

from ..config import TrainingConfig

FLOOR = 0.01  # what the cosine and exponential schedules end with, as a share of the learning rate
RISE = 0.3  # share of a one-cycle training in which the rate rises
FIRST, LAST = 1 / 25, 1e-4  # what one-cycle starts and ends with


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """The learning rate of a step (from 0), `progress` of the training (0 to 1) being done.

    Linear warm-up; then, over the whole training, half a cosine (Loshchilov & Hutter 2017, arXiv
    1608.03983), an exponential, a factor every so many steps, or one cycle (Smith & Topin 2018, arXiv
    1708.07120: half a cosine up, another down), which needs no warm-up and has none. What "plateau"
    takes off depends on the validations: `Trainer` keeps that factor.
    """
    done, rate = min(1.0, progress), config.learning_rate
    if config.schedule == "one-cycle":
        if done < RISE:
            return rate * _between(FIRST, 1, done / RISE)
        return rate * _between(1, LAST, (done - RISE) / (1 - RISE))
    rate *= min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        rate *= _between(1, FLOOR, done)
    elif config.schedule == "exponential":
        rate *= FLOOR**done
    elif config.schedule == "step":
        rate *= config.decay ** (step // config.decay_every)
    return rate


def _between(start: float, end: float, done: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
