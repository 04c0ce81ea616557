"""A network that is trained on sequences, epoch after epoch, and can be pickled."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import Array, MatmulPrecision, get_ops, unavailable
from ..config import ModelConfig, TrainingConfig
from ..errors import DivergedError
from ..model import CIFGModel, SequenceClassifier, SequenceRegressor
from ..training.divergence import DivergingError, check_finite
from ..training.learner import Learner
from .sequences import Batch, Sequences

READ_AT_ONCE = 10  # steps whose losses a device is asked for together
ROWS_AT_ONCE = 1 << 16  # time steps of all sequences that are read side by side for predictions


class Targets:
    """What a network is to say of sequences, or of each of their steps, and what that counts for."""

    def __init__(self, values: np.ndarray, weights: np.ndarray, every: bool) -> None:
        """values (n,) or (n, V), of each step (N,) or (N, V) where `every`; weights (n,) or (N,)."""
        self.values, self.weights, self.every = values, weights, every

    def take(self, data: Sequences, which: np.ndarray) -> Targets:
        """Those of these sequences."""
        rows = data.rows_of(which) if self.every else which
        return Targets(self.values[rows], self.weights[rows], self.every)

    def counting(self, data: Sequences) -> np.ndarray:
        """The numbers of the sequences that count for anything; ValueError where none does."""
        sums = np.add.reduceat(self.weights, data.starts) if self.every else self.weights
        if not sums.any():
            raise ValueError("there is nothing to learn from: the weights of all samples are zero")
        return np.flatnonzero(sums)

    def batch(self, batch: Batch, which: np.ndarray) -> tuple[np.ndarray, dict[str, Any], float]:
        """Targets, further arguments of the loss, and what the batch counts for."""
        counts: dict[str, Any] = {"lengths": batch.lengths} if batch.ragged and not self.every else {}
        rows = batch.steps if self.every else which
        weights = self.weights[rows] * batch.inside if self.every else self.weights[rows]
        if np.any(weights != weights.flat[0]):
            counts["weights"] = weights
        return self.values[rows], counts, float(weights.sum())


class Fitter:
    """A network in training; pickled with its optimizer, as arrays."""

    def __init__(
        self,
        kind: type[SequenceClassifier] | type[SequenceRegressor],
        sizes: tuple[int, int],
        model: ModelConfig,
        emit: str,
        computing: tuple[str, int | None, MatmulPrecision],
        seed: int,
    ) -> None:
        """sizes: features of a vector and outputs; seed: of the weights and of the order of sequences.

        computing: backend, threads and precision of products, as `get_ops` takes them.
        """
        self._made_of = (kind, sizes, model, emit, computing, seed)
        self.model: CIFGModel = kind(
            *sizes, model.hidden_size, model.num_layers, model.dropout, emit, get_ops(*computing), model.dtype, seed  # type: ignore[arg-type]
        )  # fmt: skip
        self._seed = seed
        self._epochs = self._steps = 0  # of the weights
        self._updates = 0  # of the optimizer

    def fits(self, sizes: tuple[int, int], model: ModelConfig, emit: str) -> bool:
        """Whether this network is of such a shape."""
        return self._made_of[1:4] == (sizes, model, emit)

    def begin(self, config: TrainingConfig) -> None:
        """Take a new optimizer."""
        self._config, self._updates = config, 0
        self._learner = Learner(self.model, config)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # divergence is told once, as an error
    def epoch(
        self, data: Sequences, targets: Targets, batch_size: int, done: float = 0.0, share: float = 0.0
    ) -> float:
        """Train on every sequence once, in random order; the mean loss on the way.

        done   how much of the training is over, 0 to 1, and `share`, what this epoch is of it

        Raises DivergedError where loss or gradients are no longer finite numbers.
        """
        order = np.random.default_rng([self._seed, self._epochs]).permutation(len(data))
        parts = np.array_split(order, -(-len(data) // batch_size))
        total = whole = 0.0
        unread: list[tuple[int, Any, Any, float]] = []  # steps whose numbers may still be on the device

        def read() -> float:
            return sum(weight * _checked(*numbers) for *numbers, weight in unread)

        for k, which in enumerate(parts):
            batch = data.batch(which)
            values, counts, weight = targets.batch(batch, which)
            found = self._learner.gradients(self._steps, data.rows[batch.steps], values, None, **counts)
            unread.append((self._steps, found.loss, found.norm, weight))
            if found.read or len(unread) == READ_AT_ONCE:
                total += read()
                unread.clear()
            self._learner.learn(self._updates, found, done + share * k / len(parts))
            self._steps, self._updates = self._steps + 1, self._updates + 1
            whole += weight
        self._epochs += 1
        return (total + read()) / whole

    def outputs(self, data: Sequences) -> np.ndarray:
        """Logits, or the regressor's numbers, (n, V), or of each step (N, V)."""
        model = self.model
        every = model.emit == "every"
        count = len(data.rows) if every else len(data)
        out = np.empty((count, model.output_size), model.config.dtype)
        order = np.argsort(data.lengths, kind="stable")
        together = max(1, ROWS_AT_ONCE // int(data.lengths.max()))
        for start in range(0, len(order), together):
            which = order[start : start + together]
            batch = data.batch(which)
            lengths = batch.lengths if batch.ragged and not every else None
            found = model.ops.to_numpy(model.forward(data.rows[batch.steps], lengths=lengths)[0])
            if every:
                out[batch.steps[batch.inside]] = found[batch.inside]
            else:
                out[which] = found
        return out

    def weights(self) -> np.ndarray:
        """A copy of all parameters, (number of parameters,)."""
        return np.array(self.model.ops.to_numpy(self.model.parameters.flat))

    def set_weights(self, flat: np.ndarray) -> None:
        self.model.parameters.flat[...] = self.model.ops.asarray(flat)

    # ---- pickling -----------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        to_numpy = self.model.ops.to_numpy
        return {
            "made_of": self._made_of,
            "config": self._config,
            "counters": (self._epochs, self._steps, self._updates),
            "parameters": self.weights(),
            "optimizer": {name: np.array(to_numpy(array)) for name, array in self._arrays().items()},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind, sizes, model, emit, (backend, *others), seed = state["made_of"]
        if unavailable(backend) is not None:  # fitted on a GPU, and read where there is none
            backend = "auto"
        self.__init__(kind, sizes, model, emit, (backend, *others), seed)  # type: ignore[misc]
        self.begin(state["config"])
        self._epochs, self._steps, self._updates = state["counters"]
        self.set_weights(state["parameters"])
        for name, array in self._arrays().items():
            array[...] = self.model.ops.asarray(state["optimizer"][name])

    def _arrays(self) -> dict[str, Array]:
        """The optimizer's buffers."""
        return self._learner.optimizer.arrays


def _checked(step: int, loss: Any, norm: Any) -> float:
    """A step's loss; DivergedError unless it and the gradients are finite numbers."""
    value = float(loss)
    try:
        check_finite(value, float(norm), step)
    except DivergingError as problem:
        raise DivergedError(f"{problem}: try a smaller learning_rate, or scale the features") from None
    return value
