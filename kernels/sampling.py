"""Drawing a token from logits: the compiled form of `charlstm.backends.draw`, which says what is done and why."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .elementwise import LOWEST64, exp

END = -1  # both as in charlstm.backends.sampling
NOT_FINITE = -2
RANKED = 256  # candidates that are sorted by counting; of more a heap gives the first ones
AT_ONCE = 32  # numbers that a turn of a loop takes at most: what is left over is slow


@kernel
def room(V):
    """What `draw` works in: values, weights and keys, and integers: an order, a spare one, marks.

    All (V+1,), but for the keys, which `_rank` fills up.
    """
    return (
        np.empty(V + 1),
        np.empty(V + 1),
        np.empty(V + AT_ONCE),
        np.empty(V + 1, np.int64),
        np.empty(V + 1, np.int64),
        np.zeros(V + 1, np.int64),
    )


@kernel
def draw(logits, sampler, temperature, uniforms, recent, bias, allowed, ends, room):
    """As `charlstm.backends.draw`; bias and allowed are (0,) where there are none, `room` is from `room`."""
    values, weights, keys, order, spare, marks = room
    V = logits.shape[0]
    best = 0
    for v in range(V):
        if not np.isfinite(logits[v]):
            return NOT_FINITE
        values[v] = logits[v]
        if logits[v] > logits[best]:
            best = v
    count, top, outside = V, values[best], -np.inf
    masked = bias.shape[0] or allowed.shape[0] or sampler.repetition_penalty != 1 or sampler.no_repeat_ngram
    if masked:
        for v in range(bias.shape[0]):
            values[v] += bias[v]
        marks[V] += 2
        seen, banned = marks[V], marks[V] + 1
        if sampler.repetition_penalty != 1:
            _penalize(values, recent, sampler.repetition_penalty, marks, seen)
        if sampler.no_repeat_ngram:
            _rule_out(recent, sampler.no_repeat_ngram, marks, banned)
        if ends:
            for v in range(V):
                if not allowed[v]:
                    outside = max(outside, values[v])
        best = _mask(values, allowed, marks, banned, weights)
        if best < 0:  # rather a repetition than nothing
            best = _mask(values, allowed, marks, banned + 1, weights)
        if best < 0:
            return END
        top = values[best]
    if temperature == 0:
        return END if outside > top else best
    top = max(top, outside)
    if ends:
        count = V + 1
        weights[V] = 0
        for v in range(V):
            if not allowed[v]:
                weights[V] += np.exp((values[v] - top) / temperature)
        values[V] = np.log(weights[V])
    if masked:
        for v in range(V):
            values[v] = weights[v]
    for v in range(V):
        values[v] = (values[v] - top) / temperature
        weights[v] = exp(values[v]) if values[v] >= LOWEST64 else 0.0
    _cut(weights[:count], values, sampler, keys, order, spare)
    token = _at(weights[:count], uniforms[0])
    if sampler.redraw:
        best = 0
        for v in range(count):
            if weights[v] > weights[best]:
                best = v
        if token != best:
            token = _at(weights[:count], uniforms[1])
    return END if token == V else token


@njit(**OPTIONS)
def _penalize(values, recent, penalty, marks, mark):
    for token in recent:
        if marks[token] != mark:
            marks[token] = mark
            if values[token] > 0:
                values[token] /= penalty
            else:
                values[token] *= penalty


@njit(**OPTIONS)
def _rule_out(recent, size, marks, mark):
    """Mark the tokens that would make an n-gram which `recent` holds already."""
    last = recent.shape[0] - size + 1  # where the tokens begin that the next one would join
    for start in range(last):
        k = 0
        while k < size - 1 and recent[start + k] == recent[last + k]:
            k += 1
        if k == size - 1:
            marks[recent[start + k]] = mark


@njit(**OPTIONS)
def _mask(values, allowed, marks, mark, weights):
    """Values of what may follow, -inf for the rest; the largest's place, -1 where nothing may."""
    best, largest, V = -1, -np.inf, marks.shape[0] - 1
    for v in range(V):
        weights[v] = values[v]
        if marks[v] == mark or (allowed.shape[0] and not allowed[v]):
            weights[v] = -np.inf
        if weights[v] > largest:
            best, largest = v, weights[v]
    return best


@njit(**OPTIONS)
def _cut(weights, logarithms, sampler, keys, order, spare):
    """Set to 0 the weights that the sampler leaves out."""
    V = weights.shape[0]
    if 0 < sampler.top_k < V or sampler.top_p < 1:
        count = _left(weights, order)
        for k in range(count):
            keys[k] = weights[order[k]]
        _keep(weights, keys, order, spare, count, sampler.top_k if sampler.top_k else V, sampler.top_p)
    if sampler.typical < 1:
        count, total, entropy = _left(weights, order), 0.0, 0.0
        for k in range(count):
            total += weights[order[k]]
        log_total = np.log(total)
        for k in range(count):
            keys[k] = log_total - logarithms[order[k]]
            entropy += weights[order[k]] / total * keys[k]
        for k in range(count):
            keys[k] = -abs(keys[k] - entropy)
        _keep(weights, keys, order, spare, count, count, sampler.typical)
    if sampler.min_p > 0:
        largest = 0.0
        for v in range(V):
            largest = max(largest, weights[v])
        for v in range(V):
            if weights[v] < sampler.min_p * largest:
                weights[v] = 0


@njit(**OPTIONS)
def _left(weights, order):
    """Bring to the front of `order` the tokens that can still be drawn; their number."""
    count = 0
    for v in range(weights.shape[0]):
        order[count] = v
        count += weights[v] > 0
    return count


@njit(**OPTIONS)
def _keep(weights, keys, order, spare, count, most, share):
    """Set to 0 all weights but some: those of the tokens order[k] with the largest keys[k], k below count.

    At most so many, and of these the first that hold the share of their weights.
    """
    limited, total = most < count, 0.0
    for k in range(count):
        total += weights[order[k]]
    most = min(most, count)
    if count <= RANKED:
        _rank(keys, order, spare, count)
    else:
        most = _take_from_heap(weights, keys, order, spare, count, most, np.inf if limited else share * total)
    kept = most
    if share < 1:
        if limited:  # the share is one of what `most` leaves
            total = 0.0
            for k in range(most):
                total += weights[order[k]]
        mass, kept = 0.0, 0
        while mass < share * total and kept < most:
            mass += weights[order[kept]]
            kept += 1
    for k in range(kept):
        keys[k] = weights[order[k]]
    for v in range(weights.shape[0]):
        weights[v] = 0
    for k in range(kept):
        weights[order[k]] = keys[k]


@njit(**OPTIONS)
def _rank(keys, order, spare, count):
    """Sort `order`, tokens that ascend, by their keys, the largest first, of equal ones the first token.

    By counting what precedes each: nothing for a processor to guess, and whole vectors at a time.
    """
    padded = (count + AT_ONCE - 1) // AT_ONCE * AT_ONCE
    for k in range(count, padded):
        keys[k] = -np.inf
    for k in range(count):
        spare[k] = -1
    for k in range(count):
        key, rank = keys[k], 0
        for other in range(padded):
            rank += np.int64(keys[other] > key)
        while spare[rank] >= 0:  # the place of an equal one
            rank += 1
        spare[rank] = order[k]
    for k in range(count):
        order[k] = spare[k]


@njit(**OPTIONS)
def _take_from_heap(weights, keys, order, spare, count, most, mass):
    """As `_rank`, for the first so many or so much: few of many. Returns how many these are."""
    taken = root = 0
    for start in range(count // 2 - 1, -1, -1):
        _sift(keys, order, start, count)
    while taken < most and mass > 0:
        spare[taken] = order[0]
        mass -= weights[order[0]]
        taken += 1
        keys[0], order[0] = keys[count - taken], order[count - taken]
        _sift(keys, order, root, count - taken)
    for k in range(taken):
        order[k] = spare[k]
    return taken


@njit(**OPTIONS)
def _sift(keys, order, start, count):
    """Let the key at `start` sink to its place in a heap with the largest, of equal ones the first token, on top."""
    place, key, token = start, keys[start], order[start]
    while 2 * place + 1 < count:
        child = 2 * place + 1
        if child + 1 < count and (
            keys[child + 1] > keys[child]
            or (keys[child + 1] == keys[child] and order[child + 1] < order[child])
        ):
            child += 1
        if key > keys[child] or (key == keys[child] and token < order[child]):
            break
        keys[place], order[place] = keys[child], order[child]
        place = child
    keys[place], order[place] = key, token


@njit(**OPTIONS)
def _precedes(keys, a, b):
    return keys[a] > keys[b] or (keys[a] == keys[b] and a < b)


@njit(**OPTIONS)
def _at(weights, uniform):
    """Where the running sum of the weights passes a share of it all."""
    total = 0.0
    for v in range(weights.shape[0]):
        total += weights[v]
    wanted, mass = uniform * total, 0.0
    last = 0
    for v in range(weights.shape[0]):
        mass += weights[v]
        if mass > wanted:
            return v
        if weights[v] > 0:
            last = v
    return last


@kernel
def score(logits, token, scores, n, stream):
    """As `charlstm.backends.score`."""
    if not scores.entropies.shape[0]:
        return
    V, A = logits.shape[0], scores.best.shape[2]
    largest, total, mean = -np.inf, 0.0, 0.0
    for v in range(V):
        largest = max(largest, np.float64(logits[v]))
    for v in range(V):
        shifted = logits[v] - largest
        total += np.exp(shifted)
        mean += np.exp(shifted) * shifted
    log_total = np.log(total)
    scores.log_probabilities[n, stream] = logits[token] - largest - log_total
    scores.entropies[n, stream] = log_total - mean / total
    for k in range(A):  # a few passes: alternatives are few
        best = -1
        for v in range(V):
            behind = k == 0 or _precedes(logits, scores.best[n, stream, k - 1], v)
            if behind and (best < 0 or logits[v] > logits[best]):
                best = v
        scores.best[n, stream, k] = best
        scores.best_log_probabilities[n, stream, k] = logits[best] - largest - log_total
