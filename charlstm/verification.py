"""Gradient and agreement checks that any machine can run on itself: `charlstm backends --check`.

A gradient check compares the derivative along a random direction with central differences, in
float64; agreement compares a backend with the NumPy reference. Agreement alone would not do: two
backends can be wrong in the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .backends import MatmulPrecision, Ops, get_ops, plain_draws, rounded_precisions
from .cifg import State
from .config import ModelConfig
from .model import NO_PENALTIES, CIFGModel, Penalties, SequenceRegressor, StepInputs

GRADIENT_ERROR = 1e-7  # relative, float64
AGREEMENT_ERROR = {"float64": 1e-12, "float32": 2e-5}  # relative to the largest element
PRECISION_ERROR: dict[MatmulPrecision, float] = {
    "high": 5e-3,
    "medium": 5e-2,
}  # likewise, of rounded products
STEP = 1e-3  # of the differences; their error is of order STEP**4


@dataclass(frozen=True)
class Figure:
    """One measured error beside what is allowed."""

    backend: str
    check: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed  # False for NaN

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Case:
    """A network and the shape of its input; small sizes that no kernel's blocks divide."""

    name: str
    T: int
    B: int
    vocabulary: int = 13
    hidden: int = 9
    layers: int = 2
    embedding: int | None = None
    dropout: float = 0.0
    features: int | None = None
    last: bool = False
    weighted: bool = False  # targets count for more or less, some for nothing
    ragged: bool = False  # sequences end before T
    regression: bool = False  # targets are real numbers
    options: Mapping[str, Any] = field(default_factory=dict)  # further ones of `ModelConfig`
    penalties: Penalties = NO_PENALTIES

    def model(self, ops: Ops, dtype: str = "float64") -> CIFGModel:
        config = ModelConfig(
            self.hidden, self.layers, self.embedding, self.dropout, dtype, **self.options  # type: ignore[arg-type]
        )  # fmt: skip
        emit = "last" if self.last else "every"
        if self.regression:
            return SequenceRegressor(
                self.features, self.vocabulary, self.hidden, self.layers, self.dropout, emit, ops, dtype, 5  # type: ignore[arg-type]
            )  # fmt: skip
        return CIFGModel(self.vocabulary, config, input_size=self.features, emit=emit, backend=ops, seed=5)  # type: ignore[arg-type]

    def inputs(self) -> tuple[np.ndarray, np.ndarray, State]:
        """Input, targets and a state that is not zero, as float64 and int64 on the host."""
        rng = np.random.default_rng([self.T, self.B, self.hidden])
        shape = (self.T, self.B)
        x = (
            rng.integers(0, self.vocabulary, shape)
            if self.features is None
            else rng.standard_normal((*shape, self.features))
        )
        emitted = (self.B,) if self.last else shape
        targets = (
            rng.standard_normal((*emitted, self.vocabulary))
            if self.regression
            else rng.integers(0, self.vocabulary, emitted)
        )
        state_shape = (self.layers, self.B, self.hidden)
        return x, targets, State(rng.uniform(-1, 1, state_shape), rng.standard_normal(state_shape))

    def of_targets(self) -> dict[str, np.ndarray]:
        """Weights and lengths, where there are any."""
        rng = np.random.default_rng(4)
        given: dict[str, np.ndarray] = {}
        if self.weighted:
            weights = rng.exponential(size=(self.B,) if self.last else (self.T, self.B))
            weights.reshape(-1)[1] = 0
            given["weights"] = weights
        if self.ragged:
            given["lengths"] = rng.integers(1, self.T, self.B)
        return given


CASES = (
    Case("1 layer, 1 step, 1 row", T=1, B=1, layers=1),
    Case("1 layer, one-hot look-up", T=7, B=5, layers=1),
    Case("2 layers, embedding look-up", T=7, B=5, embedding=6),
    Case("3 layers, embedding, plain product", T=3, B=2, layers=3, embedding=6),
    Case("3 layers, one-hot, no table", T=2, B=3, layers=3),
    Case("2 layers, dropout", T=6, B=4, embedding=6, dropout=0.4),
    Case("2 layers, feature vectors, every step", T=6, B=4, features=5),
    Case("2 layers, feature vectors, last step", T=6, B=4, features=5, last=True),
    Case("3 layers, 1 row, larger than a vector", T=9, B=1, layers=3, hidden=37, embedding=8),
    Case("2 layers, shared out over threads", T=12, B=33, hidden=100, embedding=20, vocabulary=65),
    Case("input and output dropout, look-up", T=6, B=4, embedding=6,
         options={"input_dropout": 0.3, "output_dropout": 0.4}),
    Case("variational dropout everywhere, feature vectors, last step", T=6, B=4, features=5, last=True, dropout=0.3,
         options={"input_dropout": 0.3, "output_dropout": 0.4, "variational": True}),
    Case("embedding dropout, one-hot", T=6, B=4, options={"embedding_dropout": 0.3}),
    Case("embedding dropout, look-up", T=6, B=4, embedding=6, options={"embedding_dropout": 0.3}),
    Case("embedding dropout, plain product", T=3, B=2, embedding=6, options={"embedding_dropout": 0.3}),
    Case("weight drop", T=6, B=4, layers=3, options={"weight_drop": 0.5}),
    Case("tied embedding, look-up", T=6, B=4, embedding=9, options={"tied_embeddings": True}),
    Case("tied embedding, projection, plain product", T=3, B=2, embedding=6, options={"tied_embeddings": True}),
    Case("label smoothing", T=4, B=3, vocabulary=5, penalties=Penalties(label_smoothing=0.1)),
    Case("activation regularisation", T=5, B=3, embedding=6, options={"output_dropout": 0.4},
         penalties=Penalties(activation=2.0, temporal=1.0)),
    Case("activation regularisation, feature vectors, last step", T=5, B=3, features=4, last=True,
         penalties=Penalties(activation=2.0, temporal=1.0)),
    Case("weights, label smoothing, tied embedding", T=4, B=3, vocabulary=5, embedding=6, weighted=True,
         options={"tied_embeddings": True}, penalties=Penalties(label_smoothing=0.1)),
    Case("weights, feature vectors, ragged sequences", T=6, B=5, features=4, last=True, weighted=True, ragged=True,
         dropout=0.3, options={"output_dropout": 0.4}),
    Case("regression, every step, weights", T=4, B=3, features=4, vocabulary=2, weighted=True, regression=True),
    Case("AWD-LSTM", T=5, B=4, layers=3, embedding=6, vocabulary=7, dropout=0.3,
         options={"input_dropout": 0.4, "output_dropout": 0.4, "embedding_dropout": 0.1, "weight_drop": 0.5,
                  "variational": True, "tied_embeddings": True},
         penalties=Penalties(0.1, 2.0, 1.0)),
)  # fmt: skip


def directional_error(f: Callable[[float], float], derivative: float) -> float:
    """Relative error of a derivative at 0 against central differences of fourth order."""
    near, far = f(STEP) - f(-STEP), f(2 * STEP) - f(-2 * STEP)
    measured = (8 * near - far) / (12 * STEP)
    return abs(measured - derivative) / max(abs(measured), abs(derivative), 1e-8)


def gradient_errors(case: Case, ops: Ops) -> Iterator[tuple[str, float]]:
    """What was varied, and the relative error of its gradient: each parameter, h0, c0, features."""
    model = case.model(ops)
    x, targets, state = case.inputs()
    rng = np.random.default_rng(1)
    given: dict[str, Any] = {"dropout_seed": (3,), **case.of_targets()}
    smoothing = case.penalties.label_smoothing

    def loss(x: np.ndarray, state: State) -> float:
        """What the gradients are of: cross-entropy, which is linear in the targets, and penalties."""
        value, gradients, _ = model.loss_and_gradients(x, targets, state, penalties=case.penalties, **given)
        if smoothing:
            each = (np.full_like(targets, v) for v in range(case.vocabulary))
            others = [model.loss_and_gradients(x, y, state, **given)[0] for y in each]
            value = (1 - smoothing) * value + smoothing * sum(others) / len(others)
        return value + gradients.penalty

    _, gradients, _ = model.loss_and_gradients(x, targets, state, penalties=case.penalties, **given)
    for name, parameter in model.parameters.items():
        start = np.array(ops.to_numpy(parameter))
        direction = rng.standard_normal(start.shape)

        def along(
            size: float, parameter: Any = parameter, at: Any = start, direction: Any = direction
        ) -> float:
            parameter[...] = ops.asarray(at + size * direction)
            value = loss(x, state)
            parameter[...] = ops.asarray(at)
            return value

        yield name, directional_error(along, float(np.sum(ops.to_numpy(gradients[name]) * direction)))
    of_state = gradients.initial_state
    assert of_state is not None  # it was asked for
    for name, k in (("h0", 0), ("c0", 1)):
        direction = rng.standard_normal(state[k].shape)

        def shifted(size: float, k: int = k, direction: Any = direction) -> float:
            parts = [part + size * direction if k == n else part for n, part in enumerate(state)]
            return loss(x, State(*parts))

        yield (
            name,
            directional_error(shifted, float(np.sum(ops.to_numpy(of_state[k]) * direction))),
        )
    if gradients.inputs is not None:
        direction = rng.standard_normal(x.shape)
        derivative = float(np.sum(ops.to_numpy(gradients.inputs) * direction))
        yield "x", directional_error(lambda size: loss(x + size * direction, state), derivative)


def recurrence_errors(ops: Ops, T: int = 6, B: int = 5, H: int = 19) -> Iterator[tuple[str, float]]:
    """What was varied, and the relative error of its gradient: wx, R, h0 and c0 of the op itself."""
    rng = np.random.default_rng([T, B, H])
    names = ("wx", "R", "h0", "c0")
    inputs = [rng.standard_normal(shape) for shape in ((T, B, 3 * H), (H, 3 * H), (B, H), (B, H))]
    inputs[1] /= np.sqrt(H)
    dh, dc = rng.standard_normal((T, B, H)), rng.standard_normal((B, H))

    def loss(which: int, moved: np.ndarray) -> float:
        arrays = [moved if k == which else x for k, x in enumerate(inputs)]
        tape = ops.cifg_forward(*(ops.asarray(x) for x in arrays))
        h, c = ops.to_numpy(tape.h), ops.to_numpy(tape.c)
        return float(np.sum(h[1:] * dh) + np.sum(c[-1] * dc))

    wx, R, h0, c0 = (ops.asarray(x) for x in inputs)
    tape = ops.cifg_forward(wx, R, h0, c0)
    dwx, dh0, dc0 = (ops.to_numpy(x) for x in ops.cifg_backward(ops.asarray(dh), ops.asarray(dc), R, tape))
    dR = np.einsum("tbh,tbg->hg", ops.to_numpy(tape.h)[:-1], dwx)
    for which, (name, gradient) in enumerate(zip(names, (dwx, dR, dh0, dc0), strict=True)):
        direction = rng.standard_normal(gradient.shape)

        def along(size: float, which: int = which, direction: Any = direction) -> float:
            return loss(which, inputs[which] + size * direction)

        yield name, directional_error(along, float(np.sum(gradient * direction)))


def results(case: Case, ops: Ops, dtype: str) -> dict[str, np.ndarray]:
    """Loss, logits, gradients and carried state of a case, as NumPy arrays by name."""
    model = case.model(ops, dtype)
    x, targets, state = case.inputs()
    state = State(*(part.astype(dtype) for part in state))
    of_targets: dict[str, Any] = case.of_targets()
    loss, gradients, carried = model.loss_and_gradients(
        x, targets, state, dropout_seed=(3,), penalties=case.penalties, **of_targets
    )
    plain, confidence, _ = model.loss(x, targets, state, **of_targets)
    logits, _ = model.forward(x, state, of_targets.get("lengths"))
    arrays = {f"d {name}": array for name, array in gradients.items()}
    arrays |= {"logits": logits, "h": carried.h, "c": carried.c}
    assert gradients.initial_state is not None  # it was asked for
    arrays |= {"d h0": gradients.initial_state.h, "d c0": gradients.initial_state.c}
    if gradients.inputs is not None:
        arrays["d x"] = gradients.inputs
    figures = {
        name: np.asarray(value)
        for name, value in (
            ("loss", loss), ("penalty", gradients.penalty), ("plain loss", plain),
            *([] if case.regression else [("confidence", confidence)]),
        )
    }  # fmt: skip
    return {**figures, **{name: ops.to_numpy(array) for name, array in arrays.items()}}


def captured_error(ops: Ops) -> float:
    """The largest `agreement_error` of training steps by `Ops.captured`; infinite where no graph is replayed."""
    case = Case(
        "AWD-LSTM", T=5, B=3, embedding=6, dropout=0.3, options={"weight_drop": 0.2, "output_dropout": 0.2}
    )
    model, reference = case.model(ops), case.model(get_ops("numpy"))

    def compute(model: CIFGModel, *given: Any) -> tuple[Any, ...]:
        loss, gradients, state = model.gradients_of(StepInputs(*given), NO_PENALTIES, False)
        return loss, gradients.flat, *state

    run, errors = ops.captured(partial(compute, model)), []
    x, targets, state = case.inputs()
    for step in range(4):
        given = (np.roll(x, step, axis=0), targets, state, (step,))
        loss, *arrays = run(*model.step_inputs(*given))
        ours = {"loss": np.asarray(float(loss))} | {str(k): ops.to_numpy(a) for k, a in enumerate(arrays)}
        loss, *arrays = compute(reference, *reference.step_inputs(*given))
        errors.append(
            agreement_error(ours, {"loss": np.asarray(loss)} | {str(k): a for k, a in enumerate(arrays)})
        )
    return largest(errors) if getattr(run, "replayed", True) else math.inf


def drawn_error(ops: Ops) -> float:
    """The share of tokens that `Ops.generate` draws otherwise than NumPy, in calls that go on from each other."""
    V, B = 40, 5
    uniforms = np.random.default_rng(6).random((4, 16, B))
    drawn = []
    for each in (ops, get_ops("numpy")):
        model = CIFGModel(V, ModelConfig(9, 2, None, dtype="float64"), backend=each, seed=5)
        weights = model.step_weights()
        logits, (h, c) = model.forward(np.zeros((1, B), np.int64))
        logits = logits[0, ...]
        for part in uniforms:
            found = each.generate(weights, logits, h, c, plain_draws(part, 0.8, V=V))
            logits, h, c = found.logits, found.h, found.c
            drawn.append(found.tokens)
    return float(np.mean(np.concatenate(drawn[:4]) != np.concatenate(drawn[4:])))


def agreement_error(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    """The largest difference in any array, relative to that array's largest element."""
    return largest(
        float(np.max(np.abs(ours[name] - expected)) / max(float(np.max(np.abs(expected))), 1e-30))
        for name, expected in reference.items()
    )


def largest(errors: Iterable[float]) -> float:
    """The largest error; NaN where any is NaN, which Python's max would drop."""
    return float(np.max(list(errors)))


def check_backend(name: str | Ops) -> list[Figure]:
    """Every check of one backend on this machine."""
    ops = get_ops(name)
    reference = [results(case, get_ops("numpy"), "float64") for case in CASES]

    def agreement(ops: Ops, dtype: str) -> float:
        pairs = zip(CASES, reference, strict=True)
        return largest(agreement_error(results(case, ops, dtype), expected) for case, expected in pairs)

    worst = largest(error for _, error in recurrence_errors(ops))
    figures = [Figure(ops.name, "gradients, float64: wx, R, h0, c0 of a sequence", worst, GRADIENT_ERROR)]
    for case in CASES:
        worst = largest(error for _, error in gradient_errors(case, ops))
        figures.append(Figure(ops.name, f"gradients, float64: {case.name}", worst, GRADIENT_ERROR))
    for dtype, allowed in AGREEMENT_ERROR.items():
        check = f"agreement with NumPy float64, in {dtype}"
        figures.append(Figure(ops.name, check, agreement(ops, dtype), allowed))
    figures.append(
        Figure(ops.name, "training steps, as graphs where there are any", captured_error(ops), GRADIENT_ERROR)
    )
    figures.append(Figure(ops.name, "tokens drawn otherwise than by NumPy", drawn_error(ops), 0.0))
    for precision in [] if isinstance(name, Ops) else rounded_precisions(ops.name):
        error = agreement(get_ops(name, matmul_precision=precision), "float32")
        check = f"agreement with NumPy float64, products in {precision}"
        figures.append(Figure(ops.name, check, error, PRECISION_ERROR[precision]))
    return figures
