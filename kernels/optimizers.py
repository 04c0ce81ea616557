"""Optimizers on flat arrays, fused: the rules of `charlstm.backends.optimizer`.

The scalars are of the arrays' dtype, so that float32 loops stay float32.
"""

from __future__ import annotations

import numpy as np

from .compiling import kernel


@kernel
def sgd_update(parameters, gradients, velocity, rate, scale, decay, momentum):
    for k in range(parameters.shape[0]):
        velocity[k] = momentum * velocity[k] + (scale * gradients[k] + decay * parameters[k])
        parameters[k] -= rate * velocity[k]


@kernel
def adagrad_update(parameters, gradients, squares, rate, scale, decay, epsilon):
    for k in range(parameters.shape[0]):
        gradient = scale * gradients[k] + decay * parameters[k]
        squares[k] += gradient * gradient
        parameters[k] -= rate * gradient / (np.sqrt(squares[k]) + epsilon)


@kernel
def rmsprop_update(parameters, gradients, squares, rate, scale, decay, beta2, epsilon):
    one = parameters.dtype.type(1)
    for k in range(parameters.shape[0]):
        gradient = scale * gradients[k] + decay * parameters[k]
        squares[k] = beta2 * squares[k] + (one - beta2) * (gradient * gradient)
        parameters[k] -= rate * gradient / (np.sqrt(squares[k]) + epsilon)


@kernel
def adam_update(parameters, gradients, m, v, rate, scale, decay, kept, root, beta1, beta2, epsilon):
    one = parameters.dtype.type(1)
    for k in range(parameters.shape[0]):
        gradient = scale * gradients[k] + decay * parameters[k]
        m[k] = beta1 * m[k] + (one - beta1) * gradient
        v[k] = beta2 * v[k] + (one - beta2) * (gradient * gradient)
        parameters[k] = kept * parameters[k] - rate * m[k] / (np.sqrt(v[k]) * root + epsilon)


@kernel
def move_towards(average, parameters, share):
    for k in range(average.shape[0]):
        average[k] += share * (parameters[k] - average[k])
