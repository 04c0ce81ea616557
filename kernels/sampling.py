"""Drawing a token from logits: the compiled form of `charlstm.backends.draw`, which says what is done and why."""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel
from .elementwise import LOWEST64, exp

END = -1  # both as in charlstm.backends.sampling
NOT_FINITE = -2
RANKED = 256  # candidates that are sorted by counting; of more a heap gives the first ones
AT_ONCE = 8  # numbers that a turn of a loop takes at most: what is left over is slow


@kernel
def room(V):
    """What `draw` works in: values, weights and keys, and integers: an order, a spare one, marks.

    All (V+1,), but for what `_rank` works in.
    """
    return (
        np.empty(V + 1),
        np.empty(V + 1),
        np.empty(V + AT_ONCE),
        np.empty(V + 1, np.int64),
        np.empty(max(V + 1, 2 * (min(V + 1, RANKED) + AT_ONCE)), np.int64),
        np.zeros(V + 1, np.int64),
    )


@kernel
def draw(logits, sampler, temperature, uniforms, recent, bias, allowed, ends, room):
    """As `charlstm.backends.draw`; bias and allowed are (0,) where there are none, `room` is from `room`."""
    values, weights, keys, order, spare, marks = room
    V, bad = logits.shape[0], 0
    for v in range(V):
        values[v] = logits[v]
        bad += np.int64(not np.abs(values[v]) < np.inf)
    if bad:
        return NOT_FINITE
    count, top, outside = V, _largest(values[:V]), -np.inf
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
        top = _mask(values, allowed, marks, banned, weights)
        if top == -np.inf:  # rather a repetition than nothing
            top = _mask(values, allowed, marks, banned + 1, weights)
        if top == -np.inf:
            return END
    if temperature == 0:
        return END if outside > top else _first_of(weights if masked else values, top)
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
    total = 0.0
    for v in range(count):
        total += weights[v]
        keys[v] = total
    token = _at(keys[:count], weights, uniforms[0])
    if sampler.redraw and token != _first_of(weights, _largest(weights[:count])):
        token = _at(keys[:count], weights, uniforms[1])
    return END if token == V else token


@njit(nogil=True, fastmath={"nnan", "nsz"})
def _largest(x):
    """Of finite numbers and -inf, which may be compared in any order."""
    largest = x[0]
    for v in range(1, x.shape[0]):
        largest = max(largest, x[v])
    return largest


@njit(**OPTIONS)
def _first_of(x, value):
    """The first place that holds a value."""
    v = 0
    while x[v] != value:
        v += 1
    return v


@njit(**OPTIONS)
def _penalize(values, recent, penalty, marks, mark):
    for token in recent:
        marks[token] = mark
    for v in range(marks.shape[0] - 1):
        value = values[v]
        penalized = value / penalty if value > 0 else value * penalty
        values[v] = penalized if marks[v] == mark else value


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
    """Values of what may follow, -inf for the rest; the largest of them."""
    V = marks.shape[0] - 1
    for v in range(V):
        weights[v] = -np.inf if marks[v] == mark else values[v]
    for v in range(allowed.shape[0]):
        if not allowed[v]:
            weights[v] = -np.inf
    return _largest(weights[:V])


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
    ranks, sorted_ = spare[:padded], spare[padded : 2 * padded]
    for k in range(padded):
        ranks[k], sorted_[k] = 0, -1
    for other in range(count):
        key = keys[other]
        for k in range(padded):
            ranks[k] += np.int64(key > keys[k])
    for k in range(count):
        rank = ranks[k]
        while sorted_[rank] >= 0:  # the place of an equal one
            rank += 1
        sorted_[rank] = order[k]
    for k in range(count):
        order[k] = sorted_[k]


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
def _at(sums, weights, uniform):
    """Where the running sums of the weights pass a share of it all."""
    count, token = sums.shape[0], 0
    wanted = uniform * sums[count - 1]
    for v in range(count):
        token += np.int64(sums[v] <= wanted)
    if token == count:  # the share was rounded up to all of it
        token -= 1
        while weights[token] == 0:
            token -= 1
    return token


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
