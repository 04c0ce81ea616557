"""What a trainer keeps beside the weights to change them: the optimizer's buffers, the average."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..backends import RULES, Array, Update
from ..config import TrainingConfig
from ..model import CIFGModel

BETA2, EPSILON = 0.999, 1e-8
BETA2_OF, EPSILON_OF = {"rmsprop": 0.99}, {"adagrad": 1e-10}  # as in PyTorch


class Optimizer:
    """Changes a model's parameters by the rule that a configuration names."""

    def __init__(self, model: CIFGModel, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        flat = model.parameters.flat
        self._slots = {
            name: model.ops.zeros(flat.shape, flat.dtype) for name in RULES[config.optimizer].slots
        }

    @property
    def arrays(self) -> dict[str, Array]:
        """Its buffers, flat, by their names in a checkpoint."""
        return {f"optimizer.{name}": array for name, array in self._slots.items()}

    def update(self, step: int, learning_rate: float, gradients: Array, norm: Any) -> None:
        """Change the parameters by gradients of this norm, clipped; steps count from 1."""
        c = self._config
        beta2 = c.beta2 if c.beta2 is not None else BETA2_OF.get(c.optimizer, BETA2)
        epsilon = EPSILON_OF.get(c.optimizer, EPSILON)
        update = Update(
            c.optimizer,
            step,
            learning_rate,
            self._model.ops.clipping(norm, c.clip_norm),
            c.weight_decay,
            c.momentum,
            c.beta1,
            beta2,
            epsilon,
        )
        self._model.ops.optimizer_update(
            update, self._model.parameters.flat, gradients, tuple(self._slots.values())
        )


class WeightAverage:
    """An average of the weights over training steps, which validates and is kept in their place.

    "ema": an exponential moving average with `ema_decay`, shorter at first ((1 + n) / (10 + n) after n
    steps, as in TensorFlow). "nt-asgd" (Merity et al. 2018, arXiv 1708.02182, algorithm 1): the mean of
    all weights since the step at which a validation was worse than the best one of `average_after`
    and more validations before.
    """

    def __init__(self, model: CIFGModel, config: TrainingConfig) -> None:
        self._model, self._config = model, config
        flat = model.parameters.flat
        self._average = model.ops.zeros(flat.shape, flat.dtype)
        self._average[...] = flat
        self._count = 0  # steps in the average
        self._losses: list[float] = []
        self.running = config.averaging == "ema"

    @property
    def arrays(self) -> dict[str, Array]:
        return {"average": self._average}

    @property
    def record(self) -> dict[str, Any]:
        """What it depends on beside the array, for JSON."""
        return {"count": self._count, "losses": self._losses, "running": self.running}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take up a record; KeyError, TypeError or ValueError where it is damaged."""
        self._count = int(record["count"])
        self._losses = [float(loss) for loss in record["losses"]]
        self.running = bool(record["running"])

    def stepped(self) -> None:
        """After a training step."""
        if not self.running:
            return
        self._count += 1
        n = self._count
        share = 1 / n
        if self._config.averaging == "ema":
            share = 1 - min(self._config.ema_decay, (1 + n) / (10 + n))
        self._model.ops.move_towards(self._average, self._model.parameters.flat, share)

    def validated(self, loss: float) -> None:
        """After a validation: NT-ASGD's trigger."""
        earlier = self._losses[: -self._config.average_after]
        if not self.running and earlier and loss > min(earlier):
            self.running = True
        self._losses.append(loss)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's weights are the average."""
        flat = self._model.parameters.flat
        if not self._count:
            yield
            return
        own = self._model.ops.empty(flat.shape, flat.dtype)
        own[...] = flat
        flat[...] = self._average
        try:
            yield
        finally:
            flat[...] = own
