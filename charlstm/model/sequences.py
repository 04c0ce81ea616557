"""Networks that read feature vectors: a classifier, and one with real numbers in place of a posterior."""

from __future__ import annotations

import math
from typing import Any, Literal

from ..backends import Array, MatmulPrecision, Ops
from ..cifg import State
from ..config import ModelConfig
from ..errors import UsageError
from .network import CIFGModel, Emit, Gradients


class SequenceClassifier(CIFGModel):
    """A network that reads feature vectors (T, B, D) and gives the posterior of the classes.

    `emit` is "last" for one posterior of each sequence, "every" for one at each time step; the
    other keywords, `options` included, are those of `ModelConfig` and `CIFGModel`; no dropout unless
    asked for.
    """

    def __init__(
        self,
        input_size: int,
        num_classes: int,
        hidden_size: int = ModelConfig.hidden_size,
        num_layers: int = ModelConfig.num_layers,
        dropout: float = 0.0,
        emit: Emit = "last",
        backend: str | Ops = "auto",
        dtype: Literal["float32", "float64"] = ModelConfig.dtype,
        seed: int = 0,
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
        **options: Any,
    ) -> None:
        config = ModelConfig(hidden_size, num_layers, None, dropout, dtype, **options)
        super().__init__(
            num_classes, config, input_size=input_size, emit=emit, backend=backend, seed=seed, threads=threads,
            matmul_precision=matmul_precision,
        )  # fmt: skip


class SequenceRegressor(CIFGModel):
    """A network that reads feature vectors (T, B, D) and gives V real numbers.

    `emit` is "last" for the numbers (B, V) of each sequence, "every" for those at each time step
    (T, B, V); the other keywords as in `SequenceClassifier`. `forward` returns the numbers; targets are
    real, of their shape, and the loss is half the mean square of the errors.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 1,
        hidden_size: int = ModelConfig.hidden_size,
        num_layers: int = ModelConfig.num_layers,
        dropout: float = 0.0,
        emit: Emit = "last",
        backend: str | Ops = "auto",
        dtype: Literal["float32", "float64"] = ModelConfig.dtype,
        seed: int | None = 0,
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
        **options: Any,
    ) -> None:
        config = ModelConfig(hidden_size, num_layers, None, dropout, dtype, **options)
        super().__init__(
            output_size, config, input_size=input_size, emit=emit, backend=backend, seed=seed, threads=threads,
            matmul_precision=matmul_precision,
        )  # fmt: skip

    def posterior(
        self, x: Any, state: State | None = None, lengths: Any | None = None
    ) -> tuple[Array, State]:
        """UsageError: there is none."""
        raise UsageError("a regressor has no posterior: forward gives its outputs")

    def _target_shape(self) -> tuple[int, ...]:
        return (self.output_size,)

    def _goals(self, targets: Any) -> Array:
        return self.ops.xp.reshape(self.ops.asarray(targets, self.config.dtype), (-1, self.output_size))

    def _head_gradients(
        self, rows: Array, goals: Array, gradients: Gradients, smoothing: float, counts: Array | None
    ) -> tuple[float, Array]:
        if smoothing:
            raise UsageError("label_smoothing is of classes: a regressor has none")
        ops, weight = self.ops, self.parameters["head.weight"]
        loss, doutputs = ops.squared_error(self._outputs(rows), goals, counts)
        ops.matmul(rows.T, doutputs, out=gradients["head.weight"])
        gradients["head.bias"][...] = ops.xp.sum(doutputs, axis=0)
        return loss, ops.matmul(doutputs, weight.T)

    def _head_loss(self, rows: Array, goals: Array, counts: Array | None) -> tuple[float, float]:
        """The loss, and NaN in place of a posterior."""
        return self.ops.squared_error(self._outputs(rows), goals, counts)[0], math.nan

    def _outputs(self, rows: Array) -> Array:
        return self.ops.matmul(rows, self.parameters["head.weight"]) + self.parameters["head.bias"]
