"""Generation in one compiled loop: draw a token, read it, go on; without and with the tile engine."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .cpu import gates_forward
from .products import add_rows
from .recurrence import forward_step


@kernel
def draw(logits, temperature, top_k, top_p, uniform, weights):
    """As `charlstm.backends.draw`; -1 where logits (V,) are not finite. weights (V,) is room."""
    V = logits.shape[0]
    best = 0
    for v in range(V):
        if not np.isfinite(logits[v]):
            return -1
        if logits[v] > logits[best]:
            best = v
    if temperature == 0:
        return best
    for v in range(V):
        weights[v] = np.exp((np.float64(logits[v]) - np.float64(logits[best])) / temperature)
    if 0 < top_k < V or top_p < 1:
        _cut(weights, top_k, top_p)
    total = 0.0
    for v in range(V):
        total += weights[v]
        weights[v] = total
    return np.searchsorted(weights, uniform * total, side="right")


@njit(**OPTIONS)
def _cut(weights, top_k, top_p):
    """Set to 0 what lies outside of the top k and the top p."""
    order = np.argsort(-weights, kind="mergesort")  # stable: of equal weights the first stay
    kept = min(top_k, len(weights)) if top_k else len(weights)
    if top_p < 1:
        total = 0.0
        for n in range(kept):
            total += weights[order[n]]
        wanted, total = top_p * total, 0.0
        for n in range(kept):
            total += weights[order[n]]
            if total >= wanted:
                kept = n + 1
                break
    weights[order[kept:]] = 0


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


@kernel
def generate(
    table, W, b, R, head, bias, logits, h, c, uniforms, temperature, top_k, top_p, tokens, start, stop
):
    """Draw tokens (N, B) of the streams `start` to `stop`; logits (B, V), h and c (L, B, H) go on in place.

    W (L-1, H, 3H), b (L-1, 3H) and R (L, H, 3H) are stacked. Returns the number of draws that were
    made of each stream: fewer than N where logits are not finite.
    """
    L, _, H = h.shape
    a, gates = np.empty((1, 3 * H), h.dtype), np.empty((1, 3 * H), h.dtype)
    before, nothing = np.empty((1, H), h.dtype), np.zeros((1, 3 * H), h.dtype)
    room = np.empty(logits.shape[1])
    for stream in range(start, stop):
        for n in range(uniforms.shape[0]):
            token = draw(logits[stream], temperature, top_k, top_p, uniforms[n, stream], room)
            if token < 0:
                return n
            tokens[n, stream] = token
            for k in range(L):
                if k:
                    a[0, :] = b[k - 1]
                    add_product(h[k - 1, stream], W[k - 1], a[0])
                else:
                    a[0, :] = table[token]
                state, cell = h[k, stream : stream + 1], c[k, stream : stream + 1]
                add_product(state[0], R[k], a[0])
                before[0, :] = cell[0]
                gates_forward(a, nothing, before, gates, cell, state)
            logits[stream] = bias
            add_product(h[L - 1, stream], head, logits[stream])
    return uniforms.shape[0]


@kernel
def generate_fused(
    table, W, b, R, head, bias, logits, h, c, uniforms, temperature, top_k, top_p, tokens, start, stop
):  # fmt: skip
    """As `generate`, with all streams of a thread in a tile; W, R and head are packed in panels.

    h (2, L, B, H) is used in turn: slot 0 holds the state before the first draw, slot N % 2 the last.
    """
    _, L, B, H = h.shape
    N, V = uniforms.shape[0], bias.shape[0]
    room, zeros, nothing = np.empty(V), np.zeros(B, np.int64), np.empty((B, 0), h.dtype)
    for n in range(N):
        old, new = n % 2, (n + 1) % 2
        for stream in range(start, stop):
            token = draw(logits[stream], temperature, top_k, top_p, uniforms[n, stream], room)
            if token < 0:
                return n
            tokens[n, stream] = token
        for k in range(L):
            if k:
                forward_step(
                    b[k - 1 : k], zeros, h[new, k - 1], W[k - 1], R[k], h[old, k], c[k], c[k], h[new, k],
                    None, 0, start, stop,
                )  # fmt: skip
            else:
                forward_step(
                    table, tokens[n], nothing, R[0], R[0], h[old, 0], c[0], c[0], h[new, 0],
                    None, 0, start, stop,
                )  # fmt: skip
        for stream in range(start, stop):
            logits[stream] = bias
        add_rows(h[new, L - 1], start * H, H, head, logits, start * V, stop - start, 1)
    return N
