"""Embedding or feature vectors, a stack of CIFG layers, a softmax head: loss and gradients.

A language model and a classifier of feature-vector sequences are two uses of this one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..backends import Array, LayerInput, MatmulPrecision, Ops, StepWeights, get_ops, mask_key
from ..cifg import StackTape, State, stack_backward, stack_forward, stack_outputs
from ..config import ModelConfig
from ..errors import UsageError
from . import inputs
from .arguments import StepInputs, ids_on, last_rows, target_weights
from .head import head_backward, head_inputs, head_matrix
from .parameters import ParameterBuffer, initial_values, parameter_shapes
from .regularization import NO_PENALTIES, NOTHING_DROPPED, Masks, Penalties, draw_masks

Emit = Literal["every", "last"]


class Gradients(ParameterBuffer):
    """Gradients by parameter name, beside those of what went into the network."""

    initial_state: State | None
    """Gradient of the initial state: h and c, (L, B, H); None where it was not asked for."""
    inputs: Array | None = None
    """Gradient of the feature vectors, (T, B, D); None for tokens."""
    penalty: float = 0.0
    """What activation regularisation added to the loss that these are the gradients of."""


class CIFGModel:
    """A CIFG network on one backend.

    output_size  V: tokens of the vocabulary, or classes
    config       the shape of the network
    input_size   D: the input are feature vectors (T, B, D); None: tokens (T, B) below V
    emit         "every": a posterior at every time step; "last": only at the last
    backend      "auto", "numpy", "numba", "cupy", or an `Ops`
    seed         of the initial weights; the same weights on every backend. None leaves them
                 uninitialised, for weights that are about to be written
    threads      of the host; None: CHARLSTM_NUM_THREADS, else every usable core
    matmul_precision  "highest", "high", "medium" or "auto": how exactly products are made (`get_ops`)

    Raises UsageError for sizes that are not positive, BackendError for a backend that cannot run.
    """

    def __init__(
        self,
        output_size: int,
        config: ModelConfig | None = None,
        *,
        input_size: int | None = None,
        emit: Emit = "every",
        backend: str | Ops = "auto",
        seed: int | None = 0,
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
    ) -> None:
        self.config = config if config is not None else ModelConfig()
        if output_size < 1 or (input_size is not None and input_size < 1):
            raise UsageError(f"sizes must be at least 1, not {output_size} and {input_size}")
        if emit not in ("every", "last"):
            raise UsageError(f"emit must be 'every' or 'last', not {emit!r}")
        if input_size is not None and self.config.embedding_size is not None:
            raise UsageError("feature vectors need no embedding: leave embedding_size out")
        if input_size is not None and self.config.embedding_dropout:
            raise UsageError(
                "feature vectors have no words to drop: use input_dropout, not embedding_dropout"
            )
        if input_size is None and self.config.embedding_size is None and self.config.input_dropout:
            raise UsageError(
                "input_dropout drops units of an embedding, and one-hot tokens have none: give embedding_size, "
                "or use embedding_dropout, which drops whole tokens"
            )
        self.output_size, self.input_size, self.emit = output_size, input_size, emit
        self.ops = get_ops(backend, threads, matmul_precision)
        self.shapes = parameter_shapes(self.config, output_size, input_size)
        self.parameters = ParameterBuffer(self.ops, self.shapes, self.config.dtype)
        if seed is not None:
            self._initialise(seed)
        self._seed, self._masks_drawn = seed or 0, 0

    def _initialise(self, seed: int) -> None:
        for name, value in initial_values(self.shapes, self.config.hidden_size, seed):
            self.parameters[name][...] = self.ops.asarray(value, self.config.dtype)

    def __repr__(self) -> str:
        reads = "tokens" if self.input_size is None else f"vectors of {self.input_size}"
        return (
            f"<{type(self).__name__}: {reads}, {self.config.num_layers} layers of {self.config.hidden_size}, "
            f"{self.output_size} outputs, {self.num_parameters:,} parameters, {self.config.dtype} on {self.ops.name}>"
        )

    @property
    def num_parameters(self) -> int:
        return int(self.parameters.flat.shape[0])

    def zero_state(self, batch_size: int) -> State:
        """A state of zeros for `batch_size` sequences."""
        shape = (self.config.num_layers, batch_size, self.config.hidden_size)
        dtype = self.parameters.flat.dtype
        return State(self.ops.zeros(shape, dtype), self.ops.zeros(shape, dtype))

    # ---- forward ------------------------------------------------------------------------

    def forward(self, x: Any, state: State | None = None, lengths: Any | None = None) -> tuple[Array, State]:
        """Logits and carried state of tokens (T, B), or of feature vectors (T, B, D).

        The logits are (T, B, V), or (B, V) where the network emits at the last step only; the
        state's h and c are (L, B, H). lengths as in `loss_and_gradients`. No dropout. Raises ValueError
        for tokens out of range.
        """
        x = self._input(x)
        last = self._last_rows(lengths, x)
        top, state = stack_outputs(self.ops, self._first(x), self.parameters, self._state(state, x.shape[1]))
        return self._logits(top, last), state

    def trace(self, x: Any, state: State | None = None) -> tuple[Array, StackTape]:
        """As `forward`, with a tape in place of the state: h and c of every layer at every step.

        `tape.last_state(model.ops)` is the carried state. Many times the memory of `forward`.
        """
        x = self._input(x)
        tape = stack_forward(self.ops, self._first(x), self.parameters, self._state(state, x.shape[1]))
        return self._logits(tape.top), tape

    def posterior(
        self, x: Any, state: State | None = None, lengths: Any | None = None
    ) -> tuple[Array, State]:
        """As `forward`, with the softmax of the logits in their place."""
        logits, state = self.forward(x, state, lengths)
        rows = self.ops.softmax(self.ops.xp.reshape(logits, (-1, self.output_size)))
        return self.ops.xp.reshape(rows, logits.shape), state

    def loss(
        self,
        x: Any,
        targets: Any,
        state: State | None = None,
        weights: Any | None = None,
        lengths: Any | None = None,
    ) -> tuple[float, float, State]:
        """Mean loss in nats, the largest posterior averaged, and the carried state; no dropout.

        The arguments, and what is raised, as in `loss_and_gradients`.
        """
        x, goals = self._input_and_goals(x, targets)
        counts, last = self._counts(weights, x), self._last_rows(lengths, x)
        top, state = stack_outputs(self.ops, self._first(x), self.parameters, self._state(state, x.shape[1]))
        loss, confidence = self._head_loss(self._rows(self._emitting(top, last)), goals, counts)
        return loss, confidence, state

    def step_weights(self) -> StepWeights:
        """The weights for `Ops.stack_step` and `Ops.generate`; a copy, stale once weights change."""
        if self.input_size is not None:
            raise UsageError("a network that reads feature vectors has no tokens to step through")
        ops, p, L, H = self.ops, self.parameters, self.config.num_layers, self.config.hidden_size
        dtype = p.flat.dtype
        W, b = ops.empty((L - 1, H, 3 * H), dtype), ops.empty((L - 1, 3 * H), dtype)
        R = ops.empty((L, H, 3 * H), dtype)
        for k in range(L):
            R[k, ...] = p[f"cifg.{k}.R"]
            if k:
                W[k - 1, ...], b[k - 1, ...] = p[f"cifg.{k}.W"], p[f"cifg.{k}.b"]
        table = inputs.token_table(ops, p)
        weights = StepWeights(table, W, b, R, head_matrix(ops, p), p["head.bias"])
        return ops.pack_step_weights(weights)

    # ---- loss and gradients -------------------------------------------------------------

    def loss_and_gradients(
        self,
        x: Any,
        targets: Any,
        state: State | None = None,
        dropout_seed: Sequence[int] | None = None,
        penalties: Penalties = NO_PENALTIES,
        state_gradients: bool = True,
        weights: Any | None = None,
        lengths: Any | None = None,
    ) -> tuple[float, Gradients, State]:
        """Mean loss in nats, its gradients, and the carried state.

        x        tokens (T, B) or feature vectors (T, B, D)
        targets  (T, B) below V, or (B,) where the network emits at the last step only
        state    to start from (zeros if None); no gradient flows back into what made it
        dropout_seed  draws the dropout masks, the same on every backend; None: new ones each call
        penalties     what the gradients take into account beside the loss, which is cross-entropy alone
        state_gradients  False leaves out the gradients of the initial state, which training throws away
        weights  of the shape of targets: what each counts for in the mean loss (those of padding: 0); only
                 their ratios matter. None: all the same. Penalties know nothing of them
        lengths  (B,): where the network emits at the last step only, the number of steps of each sequence,
                 after which there is padding; None: T. The carried state is that after all T steps

        Raises ValueError for shapes that do not fit, tokens or targets out of range, empty input, weights
        that are negative, not finite or all 0, and lengths outside of 1 to T.
        """
        given = self.step_inputs(x, targets, state, dropout_seed, weights, lengths)
        return self.gradients_of(given, penalties, state_gradients)

    def step_inputs(
        self,
        x: Any,
        targets: Any,
        state: State | None = None,
        dropout_seed: Sequence[int] | None = None,
        weights: Any | None = None,
        lengths: Any | None = None,
    ) -> StepInputs:
        """The arguments of `loss_and_gradients`, checked, on the backend; raises as it does."""
        x, goals = self._input_and_goals(x, targets)
        counts, last = self._counts(weights, x), self._last_rows(lengths, x)
        h, c = self._state(state, x.shape[1])
        return StepInputs(x, goals, h, c, self._mask_key(dropout_seed), counts, last)

    def gradients_of(
        self, given: StepInputs, penalties: Penalties = NO_PENALTIES, state_gradients: bool = True
    ) -> tuple[float, Gradients, State]:
        """`loss_and_gradients`, of inputs that are on the backend."""
        ops, x = self.ops, given.x
        masks = self._masks(x.shape[0], x.shape[1], given.key)
        between, dropped = masks.between, masks.weights
        first = self._first(x, masks)
        tape = stack_forward(ops, first, self.parameters, given.state, between, dropped)
        gradients = Gradients(ops, self.shapes, self.config.dtype)
        loss, dh = self._head_backward(
            tape.top, given.last, given.goals, given.counts, masks.output, penalties, gradients
        )
        layer, gradients.initial_state = stack_backward(
            ops, dh, gradients, tape, between, dropped, state_gradients
        )
        tokens = x if self.input_size is None else None
        gradients.inputs = inputs.input_backward(ops, layer, tokens, self.parameters, gradients, masks)
        return loss, gradients, tape.last_state(ops)

    def _head_backward(
        self,
        top: Array,
        last: Array | None,
        goals: Array,
        counts: Array | None,
        mask: Array | None,
        penalties: Penalties,
        gradients: Gradients,
    ) -> tuple[float, Array]:
        """The loss, and the gradient by the top layer's h (T, B, H); writes the head's gradients."""
        ops, smoothing = self.ops, penalties.label_smoothing
        read = self._emitting(top, last)
        read = read if mask is None else ops.multiply(read, mask)
        loss, drows = self._head_gradients(self._rows(read), goals, gradients, smoothing, counts)
        dh = ops.xp.reshape(drows, read.shape)
        if penalties.activation:
            gradients.penalty += ops.activation_gradients(dh, read, penalties.activation, 0.0)
        if mask is not None:
            dh = ops.multiply(dh, mask, out=dh)
        if self.emit == "last":
            emitted, dh = dh, ops.zeros(top.shape, dh.dtype)
            if last is None:
                dh[-1:, ...] = emitted
            else:
                ops.scatter_add_rows(self._rows(dh), last, self._rows(emitted))
        if penalties.temporal:
            gradients.penalty += ops.activation_gradients(dh, top, 0.0, penalties.temporal)
        return loss, dh

    def _head_gradients(
        self, rows: Array, goals: Array, gradients: Gradients, smoothing: float, counts: Array | None
    ) -> tuple[float, Array]:
        """The loss of rows (N, H) that emit, and its gradient by them; writes the head's gradients."""
        return head_backward(self.ops, rows, self.parameters, goals, gradients, smoothing, counts)

    def _head_loss(self, rows: Array, goals: Array, counts: Array | None) -> tuple[float, float]:
        """The loss of rows (N, H) that emit, and the largest posterior averaged."""
        return self.ops.head_loss(*head_inputs(self.ops, rows, self.parameters), goals, counts)

    # ---- parts --------------------------------------------------------------------------

    def _input(self, x: Any) -> Array:
        """Token ids (T, B) or feature vectors (T, B, D) on the backend."""
        x = np.asarray(x) if isinstance(x, (list, tuple)) else x
        if self.input_size is None:
            if len(x.shape) != 2:
                raise ValueError(f"tokens must be (T, B), not {tuple(x.shape)}")
            return ids_on(self.ops, x, self.output_size, "tokens")
        if len(x.shape) != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"feature vectors must be (T, B, {self.input_size}), not {tuple(x.shape)}")
        return self.ops.asarray(x, self.config.dtype)

    def _input_and_goals(self, x: Any, targets: Any) -> tuple[Array, Array]:
        """The input, and targets as rows (N,) or (N, V), on the backend."""
        x = self._input(x)
        T, B = x.shape[:2]
        targets = np.asarray(targets) if isinstance(targets, (list, tuple)) else targets
        expected = ((T, B) if self.emit == "every" else (B,)) + self._target_shape()
        if tuple(targets.shape) != expected or 0 in expected or T == 0:
            raise ValueError(f"targets {tuple(targets.shape)} must be {expected}, and not empty")
        return x, self._goals(targets)

    def _target_shape(self) -> tuple[int, ...]:
        """The shape of one target."""
        return ()

    def _goals(self, targets: Any) -> Array:
        """Targets of the right shape as classes (N,), on the backend."""
        return self.ops.xp.reshape(ids_on(self.ops, targets, self.output_size, "targets"), (-1,))

    def _counts(self, weights: Any | None, x: Array) -> Array | None:
        """Weights of targets as rows (N,) on the backend."""
        if weights is None:
            return None
        shape = tuple(x.shape[:2] if self.emit == "every" else x.shape[1:2])
        return self.ops.asarray(target_weights(weights, shape), self.config.dtype)

    def _first(self, x: Array, masks: Masks = NOTHING_DROPPED) -> LayerInput:
        """What the first layer reads."""
        read = inputs.token_input if self.input_size is None else inputs.vector_input
        return read(self.ops, x, self.parameters, masks)

    def _mask_key(self, seed: Sequence[int] | None) -> Array | None:
        """What the masks of a step are drawn from, where anything is dropped."""
        c = self.config
        if not any((c.dropout, c.input_dropout, c.output_dropout, c.embedding_dropout, c.weight_drop)):
            return None
        if seed is None:
            self._masks_drawn += 1
            seed = (self._seed, self._masks_drawn)
        return self.ops.asarray(mask_key(seed))

    def _masks(self, T: int, B: int, key: Array | None) -> Masks:
        if key is None:
            return NOTHING_DROPPED
        read = T if self.emit == "every" else 1
        D = self.input_size or self.config.embedding_size or 0
        return draw_masks(self.ops, self.config, T, B, read, self.output_size, D, key)

    def _state(self, state: State | None, B: int) -> State:
        """The state to start from, on the backend."""
        if state is None:
            return self.zero_state(B)
        expected = (self.config.num_layers, B, self.config.hidden_size)
        if any(tuple(part.shape) != expected for part in state):
            raise ValueError(f"the state's h and c must be {expected}, not {[tuple(p.shape) for p in state]}")
        return State(*(self.ops.asarray(part) for part in state))

    def _last_rows(self, lengths: Any | None, x: Array) -> Array | None:
        """Where the last step (B,) of each sequence lies among T * B rows; None: at the end."""
        if lengths is None:
            return None
        if self.emit == "every":
            raise UsageError("a network that emits at every step needs no lengths: give padding the weight 0")
        return self.ops.asarray(last_rows(lengths, *x.shape[:2]))

    def _logits(self, top: Array, last: Array | None = None) -> Array:
        """Logits (T, B, V), or (B, V), of the top layer's h (T, B, H)."""
        rows, weight, bias = head_inputs(self.ops, self._rows(self._emitting(top, last)), self.parameters)
        logits = self.ops.matmul(rows, weight)
        logits += bias
        T, B = top.shape[:2]
        shape = (T, B, self.output_size) if self.emit == "every" else (B, self.output_size)
        return self.ops.xp.reshape(logits, shape)

    def _emitting(self, top: Array, last: Array | None) -> Array:
        """h of the top layer (T, B, H) at the steps that emit: all, or one (1, B, H)."""
        if self.emit == "every":
            return top
        if last is None:
            return top[-1:, ...]
        return self.ops.gather_rows(self._rows(top), last)[None, ...]

    def _rows(self, h: Array) -> Array:
        """(T, B, H) as rows (T * B, H)."""
        return self.ops.xp.reshape(h, (h.shape[0] * h.shape[1], h.shape[2]))


class LanguageModel(CIFGModel):
    """A network that reads tokens and gives the posterior of the next one at every step.

    >>> model = LanguageModel(vocab_size=65, hidden_size=16, num_layers=2, backend="numpy")
    >>> tokens = np.arange(30).reshape(10, 3)  # (T, B)
    >>> loss, gradients, state = model.loss_and_gradients(tokens, tokens + 1)
    >>> gradients["cifg.1.R"].shape, state.h.shape
    ((16, 48), (2, 3, 16))

    The keywords are those of `ModelConfig` and `CIFGModel`; there is no dropout unless asked for.
    `options`: its further ones, such as variational, weight_drop, tied_embeddings.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int = ModelConfig.hidden_size,
        num_layers: int = ModelConfig.num_layers,
        embedding_size: int | None = ModelConfig.embedding_size,
        dropout: float = 0.0,
        backend: str | Ops = "auto",
        dtype: Literal["float32", "float64"] = ModelConfig.dtype,
        seed: int = 0,
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
        **options: Any,
    ) -> None:
        config = ModelConfig(hidden_size, num_layers, embedding_size, dropout, dtype, **options)
        super().__init__(
            vocab_size, config, backend=backend, seed=seed, threads=threads, matmul_precision=matmul_precision
        )

    @property
    def vocab_size(self) -> int:
        return self.output_size
