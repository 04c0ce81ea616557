"""A few steps of a training, to tell what all of it would take."""

from __future__ import annotations

import statistics
import sys
import time
from typing import NamedTuple

from .trainer import Trainer

STEPS = 5  # timed, after one that is not


class Rehearsal(NamedTuple):
    """What `rehearse` found."""

    parameters: int
    step_seconds: float
    tokens_per_second: float
    steps: int  # of the whole training, by whichever limit is nearest
    seconds: float  # that they take; validations and samples come on top, but for a limit of time
    peak_memory: int | None  # bytes of this process so far; None where the system does not tell


def rehearse(trainer: Trainer) -> Rehearsal:
    """Train for a few steps. The trainer's weights are used up by it; nothing is written."""
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        trainer.train_step(0.0)
        times.append(time.perf_counter() - started)
    step_seconds = statistics.median(times[1:])
    training, batches = trainer.config.training, trainer.batches
    limits = []
    if training.max_steps is not None:
        limits.append(training.max_steps)
    if training.epochs is not None:
        limits.append(max(1, round(training.epochs * batches.steps_per_epoch)))
    if training.max_seconds is not None:
        limits.append(max(1, round(training.max_seconds / step_seconds)))
    steps = min(limits)
    return Rehearsal(
        trainer.model.num_parameters,
        step_seconds,
        batches.batch_size * batches.seq_len / step_seconds,
        steps,
        steps * step_seconds,
        _peak_memory(),
    )


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
