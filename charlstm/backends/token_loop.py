"""Drawing tokens on the device: steps of the network and draws in turn, without the host in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .cuda_kernels import NULL, KernelTable
from .sampling import Array, Drawn, Draws, nothing_drawn

Step = Callable[[Array, Array, Array, Array], None]


class TokenLoop:
    """The loop of one network's weights, captured once for each number of tokens and streams.

    It draws by temperature, bias, `min_p` and redraws; what needs ranks, the text so far, a constraint or
    scores is drawn on the host (`takes`).
    """

    def __init__(self, xp: Any, table: KernelTable, step: Step, captured: Callable[[Any], Any]) -> None:
        """`step` takes tokens (B,) and changes logits (B, V), h and c (L, B, H) in place."""
        self._xp = xp
        self._run = captured(partial(_draw, xp, table, step))

    @staticmethod
    def takes(draws: Draws, alternatives: int | None) -> bool:
        """Whether all streams can be drawn here."""
        s = draws.samplers
        plain = (s["top_k"] == 0) & (s["top_p"] >= 1) & (s["typical"] >= 1)
        forgetful = (s["repetition_penalty"] == 1) & (s["no_repeat_ngram"] == 0)
        possible = bool((draws.bias > -np.inf).any(axis=1).all())  # a stream of which nothing is allowed ends
        return alternatives is None and possible and bool((plain & forgetful & (draws.states < 0)).all())

    def generate(self, logits: Array, h: Array, c: Array, draws: Draws) -> Drawn:
        """As `Ops.generate`."""
        drawn, xp = nothing_drawn(draws, logits, h, c, None), self._xp
        given = (
            draws.uniforms,
            draws.temperatures,
            draws.samplers["min_p"].astype(np.float64),
            draws.samplers["redraw"].astype(np.int32),
            draws.remaining.astype(np.int64),
            draws.bias.astype(np.float64) if len(draws.bias) else None,
        )
        arrays = (None if x is None else xp.asarray(x) for x in given)
        tokens, finite, *state = self._run(logits, h, c, *arrays)
        tokens, finite = xp.asnumpy(tokens), xp.asnumpy(finite)
        if not finite.all():
            raise FloatingPointError("logits are not finite numbers")
        counts = np.clip(draws.remaining, 0, len(tokens)).astype(np.int64)
        logits, h, c = (x.copy() for x in state)  # a captured function's results live until its next call
        return drawn._replace(tokens=tokens, counts=counts, logits=logits, h=h, c=c)


def _draw(
    xp: Any,
    table: KernelTable,
    step: Step,
    logits: Array,
    h: Array,
    c: Array,
    uniforms: Array,
    temperatures: Array,
    least: Array,
    redraws: Array,
    remaining: Array,
    bias: Array | None,
) -> tuple[Array, ...]:
    """Tokens (N, B), whether the logits of each stream were finite (B,), and the state after them."""
    N, B, numbers = uniforms.shape
    kernels, V = table.of(logits.dtype.name), logits.shape[1]
    logits, h, c = (x.copy() for x in (logits, h, c))
    tokens, finite = xp.empty((N, B), dtype=xp.int64), xp.ones((B,), dtype=xp.int32)
    added = NULL if bias is None else bias
    sizes = np.int32(B), np.int32(numbers), np.int32(V)
    for n in range(N):
        given = logits, uniforms, temperatures, added, least, redraws, remaining
        kernels.launch("draw_tokens", B, *given, tokens, finite, np.int32(n), *sizes)
        step(tokens[n], logits, h, c)
    return tokens, finite, logits, h, c
