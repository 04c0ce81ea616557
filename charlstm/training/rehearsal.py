"""A few steps of a training, to tell what all of it would take."""

from __future__ import annotations

import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import limited, predicted
from ..errors import DivergedError
from ..evaluation import evaluate
from .divergence import DivergingError
from .trainer import Trainer

STEPS = 5  # timed, after one that is not
VALIDATED = 64 * 1024  # tokens at most; the time of the rest is in proportion


class Rehearsal(NamedTuple):
    """What `rehearse` found."""

    parameters: int
    step_seconds: float
    tokens_per_second: float
    validation_seconds: float  # of one validation and the writing of a checkpoint
    steps: int  # of the whole training, by whichever limit is nearest
    validations: int
    seconds: float  # that steps and validations take; samples come on top, but for a limit of time
    peak_memory: int | None  # bytes of this process at most so far; None where the system does not tell


def rehearse(trainer: Trainer) -> Rehearsal:
    """Train for a few steps, validate, and write a checkpoint to the trainer's directory.

    The trainer's weights are used up by it. The memory is that of a training, but for its plots. Raises
    DivergedError where it diverges already.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # told once, as an error
            times = [_timed(lambda: _step(trainer)) for _ in range(STEPS + 1)]
            step, validation = statistics.median(times[1:]), _validation(trainer)
    except DivergingError as problem:
        raise DivergedError(f"{problem}: try a smaller --learning-rate") from None
    training, batches = trainer.config.training, trainer.batches
    limits = []
    if training.max_steps is not None:
        limits.append(training.max_steps)
    if training.epochs is not None:
        limits.append(max(1, round(training.epochs * batches.steps_per_epoch)))
    if training.max_seconds is not None:
        limits.append(max(1, round(training.max_seconds / (step + validation / training.eval_every))))
    steps = min(limits)
    validations = math.ceil(steps / training.eval_every)
    return Rehearsal(
        parameters=trainer.model.num_parameters,
        step_seconds=step,
        tokens_per_second=batches.batch_size * batches.seq_len / step,
        validation_seconds=validation,
        steps=steps,
        validations=validations,
        seconds=steps * step + validations * validation,
        peak_memory=_peak_memory(),
    )


def _step(trainer: Trainer) -> None:
    """A step, and what a device may still have to do of it."""
    trainer.train_step(0.0)
    trainer.read_losses()


def _validation(trainer: Trainer) -> float:
    """Seconds of a validation and a checkpoint."""
    seconds = _timed(lambda: trainer.save("last"))
    some = limited(trainer.val, VALIDATED)
    if some is not None and trainer.val is not None:
        share = predicted(trainer.val) / predicted(some)
        seconds += share * _timed(lambda: evaluate(trainer.model, some))
    return seconds


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _peak_memory() -> int | None:
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose ru_maxrss counts what the process was before it became this program
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        return None if found is None else 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
