"""A stack of CIFG layers over a sequence, forward and backward, from the layers of `Ops`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .backends import Array, CIFGTape, LayerGradients, LayerInput, Ops

Parameters = Mapping[str, Array]


class State(NamedTuple):
    """The carried state of a stack: h and c, each (L, B, H)."""

    h: Array
    c: Array


class StackTape(NamedTuple):
    """What `stack_forward` leaves behind for `stack_backward`."""

    layers: list[CIFGTape]
    inputs: list[LayerInput]
    recurrent: list[Array]  # R of each layer as it was used, (H, 3H)

    @property
    def top(self) -> Array:
        """The last layer's h at every step, (T, B, H)."""
        return self.layers[-1].h[1:, ...]

    def last_state(self, ops: Ops) -> State:
        """The state after the sequence, as arrays of their own."""
        return State(
            _stacked(ops, [tape.h[-1, ...] for tape in self.layers]),
            _stacked(ops, [tape.c[-1, ...] for tape in self.layers]),
        )


def stack_forward(
    ops: Ops,
    first: LayerInput,
    parameters: Parameters,
    state: State,
    masks: Sequence[Array] = (),
    weight_masks: Sequence[Array] = (),
) -> StackTape:
    """Run L layers, of which the first reads `first` and each other one h of the layer below.

    masks         factors of the h of layers 0 to L-2, (T, B, H), or (1, B, H) for all steps; or empty
    weight_masks  factors of R of every layer, (H, 3H); or empty
    """
    inputs = [first]
    layers: list[CIFGTape] = []
    recurrent: list[Array] = []
    for k in range(state.h.shape[0]):
        if k:
            x = layers[-1].h[1:, ...]
            inputs.append(layer_input(ops.multiply(x, masks[k - 1]) if masks else x, parameters, k))
        R = parameters[f"cifg.{k}.R"]
        recurrent.append(ops.multiply(R, weight_masks[k]) if weight_masks else R)
        layers.append(ops.layer_forward(inputs[k], recurrent[k], state.h[k, ...], state.c[k, ...]))
    return StackTape(layers, inputs, recurrent)


def stack_outputs(ops: Ops, first: LayerInput, parameters: Parameters, state: State) -> tuple[Array, State]:
    """As `stack_forward`, without a tape: h of the last layer at every step (T, B, H), and the state."""
    last_h, last_c = [], []
    source = first
    for k in range(state.h.shape[0]):
        R = parameters[f"cifg.{k}.R"]
        h, c = ops.layer_outputs(source, R, state.h[k, ...], state.c[k, ...])
        last_h.append(h[-1, ...])
        last_c.append(c)
        if k + 1 < state.h.shape[0]:
            source = layer_input(h[1:, ...], parameters, k + 1)
    return h[1:, ...], State(_stacked(ops, last_h), _stacked(ops, last_c))


def stack_backward(
    ops: Ops,
    dh: Array,
    gradients: Parameters,
    tape: StackTape,
    masks: Sequence[Array] = (),
    weight_masks: Sequence[Array] = (),
    state_gradients: bool = True,
) -> tuple[LayerGradients, State | None]:
    """Back through `stack_forward` from dh (T, B, H), the loss's derivative by the top layer's h.

    Writes the gradients of R of every layer and of W and b of all but the first, of W there as well
    where it has inputs x; returns those of the first layer's input and, with `state_gradients`, of the
    initial state. dh may be overwritten.
    """
    B, H = dh.shape[1:]
    dh0, dc0 = [], []
    for k in range(len(tape.layers) - 1, -1, -1):
        R, dR, source = tape.recurrent[k], gradients[f"cifg.{k}.R"], tape.inputs[k]
        dW = None if source.x is None else gradients[f"cifg.{k}.W"]
        dc_last = ops.zeros((B, H), dh.dtype)
        layer = ops.layer_backward(dh, dc_last, R, tape.layers[k], source, dR, dW, state_gradients)
        if weight_masks:
            ops.multiply(dR, weight_masks[k], out=dR)
        dh0.append(layer.h0)
        dc0.append(layer.c0)
        if k:
            gradients[f"cifg.{k}.b"][...] = layer.table[0, ...]
            dh = ops.multiply(layer.x, masks[k - 1], out=layer.x) if masks else layer.x
    if not state_gradients:
        return layer, None
    return layer, State(_stacked(ops, dh0[::-1]), _stacked(ops, dc0[::-1]))


def _stacked(ops: Ops, parts: Sequence[Array]) -> Array:
    """Arrays of all layers as one; CuPy's `stack` of more than eight cannot be captured in a graph."""
    out = ops.empty((len(parts), *parts[0].shape), parts[0].dtype)
    for k, part in enumerate(parts):
        out[k, ...] = part
    return out


def layer_input(x: Array, parameters: Parameters, k: int = 0) -> LayerInput:
    """What layer k reads where its input are vectors x (T, B, D): x W + b."""
    return LayerInput(parameters[f"cifg.{k}.b"][None, :], None, x, parameters[f"cifg.{k}.W"])
