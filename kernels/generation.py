"""Generation in one compiled loop: draw a token, read it, go on; without and with the tile engine."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .cpu import gates_forward
from .sampling import NOT_FINITE, draw, room, score
from .stepping import step


@kernel
def add_product(x, A, y):
    """y += x A for a vector x (K,) and A (K, N), four rows of A at a time."""
    K, N = A.shape
    whole = K - K % 4
    for k in range(0, whole, 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        a0, a1, a2, a3 = A[k], A[k + 1], A[k + 2], A[k + 3]
        for n in range(N):
            y[n] += x0 * a0[n] + x1 * a1[n] + x2 * a2[n] + x3 * a3[n]
    for k in range(whole, K):
        x0, a0 = x[k], A[k]
        for n in range(N):
            y[n] += x0 * a0[n]


@njit(**OPTIONS)
def _next_token(logits, draws, history, tokens, counts, scores, n, stream, space, allowed):
    """Draw token n of a stream, unless it has ended; False where its logits are not finite.

    Takes the stream's constraint on. Beyond its end a stream reads token 0, whose results nobody asks for.
    """
    tokens[n, stream] = 0
    left, state = draws.remaining[stream] - n - 1, draws.states[stream]
    if counts[stream] < n or left < 0:
        return True
    sampler, ends = draws.samplers[stream], False
    if state >= 0:
        ends = draws.final[state]
        for v in range(allowed.shape[0]):
            following = draws.next[state, v]
            allowed[v] = following >= 0 and draws.distance[following] <= left
    last = history.shape[1] - tokens.shape[0] + n
    first = last - sampler.window
    while first < last and history[stream, first] < 0:
        first += 1
    token = draw(
        logits, sampler, draws.temperatures[n, stream], draws.uniforms[n, stream], history[stream, first:last],
        draws.bias[stream] if draws.bias.shape[0] else space[0][:0],
        allowed if state >= 0 else allowed[:0], ends, space,
    )  # fmt: skip
    if token >= 0:
        tokens[n, stream] = history[stream, last] = token
        counts[stream] = n + 1
        if scores.entropies.shape[0]:
            score(logits, token, scores, n, stream)
        if state >= 0:
            draws.states[stream] = draws.next[state, token]
    return token != NOT_FINITE


@kernel
def generate(table, W, b, R, head, bias, logits, h, c, draws, history, tokens, counts, scores, start, stop):
    """Draw tokens (N, B) of the streams `start` to `stop`; logits (B, V), h and c (L, B, H) go on in place.

    W (L-1, H, 3H), b (L-1, 3H) and R (L, H, 3H) are stacked. history (B, W + N) holds `draws.past` and takes what is
    drawn. `counts` (B,), 0 at first, become the draws of each
    stream, and the states of `draws` those of their constraints. False where logits are not finite.
    """
    L, _, H = h.shape
    a, gates = np.empty((1, 3 * H), h.dtype), np.empty((1, 3 * H), h.dtype)
    before, nothing = np.empty((1, H), h.dtype), np.zeros((1, 3 * H), h.dtype)
    space, allowed = room(logits.shape[1]), np.empty(logits.shape[1], np.bool_)
    for stream in range(start, stop):
        for n in range(tokens.shape[0]):
            if not _next_token(
                logits[stream], draws, history, tokens, counts, scores, n, stream, space, allowed
            ):
                return False
            if counts[stream] <= n:
                break
            for k in range(L):
                if k:
                    a[0, :] = b[k - 1]
                    add_product(h[k - 1, stream], W[k - 1], a[0])
                else:
                    a[0, :] = table[tokens[n, stream]]
                state, cell = h[k, stream : stream + 1], c[k, stream : stream + 1]
                add_product(state[0], R[k], a[0])
                before[0, :] = cell[0]
                gates_forward(a, nothing, before, gates, cell, state)
            logits[stream] = bias
            add_product(h[L - 1, stream], head, logits[stream])
    return True


@kernel
def generate_fused(
    table, W, b, R, head, bias, low, tiles, logits, h, c, draws, history, tokens, counts, scores, start, stop
):
    """As `generate`, with all streams of a thread in a tile; W, R and head are packed in panels.

    low and tiles are as for `step`.
    h (2, L, B, H) is used in turn: slot 0 holds the state before the first draw, slot N % 2 the last.
    """
    space, allowed = room(bias.shape[0]), np.empty(bias.shape[0], np.bool_)
    for n in range(tokens.shape[0]):
        old, new = n % 2, (n + 1) % 2
        going = 0
        for stream in range(start, stop):
            if not _next_token(
                logits[stream], draws, history, tokens, counts, scores, n, stream, space, allowed
            ):
                return False
            going += counts[stream] > n
        if not going:
            break
        step(table, W, b, R, head, bias, low, tiles, tokens[n], h[old], h[new], c, logits, start, stop)
    return True
