"""What is dropped in a training step, and what is penalised.

Dropout: units of the vectors that the first layer reads, of the h between layers, of the h that the
head reads (Zaremba et al. 2014, arXiv 1409.2329); whole words of the embedding (Gal & Ghahramani
2016, arXiv 1512.05287); weights of R (DropConnect, Merity et al. 2018, arXiv 1708.02182). Everything
that stays is multiplied by 1 / (1 - rate), and nothing is dropped where no gradients are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..backends import Array, Ops
from ..config import ModelConfig, TrainingConfig

BETWEEN, INPUT, OUTPUT, EMBEDDING, WEIGHTS = range(5)  # kinds of masks


class Masks(NamedTuple):
    """Factors, 0 or 1 / (1 - rate), of one training step; None or empty where nothing is dropped."""

    embedding: Array | None = None  # (V, 1): of the embedding's rows, or without one of W's
    input: Array | None = None  # (T, B, D), or (1, B, D) for all steps
    between: Sequence[Array] = ()  # (T, B, H), or (1, B, H): of the h of layers 0 to L-2
    weights: Sequence[Array] = ()  # (H, 3H): of R of every layer
    output: Array | None = None  # (T, B, H), or (1, B, H): of the h that the head reads


class Penalties(NamedTuple):
    """What training minimises beside the cross-entropy. It goes into the gradients, not into the loss."""

    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all V (arXiv 1512.00567, section 7)."""
    activation: float = 0.0
    """Times the mean square of what the head reads, dropout included (AR, arXiv 1708.01009)."""
    temporal: float = 0.0
    """Times the mean square of the top layer's h_t - h_{t-1}, without dropout, for the T - 1 pairs within
    the sequence: a carried h_0 is not one of them (TAR, likewise)."""

    @classmethod
    def of(cls, config: TrainingConfig) -> Penalties:
        """Those that a configuration asks for."""
        return cls(
            config.label_smoothing,
            config.activation_regularization,
            config.temporal_activation_regularization,
        )


NOTHING_DROPPED, NO_PENALTIES = Masks(), Penalties()


def draw_masks(
    ops: Ops,
    config: ModelConfig,
    T: int,
    B: int,
    read: int,
    vocab_size: int,
    input_size: int,
    key: Array,
) -> Masks:
    """The masks of one step of T x B inputs, from `key` (`backends.mask_key`) alone.

    read  steps of the T that the head reads; vocab_size  V; input_size  D, units of an input vector
    """
    H, L, dtype = config.hidden_size, config.num_layers, config.dtype
    steps = 1 if config.variational else T

    def mask(rate: float, shape: tuple[int, ...], kind: int, layer: int = 0) -> Array | None:
        return ops.dropout_mask(shape, rate, dtype, key, (layer, kind)) if rate else None

    def masks(rate: float, count: int, shape: tuple[int, ...], kind: int) -> list[Array]:
        return [mask(rate, shape, kind, layer) for layer in range(count)] if rate else []

    return Masks(
        embedding=mask(config.embedding_dropout, (vocab_size, 1), EMBEDDING),
        input=mask(config.input_dropout, (steps, B, input_size), INPUT),
        between=masks(config.dropout, L - 1, (steps, B, H), BETWEEN),
        weights=masks(config.weight_drop, L, (H, 3 * H), WEIGHTS),
        output=mask(config.output_dropout, (min(steps, read), B, H), OUTPUT),
    )
