"""The rules by which optimizers change parameters: flat buffers, in place, numbers made once a step.

In all of them g is the gradient times `gradient_scale`, plus `weight_decay` times the parameters
(an L2 penalty's gradient; AdamW takes the decay from the parameters themselves instead).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any


class Update(NamedTuple):
    """What one step of an optimizer depends on beside the arrays."""

    rule: str  # a key of RULES
    step: int  # counts from 1
    learning_rate: float
    gradient_scale: Any = (
        1.0  # multiplies the gradients first: `Ops.clipping`, a float or on a device a 0-d array
    )
    weight_decay: float = 0.0
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


class Rule(NamedTuple):
    """How one rule is computed; `function` here, `kernel` by name in the kernels of a backend."""

    slots: tuple[str, ...]  # its buffers, of the parameters' shape, zero at first
    kernel: str
    function: Callable[..., None]  # of xp, parameters, gradients, the slots and the numbers
    numbers: Callable[[Update], tuple[float, ...]]


def _sgd(
    xp: Any,
    p: Array,
    gradients: Array,
    velocity: Array,
    rate: float,
    scale: float,
    decay: float,
    momentum: float,
) -> None:
    """v = momentum v + g; p -= rate v (Polyak 1964, as PyTorch writes it)."""
    velocity[...] = momentum * velocity + (scale * gradients + decay * p)
    p[...] = p - rate * velocity


def _adagrad(
    xp: Any,
    p: Array,
    gradients: Array,
    squares: Array,
    rate: float,
    scale: float,
    decay: float,
    epsilon: float,
) -> None:
    """s += g^2; p -= rate g / (sqrt(s) + epsilon) (Duchi et al. 2011, JMLR 12)."""
    g = scale * gradients + decay * p
    squares[...] = squares + g * g
    p[...] = p - rate * g / (xp.sqrt(squares) + epsilon)


def _rmsprop(
    xp: Any, p: Array, gradients: Array, squares: Array,
    rate: float, scale: float, decay: float, beta2: float, epsilon: float,
) -> None:  # fmt: skip
    """s = beta2 s + (1 - beta2) g^2; p -= rate g / (sqrt(s) + epsilon) (Tieleman & Hinton 2012)."""
    g = scale * gradients + decay * p
    squares[...] = beta2 * squares + (1 - beta2) * (g * g)
    p[...] = p - rate * g / (xp.sqrt(squares) + epsilon)


def _adam(
    xp: Any, p: Array, gradients: Array, m: Array, v: Array,
    rate: float, scale: float, decay: float, kept: float, root: float, beta1: float, beta2: float, epsilon: float,
) -> None:  # fmt: skip
    """Kingma & Ba 2015 (arXiv 1412.6980, algorithm 1); rate and root carry the bias corrections.

    `kept` is what AdamW leaves of the parameters (Loshchilov & Hutter 2019, arXiv 1711.05101).
    """
    g = scale * gradients + decay * p
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * (g * g)
    p[...] = kept * p - rate * m / (xp.sqrt(v) * root + epsilon)


def _adam_numbers(u: Update) -> tuple[float, ...]:
    rate, root = u.learning_rate / (1 - u.beta1**u.step), (1 - u.beta2**u.step) ** -0.5
    decoupled = u.weight_decay if u.rule == "adamw" else 0.0
    decay = u.weight_decay - decoupled
    kept = 1 - u.learning_rate * decoupled
    return rate, u.gradient_scale, decay, kept, root, u.beta1, u.beta2, u.epsilon


RULES = {
    "adam": Rule(("m", "v"), "adam_update", _adam, _adam_numbers),
    "adamw": Rule(("m", "v"), "adam_update", _adam, _adam_numbers),
    "sgd": Rule(
        ("velocity",), "sgd_update", _sgd,
        lambda u: (u.learning_rate, u.gradient_scale, u.weight_decay, u.momentum),
    ),
    "adagrad": Rule(
        ("squares",), "adagrad_update", _adagrad,
        lambda u: (u.learning_rate, u.gradient_scale, u.weight_decay, u.epsilon),
    ),
    "rmsprop": Rule(
        ("squares",), "rmsprop_update", _rmsprop,
        lambda u: (u.learning_rate, u.gradient_scale, u.weight_decay, u.beta2, u.epsilon),
    ),
}  # fmt: skip
