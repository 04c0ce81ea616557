"""Each optimizer against its equations written out, and against PyTorch where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from charlstm import ModelConfig, TrainingConfig
from charlstm.backends import RULES, Ops, Update
from charlstm.model import CIFGModel
from charlstm.training.optimizer import Optimizer

TOLERANCE = {"float32": 2e-4, "float64": 1e-13}  # of updates around 0.01 to 0.3: rmsprop
# divides tiny gradients, which have lost digits, by their own size
SETTINGS = {
    "adam": {},
    "adam-decay": {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    "adamw": {"weight_decay": 0.1},
    "sgd": {},
    "sgd-momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "adagrad": {"weight_decay": 0.1, "epsilon": 1e-10},
    "rmsprop": {"beta2": 0.99, "weight_decay": 0.1},
}
RATE, SCALE, STEPS = 0.01, 0.5, 4


def written_out(name: str, theta: np.ndarray, gradients: list[np.ndarray], **s: float) -> np.ndarray:
    """The published algorithms, term by term, in float64."""
    decay, beta1, beta2 = s.get("weight_decay", 0), s.get("beta1", 0.9), s.get("beta2", 0.999)
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for step, gradient in enumerate(gradients, 1):
        g = SCALE * gradient.astype(np.float64) + (0 if name == "adamw" else decay * theta)
        if name.startswith("adam"):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            shrunk = theta - RATE * decay * theta if name == "adamw" else theta
            corrected = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + s.get("epsilon", 1e-8))
            theta = shrunk - RATE * corrected
        elif name.startswith("sgd"):
            m = s.get("momentum", 0) * m + g
            theta = theta - RATE * m
        else:
            v = v + g**2 if name == "adagrad" else beta2 * v + (1 - beta2) * g**2
            theta = theta - RATE * g / (np.sqrt(v) + s.get("epsilon", 1e-8))
    return theta


def applied(
    ops: Ops, name: str, theta: np.ndarray, gradients: list[np.ndarray], scale: float, **settings: Any
) -> np.ndarray:
    rule = name.partition("-")[0]
    parameters = ops.asarray(theta.copy())
    slots = [ops.zeros(theta.shape, parameters.dtype) for _ in RULES[rule].slots]
    for step, gradient in enumerate(gradients, 1):
        update = Update(rule, step, RATE, scale, **settings)
        ops.optimizer_update(update, parameters, ops.asarray(gradient), slots)
    return ops.to_numpy(parameters)


@pytest.mark.parametrize("n", [7, 140_000])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_published_algorithms(ops: Ops, dtype: str, name: str, n: int, rng: np.random.Generator) -> None:
    theta = rng.standard_normal(n).astype(dtype)
    gradients = [rng.standard_normal(n).astype(dtype) for _ in range(STEPS)]
    expected = written_out(name, theta.astype(np.float64), gradients, **SETTINGS[name])
    found = applied(ops, name, theta, gradients, SCALE, **SETTINGS[name])
    assert found.dtype == dtype
    assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])
    assert np.abs(found - theta).max() > 0.01


def torch_optimizers(torch: Any) -> dict[str, Callable[..., Any]]:
    o = torch.optim
    return {
        "adam": lambda p: o.Adam(p, RATE),
        "adam-decay": lambda p: o.Adam(p, RATE, betas=(0.8, 0.95), weight_decay=0.1),
        "adamw": lambda p: o.AdamW(p, RATE, weight_decay=0.1),
        "sgd": lambda p: o.SGD(p, RATE),
        "sgd-momentum": lambda p: o.SGD(p, RATE, momentum=0.9, weight_decay=0.1),
        "adagrad": lambda p: o.Adagrad(p, RATE, weight_decay=0.1),
        "rmsprop": lambda p: o.RMSprop(p, RATE, alpha=0.99, weight_decay=0.1),
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_pytorchs_update(ops: Ops, name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theta = rng.standard_normal(50)
    gradients = [rng.standard_normal(50) for _ in range(STEPS)]
    peer = torch.tensor(theta.copy(), requires_grad=True)
    optimizer = torch_optimizers(torch)[name]([peer])
    for gradient in gradients:
        peer.grad = torch.tensor(gradient)
        optimizer.step()
    assert_allclose(
        applied(ops, name, theta, gradients, 1.0, **SETTINGS[name]), peer.detach().numpy(), rtol=1e-11
    )


def test_averages_move_towards_the_parameters(ops: Ops, dtype: str, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 140_001)).astype(dtype)
    average = ops.asarray(a.copy())
    ops.move_towards(average, ops.asarray(b), 0.25)
    assert_allclose(ops.to_numpy(average), 0.75 * a + 0.25 * b, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad", "rmsprop"])
def test_pytorchs_defaults(name: str, rng: np.random.Generator) -> None:
    """What a configuration leaves out is what PyTorch takes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = CIFGModel(3, ModelConfig(2, 1, dtype="float64"), backend="numpy")
    optimizer = Optimizer(model, TrainingConfig(optimizer=name))  # type: ignore[arg-type]
    n = model.num_parameters
    peer = torch.tensor(model.parameters.flat.copy(), requires_grad=True)
    theirs = torch_optimizers(torch)[name]([peer]) if name != "rmsprop" else torch.optim.RMSprop([peer], RATE)
    for step in range(1, STEPS + 1):
        gradient = 1e-9 * rng.standard_normal(n)  # small, so that epsilon tells
        if name == "adagrad":
            theirs = theirs if step > 1 else torch.optim.Adagrad([peer], RATE)
        peer.grad = torch.tensor(gradient)
        theirs.step()
        optimizer.update(step, RATE, gradient, 1.0)
    assert_allclose(model.parameters.flat, peer.detach().numpy(), rtol=1e-11)
