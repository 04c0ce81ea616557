"""The contract of a backend, with a default for every op on an array namespace.

Legend of dimensions, used everywhere in charlstm::

    T  time steps        B  batch            D  input features    E  embedding_size
    H  hidden_size       L  layers           V  vocabulary        N  rows, T * B flattened

Arrays are time-major. The gates are packed along the last axis in the order i, o, g.
One CIFG layer (Greff et al. 2015, arXiv 1503.04069: the variant with coupled input and
forget gate, f = 1 - i) computes::

    a_t = x_t W + b + h_{t-1} R           i = sigmoid(a_i)    o = sigmoid(a_o)    g = tanh(a_g)
    c_t = c_{t-1} + i * (g - c_{t-1})     h_t = o * tanh(c_t)

`Ops` is written against the array API standard, so `Ops(namespace)` works for any namespace
that conforms. A backend is a subclass that overrides what it can do faster. Every op leaves
its inputs as they were unless its docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .checks import check_recurrence
from .dropout import draw_bits, threshold_and_factor
from .layers import CIFGTape, LayerGradients, LayerInput
from .optimizer import RULES, Update
from .precision import MatmulPrecision
from .sampling import (
    Array,
    Drawn,
    Draws,
    StepWeights,
    draw_tokens,
    nothing_drawn,
)


class Ops:
    """The default ops, on any namespace of the array API standard."""

    name: ClassVar[str] = "array"
    matmul_precision: MatmulPrecision = "highest"
    """What float32 matrix products are made with."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    # ---- arrays -------------------------------------------------------------------------

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """x as an array of this backend, copied only where it has to be."""
        return self.xp.asarray(x, dtype=None if dtype is None else getattr(self.xp, dtype))

    def to_numpy(self, x: Array) -> np.ndarray:
        """x as a NumPy array on the host."""
        return np.asarray(x)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        out = self.empty(shape, dtype)
        out[...] = 0
        return out

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    def captured(self, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        """A function of arrays (or None), to be called many times; a backend may make one launch of it.

        It returns a tuple of arrays and numbers, leaves its arguments as they are, and depends on nothing but
        them and arrays that stay in their place. Its numbers may come back as 0-d arrays, which `float` reads; its
        arrays are valid until the next call.
        """
        return function

    def _number(self, x: Array) -> Any:
        """A 0-d array as the number that an op returns."""
        return float(x)

    def device(self) -> str:
        """The device that this backend computes on, in words."""
        return "cpu"

    def threads(self) -> int:
        """How many threads of the host compute."""
        return 1

    def compile_seconds(self) -> float:
        """Seconds that have gone into compiling so far, which the first use on a machine takes and others do not."""
        return 0.0

    # ---- products and look-ups ----------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """The product a b of two matrices, written to `out` where one is given."""
        product = self.xp.matmul(a, b)
        if out is None:
            return product
        out[...] = product
        return out

    def gather_rows(self, table: Array, ids: Array) -> Array:
        """Rows of `table` (V, D) at `ids` (N,): (N, D)."""
        return self.xp.take(table, ids, axis=0)

    def scatter_add_rows(self, d: Array, ids: Array, rows: Array) -> None:
        """Segment sum in place: d[ids[n]] += rows[n] for d (V, D), ids (N,), rows (N, D).

        Sums in an order that depends only on ids, so that results repeat to the bit.
        """
        xp, V, block = self.xp, d.shape[0], 1024
        for start in range(0, V, block):
            stop = min(start + block, V)
            symbols = xp.arange(start, stop, dtype=ids.dtype)
            one_hot = xp.astype(xp.expand_dims(ids, axis=0) == xp.expand_dims(symbols, axis=1), rows.dtype)
            d[start:stop, ...] += xp.matmul(one_hot, rows)

    # ---- the recurrence -----------------------------------------------------------------

    def cifg_forward(self, wx: Array, R: Array, h0: Array, c0: Array) -> CIFGTape:
        """Run one layer over a sequence.

        wx (T, B, 3H) holds x W + b; R (H, 3H); h0, c0 (B, H); all float32 or all float64.
        Raises ValueError for shapes that do not fit and TypeError for other dtypes.
        """
        T, B, H = check_recurrence(wx, R, h0, c0)
        h = self.empty((T + 1, B, H), wx.dtype)
        c = self.empty((T + 1, B, H), wx.dtype)
        gates = self.empty((T, B, 3 * H), wx.dtype)
        h[0, ...] = h0
        c[0, ...] = c0
        for t in range(T):
            a = wx[t, ...] + self.matmul(h[t, ...], R)
            gates[t, ...], c[t + 1, ...], h[t + 1, ...] = self.gates_forward(a, c[t, ...])
        return CIFGTape(h, c, gates)

    def cifg_backward(
        self, dh: Array, dc_last: Array, R: Array, tape: CIFGTape
    ) -> tuple[Array, Array, Array]:
        """Back through `cifg_forward`: dwx (T, B, 3H), dh0 (B, H), dc0 (B, H).

        dh (T, B, H) is the loss's derivative by every h_t from outside of the recurrence, the
        last one's including what follows the sequence; dc_last (B, H) that by the last c.
        """
        T, B, H = dh.shape
        dwx = self.empty((T, B, 3 * H), dh.dtype)
        dh_next = self.zeros((B, H), dh.dtype)
        dc = dc_last
        for t in range(T - 1, -1, -1):
            da, dc = self.gates_backward(
                dh[t, ...] + dh_next, dc, tape.gates[t, ...], tape.c[t, ...], tape.c[t + 1, ...]
            )
            dwx[t, ...] = da
            dh_next = self.matmul(da, R.T)
        return dwx, dh_next, dc

    def layer_forward(self, source: LayerInput, R: Array, h0: Array, c0: Array) -> CIFGTape:
        """Run one layer over a sequence, its input product included.

        R (H, 3H); h0, c0 (B, H); all arrays but the ids of one dtype. Raises as `cifg_forward` does.
        """
        return self.cifg_forward(self._input_product(source), R, h0, c0)

    def layer_outputs(self, source: LayerInput, R: Array, h0: Array, c0: Array) -> tuple[Array, Array]:
        """As `layer_forward`, without a tape: h (T+1, B, H) and the last c (B, H)."""
        tape = self.layer_forward(source, R, h0, c0)
        return tape.h, tape.c[-1, ...]

    def layer_backward(
        self,
        dh: Array,
        dc_last: Array,
        R: Array,
        tape: CIFGTape,
        source: LayerInput,
        dR: Array,
        dW: Array | None = None,
        state_gradients: bool = True,
    ) -> LayerGradients:
        """Back through `layer_forward`; dh and dc_last as in `cifg_backward`; dh may be
        overwritten, and become the gradient by x. Without `state_gradients` that by h0 may be left out.

        Writes the gradients of R and, where there are inputs x, of W over dR (H, 3H) and dW (D, 3H),
        both C-contiguous.
        """
        xp, (T, B, H) = self.xp, dh.shape
        dwx, dh0, dc0 = self.cifg_backward(dh, dc_last, R, tape)
        da = xp.reshape(dwx, (T * B, 3 * H))
        self.matmul(xp.reshape(tape.h[:-1, ...], (T * B, H)).T, da, out=dR)
        dx = None
        if source.x is not None:
            D = source.x.shape[2]
            self.matmul(xp.reshape(source.x, (T * B, D)).T, da, out=dW)
            dx = xp.reshape(self.matmul(da, source.W.T), (T, B, D))
        if source.ids is None:
            return LayerGradients(xp.sum(da, axis=0, keepdims=True), dx, dh0, dc0)
        dtable = self.zeros(source.table.shape, da.dtype)
        self.scatter_add_rows(dtable, xp.reshape(source.ids, (T * B,)), da)
        return LayerGradients(dtable, dx, dh0, dc0)

    def _input_product(self, source: LayerInput) -> Array:
        """wx (T, B, 3H) of a layer."""
        xp, table, ids = self.xp, source.table, source.ids
        if source.x is None:
            T, B = ids.shape
            return xp.reshape(self.gather_rows(table, xp.reshape(ids, (T * B,))), (T, B, table.shape[1]))
        T, B, D = source.x.shape
        wx = self.matmul(xp.reshape(source.x, (T * B, D)), source.W)
        wx += table[0, ...] if ids is None else self.gather_rows(table, xp.reshape(ids, (T * B,)))
        return xp.reshape(wx, (T, B, table.shape[1]))

    def gates_forward(self, a: Array, c_prev: Array) -> tuple[Array, Array, Array]:
        """From pre-activations a (B, 3H) and c_{t-1} (B, H): gates (B, 3H), c_t and h_t (B, H)."""
        xp, H = self.xp, c_prev.shape[1]
        i = _sigmoid(xp, a[:, :H])
        o = _sigmoid(xp, a[:, H : 2 * H])
        g = xp.tanh(a[:, 2 * H :])
        c = c_prev + i * (g - c_prev)
        return xp.concat((i, o, g), axis=1), c, o * xp.tanh(c)

    def gates_backward(
        self, dh: Array, dc: Array, gates: Array, c_prev: Array, c: Array
    ) -> tuple[Array, Array]:
        """Back through `gates_forward`: da (B, 3H) and dc_{t-1} (B, H), from dh_t and dc_t."""
        xp, H = self.xp, c.shape[1]
        i, o, g = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
        tanh_c = xp.tanh(c)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        da_i = dc * (g - c_prev) * i * (1 - i)
        da_o = dh * tanh_c * o * (1 - o)
        da_g = dc * i * (1 - g * g)
        return xp.concat((da_i, da_o, da_g), axis=1), dc * (1 - i)

    def cifg_step(self, wx: Array, R: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """One time step without a tape, for sampling: wx (B, 3H), h, c (B, H) to the next h, c."""
        _, c_next, h_next = self.gates_forward(wx + self.matmul(h, R), c)
        return h_next, c_next

    # ---- sampling -----------------------------------------------------------------------

    def stack_step(
        self, weights: StepWeights, tokens: Array, h: Array, c: Array
    ) -> tuple[Array, Array, Array]:
        """One step of a whole network: tokens (B,), h and c (L, B, H) to logits (B, V), h and c."""
        wx = self.gather_rows(weights.table, tokens)
        hs: list[Array] = []
        cs: list[Array] = []
        for k in range(h.shape[0]):
            if k:
                wx = self.matmul(hs[-1], weights.W[k - 1, ...]) + weights.b[k - 1, ...]
            h_next, c_next = self.cifg_step(wx, weights.R[k, ...], h[k, ...], c[k, ...])
            hs.append(h_next)
            cs.append(c_next)
        logits = self.matmul(hs[-1], weights.head) + weights.bias
        return logits, self.xp.stack(hs), self.xp.stack(cs)

    def pack_step_weights(self, weights: StepWeights) -> StepWeights:
        """The weights with what this backend wants to make of them once, not for every token."""
        return weights

    def generate(
        self,
        weights: StepWeights,
        logits: Array,
        h: Array,
        c: Array,
        draws: Draws,
        alternatives: int | None = None,
    ) -> Drawn:
        """Draw the next N tokens of B streams, as `draws` says; see `charlstm.backends.draw`.

        logits (B, V), h and c (L, B, H) are those after the last token. With `alternatives` the draws are
        scored, beside so many of the most probable tokens. What is returned beyond a stream's end means
        nothing. Raises FloatingPointError where logits are not finite, ValueError for draws that do not fit.
        """
        drawn = nothing_drawn(draws, logits, h, c, alternatives)
        draws = draws._replace(states=drawn.states)
        for n in range(len(drawn.tokens)):
            if not draw_tokens(self.to_numpy(logits), draws, drawn, n):
                break
            logits, h, c = self.stack_step(weights, self.asarray(drawn.tokens[n]), h, c)
        return drawn._replace(logits=logits, h=h, c=c)

    # ---- the head -----------------------------------------------------------------------

    def softmax(self, logits: Array) -> Array:
        """The posterior of each row of logits (N, V)."""
        xp = self.xp
        e = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def softmax_cross_entropy(
        self, logits: Array, targets: Array, smoothing: float = 0.0, row_weights: Array | None = None
    ) -> tuple[float, Array]:
        """Mean loss in nats of targets (N,) under logits (N, V), and its gradient (N, V).

        With `smoothing` the gradient, not the loss, is that for targets of which this share is spread
        evenly over all V (Szegedy et al. 2016, arXiv 1512.00567, section 7). `row_weights` (N,), of the logits'
        dtype, none negative and not all zero, are what each row counts for in the mean; None: all the same.
        """
        xp = self.xp
        N, V = logits.shape
        shifted = logits - xp.max(logits, axis=1, keepdims=True)
        log_sum = xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
        log_posterior = shifted - log_sum
        symbols = xp.expand_dims(xp.arange(V, dtype=targets.dtype), axis=0)
        one_hot = xp.astype(xp.expand_dims(targets, axis=1) == symbols, logits.dtype)
        weights = None if row_weights is None else xp.expand_dims(row_weights, axis=1)
        total = N if weights is None else float(xp.sum(weights))
        losses = log_posterior * one_hot
        loss = -float(xp.sum(losses if weights is None else weights * losses)) / total
        if smoothing:
            one_hot = (1 - smoothing) * one_hot + smoothing / V
        dlogits = xp.exp(log_posterior) - one_hot
        return loss, (dlogits if weights is None else weights * dlogits) / total

    def squared_error(
        self, outputs: Array, targets: Array, row_weights: Array | None = None
    ) -> tuple[float, Array]:
        """Half the mean square of outputs - targets, both (N, V), and its gradient by the outputs (N, V).

        row_weights as in `softmax_cross_entropy`.
        """
        xp, (N, V) = self.xp, outputs.shape
        error, total = outputs - targets, float(N)
        scaled = error
        if row_weights is not None:
            scaled, total = error * xp.expand_dims(row_weights, axis=1), self._number(xp.sum(row_weights))
        return self._number(xp.sum(scaled * error)) / (2 * total * V), scaled / (total * V)

    def head_loss(
        self, rows: Array, weight: Array, bias: Array, targets: Array, row_weights: Array | None = None
    ) -> tuple[float, float]:
        """Loss of targets (N,) under softmax(rows weight + bias), and the largest posterior: means.

        rows (N, H), weight (H, V), which may be a transposing view, bias (V,); the loss is in nats;
        row_weights as in `softmax_cross_entropy`.
        """
        logits = self.matmul(rows, weight) + bias
        loss, _ = self.softmax_cross_entropy(logits, targets, row_weights=row_weights)
        largest = self.xp.max(self.softmax(logits), axis=1)
        if row_weights is None:
            return loss, float(self.xp.mean(largest))
        return loss, float(self.xp.sum(largest * row_weights)) / float(self.xp.sum(row_weights))

    def head_gradients(
        self,
        rows: Array,
        weight: Array,
        bias: Array,
        targets: Array,
        dweight: Array,
        dbias: Array,
        smoothing: float = 0.0,
        transposed: bool = False,
        row_weights: Array | None = None,
    ) -> tuple[float, Array]:
        """The mean loss as in `head_loss`, and its gradient by the rows (N, H).

        Writes the gradients of weight and bias over dweight (H, V), or (V, H) if `transposed`,
        C-contiguous, and dbias (V,). `smoothing` and `row_weights` as in `softmax_cross_entropy`.
        """
        logits = self.matmul(rows, weight) + bias
        loss, dlogits = self.softmax_cross_entropy(logits, targets, smoothing, row_weights)
        if transposed:
            self.matmul(dlogits.T, rows, out=dweight)
        else:
            self.matmul(rows.T, dlogits, out=dweight)
        dbias[...] = self.xp.sum(dlogits, axis=0)
        return loss, self.matmul(dlogits, weight.T)

    # ---- training -----------------------------------------------------------------------

    def dropout_mask(
        self, shape: tuple[int, ...], rate: float, dtype: str, key: Array, place: tuple[int, int]
    ) -> Array:
        """Zeros with probability `rate` (in steps of 2**-16), else 1 / (1 - rate); mean 1.

        Drawn from `key` (2,), of `dropout.mask_key`, and `place` (layer, kind) alone, so that every backend drops
        the same units. For `multiply`, `gather_rows` and `to_numpy`: a backend may draw it there only.
        """
        threshold, factor = threshold_and_factor(rate)
        keep, bits = np.asarray(factor, dtype), draw_bits(shape, self.to_numpy(key), place)
        return self.asarray(np.multiply(bits >= threshold, keep, dtype=dtype))

    def multiply(self, x: Array, factors: Array, out: Array | None = None) -> Array:
        """x times factors of its shape, or with 1 where x has another size; `out` may be x."""
        product = x * factors
        if out is None:
            return product
        out[...] = product
        return out

    def activation_gradients(self, dh: Array, h: Array, activation: float, temporal: float) -> float:
        """Penalty on the size of h (T, B, H) and on its changes; adds its gradient to dh (T, B, H).

        Returns activation times the mean of h_t^2, plus temporal times the mean of (h_t - h_{t-1})^2
        over the T - 1 changes (Merity et al. 2017, arXiv 1708.01009).
        """
        xp, penalty = self.xp, 0.0
        if activation:
            penalty += activation * self._number(xp.mean(h * h))
            dh += (2 * activation / math.prod(h.shape)) * h
        if temporal and h.shape[0] > 1:
            change = h[1:, ...] - h[:-1, ...]
            penalty += temporal * self._number(xp.mean(change * change))
            change *= 2 * temporal / math.prod(change.shape)
            dh[1:, ...] += change
            dh[:-1, ...] -= change
        return penalty

    def global_norm(self, flat: Array) -> float:
        """The Euclidean norm of a flat buffer."""
        return math.sqrt(float(self.xp.sum(self.xp.astype(flat, self.xp.float64) ** 2)))

    def clipping(self, norm: Any, limit: float) -> Any:
        """What clipping leaves of gradients of this norm: min(1, limit / norm), for `Update.gradient_scale`."""
        return min(1.0, limit / norm) if norm > 0 else 1.0

    def optimizer_update(
        self, update: Update, parameters: Array, gradients: Array, slots: Sequence[Array]
    ) -> None:
        """One step of an optimizer on flat arrays: changes `parameters` and its `slots` in place."""
        rule = RULES[update.rule]
        rule.function(self.xp, parameters, gradients, *slots, *rule.numbers(update))

    def move_towards(self, average: Array, parameters: Array, share: float) -> None:
        """average += share (parameters - average), in place, on flat arrays."""
        average[...] = average + share * (parameters - average)


def _sigmoid(xp: Any, x: Array) -> Array:
    """The logistic function through tanh, which cannot overflow."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5
