"""The work that is timed, the same for every backend and peer.

Shapes and units: V = 65 characters, embedding as wide as the layers, float32. A training step is
loss and gradients of T x B tokens with carried state, clipping by global norm, and Adam. Forward
is the logits of T x B tokens from a zero state. Generation is one stream, one character at a time,
with sampling at temperature 0.8 (ONNX Runtime: the step alone, without sampling).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from charlstm import LanguageModel, SamplingConfig
from charlstm.backends import Ops, Update
from charlstm.data import CharacterTokenizer
from charlstm.generation import generate, generate_many

VOCABULARY = 65
GENERATED = 500  # characters in one timed call: what `charlstm generate` draws unless told otherwise
TOKENIZER = CharacterTokenizer(chr(33 + k) for k in range(VOCABULARY))


class Shape(NamedTuple):
    hidden: int
    layers: int
    batch: int
    steps: int

    @property
    def tokens(self) -> int:
        return self.batch * self.steps

    def batches(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets, (T, B) each."""
        rng = np.random.default_rng(0)
        return (
            rng.integers(0, VOCABULARY, (self.steps, self.batch)),
            rng.integers(0, VOCABULARY, (self.steps, self.batch)),
        )


def flops(shape: Shape) -> int:
    """Floating-point operations of a forward pass, the first layer's input being a look-up."""
    H, L = shape.hidden, shape.layers
    return 2 * shape.tokens * (3 * H * H * (2 * L - 1) + H * VOCABULARY)


SHAPES = {"S": Shape(128, 2, 50, 50), "M": Shape(256, 2, 64, 100), "L": Shape(512, 2, 64, 128)}


def charlstm_model(shape: Shape, backend: str | Ops) -> LanguageModel:
    return LanguageModel(VOCABULARY, shape.hidden, shape.layers, shape.hidden, backend=backend)


def charlstm_train_step(shape: Shape, backend: str | Ops) -> Callable[[], None]:
    model = charlstm_model(shape, backend)
    ops, flat = model.ops, model.parameters.flat
    m, v = ops.zeros(flat.shape, flat.dtype), ops.zeros(flat.shape, flat.dtype)
    x, y = shape.batches()
    state, step = model.zero_state(shape.batch), 0

    def run() -> None:
        nonlocal state, step
        step += 1
        _, gradients, state = model.loss_and_gradients(x, y, state, state_gradients=False)
        scale = min(1.0, 1.0 / ops.global_norm(gradients.flat))
        ops.optimizer_update(Update("adam", step, 1e-3, scale), flat, gradients.flat, (m, v))
        ops.synchronize()

    return run


def charlstm_forward(shape: Shape, backend: str | Ops) -> Callable[[], np.ndarray]:
    model = charlstm_model(shape, backend)
    x, _ = shape.batches()

    def run() -> np.ndarray:
        logits, _ = model.forward(x)
        model.ops.synchronize()
        return logits

    return run


PLAIN = SamplingConfig(length=GENERATED, temperature=0.8)


def charlstm_generate(shape: Shape, backend: str | Ops) -> Callable[[], str]:
    model = charlstm_model(shape, backend)
    return lambda: "".join(generate(model, TOKENIZER, "!", PLAIN))


def charlstm_generate_many(
    shape: Shape, streams: int, sampling: SamplingConfig = PLAIN, sharpened: float = 1.0
) -> Callable[[], list[str]]:
    """The head's weights times `sharpened`: what a training does to the posterior, in a moment."""
    model = charlstm_model(shape, "numba")
    model.parameters["head.weight"][...] *= sharpened

    def run() -> list[str]:
        pieces = generate_many(model, TOKENIZER, ["!"] * streams, sampling)
        return ["".join(parts) for parts in zip(*pieces, strict=True)]

    return run


WORKLOADS = {"train_step": charlstm_train_step, "forward": charlstm_forward, "generate": charlstm_generate}
