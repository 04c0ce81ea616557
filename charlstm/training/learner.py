"""One step of any training: gradients, clipping, the optimizer at the schedule's rate, the average."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from ..backends import Array
from ..cifg import State
from ..config import TrainingConfig
from ..model import CIFGModel, Penalties, StepInputs
from .optimizer import Optimizer, WeightAverage
from .schedule import learning_rate


class StepGradients(NamedTuple):
    """What a batch gives a training step; its arrays are valid until the next step's."""

    loss: Any  # nats; a float, or what `float` reads from the device once it is there
    flat: Array  # the gradients of all parameters, in their order
    norm: Any  # of the gradients, likewise
    state: State  # after the batch, h and c (L, B, H)

    @property
    def read(self) -> bool:
        """Whether the numbers are known already: `float` would not wait."""
        return isinstance(self.loss, float)


class Learner:
    """Changes a model by the gradients of batches, whatever they are of: text or feature vectors."""

    def __init__(self, model: CIFGModel, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        self._run = model.ops.captured(partial(_compute, model, Penalties.of(config)))
        self.optimizer = Optimizer(model, config)
        self.average = WeightAverage(model, config) if config.averaging != "none" else None

    def gradients(self, step: int, x: Any, targets: Any, state: State | None, **counts: Any) -> StepGradients:
        """The gradients of a batch, for the step of this number (from 0), which draws what is dropped.

        x, targets, state and `counts` (weights, lengths) as in `CIFGModel.loss_and_gradients`.
        """
        given = self._model.step_inputs(x, targets, state, (self._config.seed, step), **counts)
        loss, flat, norm, h, c = self._run(*given)
        return StepGradients(loss, flat, norm, State(h, c))

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


def _compute(model: CIFGModel, penalties: Penalties, *given: Any) -> tuple[Any, ...]:
    """All of a step but the update, of arrays on the backend."""
    loss, gradients, after = model.gradients_of(StepInputs(*given), penalties, False)
    return loss, gradients.flat, model.ops.global_norm(gradients.flat), *after
