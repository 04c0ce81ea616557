"""What a layer reads and leaves behind; the legend of dimensions stands in `ops`."""

from __future__ import annotations

from typing import NamedTuple

from .sampling import Array


class CIFGTape(NamedTuple):
    """What one pass over a sequence leaves behind; slot 0 of h and c holds the initial state.

    The content is the same on every backend, and a tape owns its arrays for as long as it lives.
    """

    h: Array  # (T+1, B, H)
    c: Array  # (T+1, B, H)
    gates: Array  # (T, B, 3H), activated: i, o, g


class LayerInput(NamedTuple):
    """What a layer's pre-activations hold beside h_{t-1} R: table[ids_t] + x_t W.

    For tokens the table is x W + b of every token; a bias alone is a table of one row.
    """

    table: Array  # (V, 3H)
    ids: Array = None  # (T, B): which row at each step; None: the table has one row
    x: Array = None  # (T, B, D), or None
    W: Array = None  # (D, 3H), likewise


class LayerGradients(NamedTuple):
    """What `layer_backward` returns beside the gradients of R and W."""

    table: Array  # (V, 3H)
    x: Array | None  # (T, B, D)
    h0: Array | None  # (B, H); None where it was not asked for
    c0: Array  # (B, H)
