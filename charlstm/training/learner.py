"""One step of any training: gradients, clipping, the optimizer at the schedule's rate, the average."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..backends import Array
from ..cifg import State
from ..config import TrainingConfig
from ..model import CIFGModel, Penalties
from .divergence import DivergingError
from .optimizer import Optimizer, WeightAverage
from .schedule import learning_rate


class StepGradients(NamedTuple):
    """What a batch gives a training step."""

    loss: float  # nats
    flat: Array  # the gradients of all parameters, in their order
    norm: float  # of the gradients
    state: State  # after the batch, h and c (L, B, H)

    def check(self, step: int) -> None:
        """DivergingError unless loss and gradients are finite numbers."""
        if not math.isfinite(self.loss) or not math.isfinite(self.norm):
            what = "gradient" if math.isfinite(self.loss) else "loss"
            raise DivergingError(f"the {what} is no longer a finite number at step {step}")


class Learner:
    """Changes a model by the gradients of batches, whatever they are of: text or feature vectors."""

    def __init__(self, model: CIFGModel, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        self._penalties = Penalties.of(config)
        self.optimizer = Optimizer(model, config)
        self.average = WeightAverage(model, config) if config.averaging != "none" else None

    def gradients(self, step: int, x: Any, targets: Any, state: State | None, **counts: Any) -> StepGradients:
        """The gradients of a batch, for the step of this number (from 0), which draws what is dropped.

        x, targets, state and `counts` (weights, lengths) as in `CIFGModel.loss_and_gradients`.
        """
        loss, gradients, after = self._model.loss_and_gradients(
            x, targets, state, (self._config.seed, step), self._penalties, state_gradients=False, **counts
        )
        return StepGradients(loss, gradients.flat, self._model.ops.global_norm(gradients.flat), after)

    def learn(self, step: int, found: StepGradients, progress: float, factor: float = 1.0) -> float:
        """Change the weights; the learning rate at which that was done.

        step      counts from 0
        progress  how much of the training is over, 0 to 1, for the schedule
        factor    of the schedule's learning rate
        """
        rate = factor * learning_rate(self._config, step, progress)
        self.optimizer.update(step + 1, rate, found.flat, found.norm)
        if self.average is not None:
            self.average.stepped()
        return rate
