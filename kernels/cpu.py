"""Fused loops of the Numba backend: gates, cross-entropy, segment sum.

Each runs without the GIL on a shard of rows, columns or elements that the caller chose; arrays
are C-contiguous rows. Loops are kept to few arrays each: LLVM gives up on vectorising a loop when
it would have to test too many pairs of pointers for overlap.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import kernel
from .elementwise import exp, sigmoid, tanh


@kernel
def gates_forward(wx, hR, c_prev, gates, c, h):
    """One time step from pre-activations wx + hR (B, 3H): writes gates, c and h."""
    B, H = c_prev.shape
    for b in range(B):
        from_x, from_h, gate = wx[b], hR[b], gates[b]
        before, now, out = c_prev[b], c[b], h[b]
        i, o, g = gate[:H], gate[H : 2 * H], gate[2 * H :]
        for k in range(2 * H):
            gate[k] = sigmoid(from_x[k] + from_h[k])
        g_from_x, g_from_h = from_x[2 * H :], from_h[2 * H :]
        for k in range(H):
            g[k] = tanh(g_from_x[k] + g_from_h[k])
        for k in range(H):
            now[k] = before[k] + i[k] * (g[k] - before[k])
        for k in range(H):
            out[k] = o[k] * tanh(now[k])


@kernel
def gates_backward(dh, dh_next, dc, gates, c_prev, c, da):
    """Back through one time step: dh + dh_next and dc (in place, to dc_{t-1}) to da (B, 3H)."""
    B, H = c.shape
    one = c.dtype.type(1)
    work = np.empty(H, c.dtype)
    for b in range(B):
        outer, inner, carry = dh[b], dh_next[b], dc[b]
        before, now, gate, d = c_prev[b], c[b], gates[b], da[b]
        i, o, g = gate[:H], gate[H : 2 * H], gate[2 * H :]
        d_i, d_o, d_g = d[:H], d[H : 2 * H], d[2 * H :]
        for k in range(H):
            work[k] = tanh(now[k])
        for k in range(H):
            d_o[k] = (outer[k] + inner[k]) * o[k]
        for k in range(H):
            carry[k] += d_o[k] * (one - work[k] * work[k])
        for k in range(H):
            d_o[k] *= work[k] * (one - o[k])
        for k in range(H):
            d_g[k] = carry[k] * i[k] * (one - g[k] * g[k])
        for k in range(H):
            work[k] = g[k] - before[k]
        for k in range(H):
            d_i[k] = carry[k] * work[k] * i[k] * (one - i[k])
        for k in range(H):
            carry[k] *= one - i[k]


@njit(nogil=True, fastmath={"reassoc", "nsz", "contract"})
def reordered_sum(x):
    # the one place where sums may be reordered: without that, a reduction stays scalar. A NaN stays one.
    total = x.dtype.type(0)
    for k in range(x.shape[0]):
        total += x[k]
    return total


@kernel
def softmax_cross_entropy(logits, targets, weights, dlogits, scale, smoothing):
    """Sum of the losses of some rows times their weights (float64); dlogits becomes that sum's gradient * scale.

    Of a target, a share `smoothing` is spread evenly over all of a row. dlogits may be logits.
    """
    N, V = logits.shape
    loss = 0.0
    for n in range(N):
        row, out, target = logits[n], dlogits[n], targets[n]
        largest, score = row[0], row[target]
        for k in range(1, V):
            largest = row[k] if row[k] > largest else largest
        for k in range(V):
            out[k] = exp(row[k] - largest)
        total = reordered_sum(out)
        loss += np.float64(weights[n]) * (np.log(np.float64(total)) - np.float64(score - largest))
        share = scale * weights[n]
        factor = share / total
        for k in range(V):
            out[k] *= factor
        out[target] -= share - share * smoothing
        if smoothing > 0:
            even = share * smoothing / logits.dtype.type(V)
            for k in range(V):
                out[k] -= even
    return loss


@kernel
def activation_gradients(dh, h, activation, temporal, start, stop):
    """dh_t += activation h_t + temporal (2 h_t - h_{t-1} - h_{t+1}) for the steps `start` to `stop`.

    dh and h are (T, B, H); at both ends the difference that is missing counts as 0. Returns the sums
    of h_t^2 and of (h_t - h_{t-1})^2 over these steps, in float64.
    """
    T, B, H = h.shape
    sizes, steps = 0.0, 0.0
    work = np.empty(H, h.dtype)
    for t in range(start, stop):
        for b in range(B):
            row, now = dh[t, b], h[t, b]
            before, after = h[max(t - 1, 0), b], h[min(t + 1, T - 1), b]
            for k in range(H):
                row[k] += activation * now[k] + temporal * ((now[k] - before[k]) - (after[k] - now[k]))
            for k in range(H):
                work[k] = now[k] * now[k]
            sizes += reordered_sum(work)
            for k in range(H):
                work[k] = (now[k] - before[k]) * (now[k] - before[k])
            steps += reordered_sum(work)
    return sizes, steps


@kernel
def scatter_add_rows(d, ids, rows, start, stop):
    """d[ids[n], start:stop] += rows[n, start:stop] for every n, in order."""
    for n in range(ids.shape[0]):
        into, row = d[ids[n], start:stop], rows[n, start:stop]
        for k in range(into.shape[0]):
            into[k] += row[k]


@kernel
def gather_rows(table, ids, out):
    """out[n] = table[ids[n]]."""
    D = table.shape[1]
    for n in range(ids.shape[0]):
        row, into = table[ids[n]], out[n]
        for k in range(D):
            into[k] = row[k]


@kernel
def sum_of_squares(x):
    """In float64, whatever the array's type."""
    total = 0.0
    for first in range(0, x.shape[0], 4096):
        piece = x[first : first + 4096].astype(np.float64)
        for k in range(piece.shape[0]):
            piece[k] *= piece[k]
        total += reordered_sum(piece)
    return total
