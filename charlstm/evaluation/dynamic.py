"""Dynamic evaluation: a model that goes on learning while it reads (Krause et al. 2018, arXiv 1709.07432)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..backends import Array
from ..cifg import State
from ..data import StreamBatches
from ..errors import DataError, DivergedError
from ..model import CIFGModel
from .config import EvaluationConfig

PLACES = 10  # of the training text that gradient statistics are gathered from
PIECES = 50  # that are read in a row at each of them
DAMPING = 0.3  # of the average root mean square: the paper's epsilon
DIVERGED = 100.0  # nats per token: no vocabulary is so large that guessing costs as much
RATE = {"rms": 0.5, "sgd": 0.1}  # unless the configuration says otherwise


class DynamicModel:
    """A copy of a model, without dropout, that learns from what it has read.

    After each piece of the text with gradient g the weights theta, which were theta_0 after training,
    become::

        sgd    theta + decay (theta_0 - theta) - rate g
        rms    theta + min(1, decay RMS / mean(RMS)) (theta_0 - theta) - rate g mean(RMS) / (RMS + epsilon)

    RMS is, weight by weight, the root mean square of the gradients of such pieces of the training text.
    Weights that had large gradients there matter more to the model, so they are changed less and drawn
    back more (section 5 of the paper). The paper's rate is here rate mean(RMS), which makes one rate do for
    models whose gradients differ in size, as for both rules; its epsilon is here 0.3 mean(RMS).
    """

    def __init__(self, model: CIFGModel, config: EvaluationConfig, training: np.ndarray | None) -> None:
        """training: text that the model was trained on (N,), for the rule rms; DataError where there is none."""
        undropped = replace(
            model.config,
            dropout=0.0,
            input_dropout=0.0,
            output_dropout=0.0,
            embedding_dropout=0.0,
            weight_drop=0.0,
        )
        self.model = CIFGModel(model.output_size, undropped, backend=model.ops, seed=None)
        weights = self.model.parameters.flat
        weights[...] = self._trained = model.parameters.flat
        rate = RATE[config.dynamic_rule] if config.dynamic_rate is None else config.dynamic_rate
        self._rates: Array | float = rate
        self._pulls: Array | float = config.dynamic_decay
        if config.dynamic_rule == "rms":
            if training is None:
                raise DataError("gradient statistics need the training text: use --dynamic-rule sgd")
            rms = gradient_rms(self.model, training, config.dynamic_steps)
            mean = float(model.ops.xp.mean(rms))
            self._pulls = model.ops.xp.minimum(rms * (config.dynamic_decay / mean), 1.0)
            self._rates = rate * mean / (rms + DAMPING * mean)

    def learn(self, x: np.ndarray, targets: np.ndarray, state: State) -> None:
        """Change the weights by the gradient on tokens (T, B), read from a state."""
        loss, gradients, _ = self.model.loss_and_gradients(x, targets, state, state_gradients=False)
        if not loss < DIVERGED:  # be it large or no number
            raise DivergedError("dynamic evaluation has diverged: try a smaller --dynamic-rate")
        weights, step = self.model.parameters.flat, gradients.flat
        step *= self._rates
        back = self._trained - weights
        back *= self._pulls
        back -= step
        weights += back


def gradient_rms(model: CIFGModel, tokens: np.ndarray, seq_len: int) -> Array:
    """Root mean square of each weight's gradient over pieces of training text (N,), a flat array.

    They are 50 pieces of seq_len tokens in a row at each of 10 places, fewer where the text is short.
    """
    T = min(seq_len, len(tokens) - 1)
    places = max(1, min(PLACES, (len(tokens) - 1) // T))
    streams = StreamBatches(tokens, places, T)
    pieces = min(PIECES, streams.steps_per_epoch)
    total = model.ops.zeros(model.parameters.flat.shape, model.parameters.flat.dtype)
    for place in range(places):
        state = None
        for n in range(pieces):
            x, y = streams[n].x[:, [place]], streams[n].y[:, [place]]
            _, gradients, state = model.loss_and_gradients(x, y, state, state_gradients=False)
            total += gradients.flat * gradients.flat
    total /= places * pieces
    return model.ops.xp.sqrt(total)
