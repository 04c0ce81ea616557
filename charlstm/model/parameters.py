"""All parameters of a model in one contiguous buffer, with a named view of each.

Optimizer update, gradient norm and checkpoint are then one operation each on every backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..backends import Array, Ops
from ..config import ModelConfig

Shapes = dict[str, tuple[int, ...]]
TIED_LIMIT = 0.1  # of the start values of a tied embedding


def parameter_shapes(config: ModelConfig, output_size: int, input_size: int | None = None) -> Shapes:
    """Names and shapes of all parameters, in the order of the buffer.

    `output_size` is V, the vocabulary or the number of classes. The input are tokens of that
    vocabulary, unless `input_size` D says that it is feature vectors.
    """
    H, E = config.hidden_size, config.embedding_size
    shapes: Shapes = {}
    first = input_size
    if first is None:
        first = output_size
        if E is not None:
            shapes["embedding.weight"] = (output_size, E)
            first = E
    for k in range(config.num_layers):
        shapes[f"cifg.{k}.W"] = (first if k == 0 else H, 3 * H)
        shapes[f"cifg.{k}.R"] = (H, 3 * H)
        shapes[f"cifg.{k}.b"] = (3 * H,)
    if not config.tied_embeddings:
        shapes["head.weight"] = (H, output_size)
    elif E is not None and E != H:
        shapes["head.projection"] = (H, E)
    shapes["head.bias"] = (output_size,)
    return shapes


class ParameterBuffer(Mapping[str, Array]):
    """A mapping of names to views of one flat array; write through the views or through `flat`."""

    def __init__(self, ops: Ops, shapes: Shapes, dtype: str) -> None:
        self.shapes = shapes
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.flat = ops.empty((sum(sizes),), getattr(ops.xp, dtype))
        self._views: dict[str, Array] = {}
        start = 0
        for (name, shape), size in zip(shapes.items(), sizes, strict=True):
            self._views[name] = ops.xp.reshape(self.flat[start : start + size], shape)
            start += size

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        return f"<{type(self).__name__} of {self.flat.shape[0]:,} numbers: {parts}>"


def initial_values(shapes: Shapes, hidden_size: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float64 start value of each parameter; the same on every backend.

    W and the head: uniform after Glorot & Bengio 2010, each gate a matrix of its own. R:
    orthogonal for each gate (Saxe et al. 2014, arXiv 1312.6120). Biases: 0, but -1 for the input
    gate, so that a cell at first keeps 1 - sigmoid(-1) = 0.73 of its content (the counterpart of
    the LSTM's forget bias of 1, Jozefowicz et al. 2015). Embedding: normal with variance 1; a tied
    one, which makes logits of h as well, uniform within 0.1 as in AWD-LSTM: with variance 1 the logits
    would spread by several nats, and training begin far above the loss of a uniform guess.
    """
    rng = np.random.default_rng(seed)
    H = hidden_size
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[-1]
        if name == "embedding.weight":
            tied = "head.weight" not in shapes
            value = rng.uniform(-TIED_LIMIT, TIED_LIMIT, shape) if tied else rng.standard_normal(shape)
        elif kind == "R":
            value = np.concatenate([_orthogonal(rng, H) for _ in range(3)], axis=1)
        elif kind in ("W", "weight", "projection"):
            fan_out = H if kind == "W" else shape[1]
            limit = math.sqrt(6 / (shape[0] + fan_out))
            value = rng.uniform(-limit, limit, shape)
        else:
            value = np.zeros(shape)
            if kind == "b":
                value[:H] = -1
        yield name, value


def _orthogonal(rng: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))  # so that all orthogonal matrices are equally likely
