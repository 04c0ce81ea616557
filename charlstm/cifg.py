"""A stack of CIFG layers over a sequence: the recurrence of `Ops`, and the products around it.

The products of all time steps are made at once, outside of the time loop: x W + b before it,
dW, dR, db and dx after it. The first layer's x W + b is the caller's (`model.inputs`), because
for tokens it is a table look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .backends import Array, CIFGTape, Ops


class State(NamedTuple):
    """The carried state of a stack: h and c, each (L, B, H)."""

    h: Array
    c: Array


class StackTape(NamedTuple):
    """What `stack_forward` leaves behind for `stack_backward`."""

    layers: list[CIFGTape]
    inputs: list[Array | None]  # (N, H) input rows of each layer; None for the first
    masks: Sequence[Array]  # (T, B, H) each, applied to the output of layers 0 to L-2; or empty

    @property
    def top(self) -> Array:
        """The last layer's h at every step, (T, B, H)."""
        return self.layers[-1].h[1:, ...]

    def last_state(self, ops: Ops) -> State:
        """The state after the sequence, as arrays of their own."""
        return State(
            ops.xp.stack([tape.h[-1, ...] for tape in self.layers]),
            ops.xp.stack([tape.c[-1, ...] for tape in self.layers]),
        )


def stack_forward(
    ops: Ops, wx: Array, parameters: Mapping[str, Array], state: State, masks: Sequence[Array] = ()
) -> StackTape:
    """Run L layers; wx (T, B, 3H) is the first layer's x W + b."""
    T, B, G = wx.shape
    H = G // 3
    layers = [ops.cifg_forward(wx, parameters["cifg.0.R"], state.h[0, ...], state.c[0, ...])]
    inputs: list[Array | None] = [None]
    for k in range(1, state.h.shape[0]):
        x = layers[-1].h[1:, ...]
        if masks:
            x = x * masks[k - 1]
        x = ops.xp.reshape(x, (T * B, H))
        wx = ops.matmul(x, parameters[f"cifg.{k}.W"])
        wx += parameters[f"cifg.{k}.b"]
        wx = ops.xp.reshape(wx, (T, B, G))
        layers.append(ops.cifg_forward(wx, parameters[f"cifg.{k}.R"], state.h[k, ...], state.c[k, ...]))
        inputs.append(x)
    return StackTape(layers, inputs, masks)


def stack_backward(
    ops: Ops, dh: Array, parameters: Mapping[str, Array], gradients: Mapping[str, Array], tape: StackTape
) -> tuple[Array, State]:
    """Back through `stack_forward` from dh (T, B, H), the loss's derivative by the top layer's h.

    Writes the gradients of R of every layer and of W and b of all but the first; returns the
    first layer's dwx (T, B, 3H) and the gradient of the initial state.
    """
    T, B, H = dh.shape
    dh0, dc0 = [], []
    for k in range(len(tape.layers) - 1, -1, -1):
        layer = tape.layers[k]
        R = parameters[f"cifg.{k}.R"]
        dwx, dh_first, dc_first = ops.cifg_backward(dh, ops.zeros((B, H), dh.dtype), R, layer)
        dh0.append(dh_first)
        dc0.append(dc_first)
        da = ops.xp.reshape(dwx, (T * B, 3 * H))
        h_before = ops.xp.reshape(layer.h[:-1, ...], (T * B, H))
        ops.matmul(h_before.T, da, out=gradients[f"cifg.{k}.R"])
        x = tape.inputs[k]
        if x is not None:
            ops.matmul(x.T, da, out=gradients[f"cifg.{k}.W"])
            gradients[f"cifg.{k}.b"][...] = ops.xp.sum(da, axis=0)
            dh = ops.xp.reshape(ops.matmul(da, parameters[f"cifg.{k}.W"].T), (T, B, H))
            if tape.masks:
                dh = dh * tape.masks[k - 1]
    return dwx, State(ops.xp.stack(dh0[::-1]), ops.xp.stack(dc0[::-1]))
