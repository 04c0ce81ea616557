"""What drawing tokens needs: a network's weights step by step, and how a token is drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any  # an array of the backend's own namespace


class StepWeights(NamedTuple):
    """A network's weights as sampling wants them, contiguous; made once, used for every token."""

    table: Array  # (V, 3H): the first layer's x W + b for each token
    W: Array  # (L-1, H, 3H), of the further layers
    b: Array  # (L-1, 3H), likewise
    R: Array  # (L, H, 3H)
    head: Array  # (H, V)
    bias: Array  # (V,)
    packed: Any = None  # the same in a backend's own layout, from `Ops.pack_step_weights`


class Sampler(NamedTuple):
    """How a token is drawn from logits."""

    temperature: float = 1.0  # divides the logits; 0 takes the most probable token
    top_k: int = 0  # only the k most probable tokens; 0: all
    top_p: float = 1.0  # only the most probable tokens that hold this much of the probability


def draw(logits: np.ndarray, sampler: Sampler, uniform: float) -> int:
    """A draw from softmax(logits / temperature), logits (V,), cut to the top k and the top p.

    The inverse of the cumulative distribution at `uniform`, a number in [0, 1). The top p (Holtzman
    et al. 2020, arXiv 1904.09751) are the fewest most probable tokens, of those that top_k leaves,
    whose probabilities sum up to p or more; of equal ones the first stay. Raises FloatingPointError
    where logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise FloatingPointError("logits are not finite numbers")
    if sampler.temperature == 0:
        return int(np.argmax(logits))
    shifted = logits.astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to exp(-inf)
        weights = np.exp(shifted / sampler.temperature)
    if 0 < sampler.top_k < len(weights) or sampler.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        kept = sampler.top_k or len(weights)
        sums = np.cumsum(weights[order[:kept]])
        if sampler.top_p < 1:
            kept = 1 + int(np.searchsorted(sums, sampler.top_p * sums[-1], side="left"))
        weights[order[kept:]] = 0
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
