"""The longest stretches that one text has in common with another: a suffix automaton of the shorter one.

The automaton (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text") has at most two
states and three transitions for each character. A state's first transition lies in the state itself, further ones in
a hash table. What the longer text reads of it lies all over memory, so that it is asked only where a Bloom filter
(Bloom 1970), which the cache holds, may have seen the last few symbols in the shorter text.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compiling import OPTIONS, kernel

# columns of a state: its longest string's length, suffix link, first transition, the last one in the table, and
# the length of the longest match that ended in it
LENGTH, LINK, SYMBOL, TARGET, CHAIN, LONGEST = range(6)
MULTIPLIER = np.int64(-7046029254386353131)  # 2^64 over the golden ratio, odd: spreads numbers over all bits


@njit(**OPTIONS)
def _slot(keys, state, symbol):
    """Where the transition of a state lies in the hash table, or would."""
    mask = keys.shape[0] - 1
    key = np.int64(state) << 32 | np.int64(symbol)
    place = (key * MULTIPLIER) >> 20 & mask
    while keys[place] >= 0 and keys[place] != key:
        place = (place + 1) & mask
    return place


@njit(**OPTIONS)
def _target(states, keys, targets, state, symbol):
    """The state that a symbol leads to; -1 where none."""
    if states[state, SYMBOL] == symbol:
        return states[state, TARGET]
    if states[state, CHAIN] < 0:
        return -1
    place = _slot(keys, state, symbol)
    return targets[place] if keys[place] >= 0 else -1


@njit(**OPTIONS)
def _set(states, keys, targets, before, state, symbol, target):
    """Let a symbol lead from a state to another one."""
    if states[state, SYMBOL] < 0 or states[state, SYMBOL] == symbol:
        states[state, SYMBOL], states[state, TARGET] = symbol, target
        return
    place = _slot(keys, state, symbol)
    if keys[place] < 0:
        keys[place] = np.int64(state) << 32 | np.int64(symbol)
        before[place] = states[state, CHAIN]
        states[state, CHAIN] = place
    targets[place] = target


@njit(**OPTIONS)
def _clone(states, keys, targets, before, state, new):
    """Give a new state the link and the transitions of another one."""
    states[new, LINK] = states[state, LINK]
    states[new, SYMBOL], states[new, TARGET] = states[state, SYMBOL], states[state, TARGET]
    place = states[state, CHAIN]
    while place >= 0:
        symbol = keys[place] & np.int64(0xFFFFFFFF)
        _set(states, keys, targets, before, new, symbol, targets[place])
        place = before[place]


@kernel
def build(text, states, keys, targets, before, ends):
    """The suffix automaton of a text (n,) of symbols from 0 on; the number of its states.

    Room: states (2n + 1, 6) of zeros, ends (n,) for the state of each prefix; keys, targets and before, a power of
    two longer than 3n: the hash table, keys all -1.
    """
    count, last = 1, 0
    states[0, LENGTH], states[0, LINK], states[0, SYMBOL], states[0, CHAIN] = 0, -1, -1, -1
    for n in range(text.shape[0]):
        symbol, new = text[n], count
        count += 1
        states[new, LENGTH] = states[last, LENGTH] + 1
        states[new, SYMBOL] = states[new, CHAIN] = -1
        state = last
        while state >= 0 and _target(states, keys, targets, state, symbol) < 0:
            _set(states, keys, targets, before, state, symbol, new)
            state = states[state, LINK]
        if state < 0:
            states[new, LINK] = 0
        else:
            other = _target(states, keys, targets, state, symbol)
            if states[other, LENGTH] == states[state, LENGTH] + 1:
                states[new, LINK] = other
            else:
                clone = count
                count += 1
                states[clone, LENGTH] = states[state, LENGTH] + 1
                states[clone, SYMBOL] = states[clone, CHAIN] = -1
                _clone(states, keys, targets, before, other, clone)
                states[other, LINK] = states[new, LINK] = clone
                while state >= 0 and _target(states, keys, targets, state, symbol) == other:
                    _set(states, keys, targets, before, state, symbol, clone)
                    state = states[state, LINK]
        ends[n] = last = new
    return count


@njit(**OPTIONS)
def _rolled(rolling, text, place, gram, power):
    """The hash of the last `gram` symbols at a place, from that at the place before."""
    rolling = rolling * MULTIPLIER + text[place] + 2  # -1 counts as well
    return rolling - power * (text[place - gram] + 2) if place >= gram else rolling


@njit(**OPTIONS)
def _power(gram):
    power = np.int64(1)
    for _ in range(gram):
        power *= MULTIPLIER
    return power


@njit(**OPTIONS)
def _bits(rolling, words):
    """The word of the filter that a hash belongs to, and its two bits there."""
    mixed = rolling * MULTIPLIER
    bits = np.int64(1) << (mixed >> 20 & 63) | np.int64(1) << (mixed >> 26 & 63)
    return mixed >> 32 & (words.shape[0] - 1), bits


@kernel
def mark(text, gram, words):
    """Note all grams of `gram` symbols of a text (n,) in a filter, int64 words of 0, a power of two of them."""
    rolling, power = np.int64(0), _power(gram)
    for place in range(text.shape[0]):
        rolling = _rolled(rolling, text, place, gram, power)
        if place >= gram - 1:
            word, bits = _bits(rolling, words)
            words[word] |= bits


@kernel
def follow(text, first, gram, words, states, keys, targets, state, length):
    """Read a piece of another text (N,), symbols or -1, from `first` on; the state and length to go on with.

    The symbols before are the last `gram` that were read, or all. Notes the longest match that ends in each state,
    as far as it has `gram` symbols; from those on the match is never lost, so that all reading is linear.
    """
    rolling, power = np.int64(0), _power(gram)
    for place in range(first):
        rolling = _rolled(rolling, text, place, gram, power)
    for place in range(first, text.shape[0]):
        rolling = _rolled(rolling, text, place, gram, power)
        word, bits = _bits(rolling, words)
        if place < gram - 1 or words[word] & bits != bits:
            state = length = 0
            continue
        if length < gram:  # no match of so many symbols ended before: at most so many do here
            state = _state(states, keys, targets, text[place - gram + 1 : place + 1])
            length = gram if state >= 0 else 0
        else:
            state, length = _step(states, keys, targets, state, length, text[place])
        if length >= gram:
            states[state, LONGEST] = max(states[state, LONGEST], length)
    return state, length


@njit(**OPTIONS)
def _state(states, keys, targets, text):
    """The state that a text (n,) leads to from the beginning; -1 where it is not in the automaton's."""
    state = np.int64(0)
    for symbol in text:
        state = np.int64(_target(states, keys, targets, state, symbol)) if symbol >= 0 else np.int64(-1)
        if state < 0:
            break
    return state


@njit(**OPTIONS)
def _step(states, keys, targets, state, length, symbol):
    """The longest match that ends with one more symbol: its state and length."""
    if symbol < 0:
        return 0, 0
    target = _target(states, keys, targets, state, symbol)
    while target < 0 and state > 0:
        state = states[state, LINK]
        length = states[state, LENGTH]
        target = _target(states, keys, targets, state, symbol)
    return (target, length + 1) if target >= 0 else (0, 0)


@kernel
def matches(states, order, ends, result):
    """result (n,): the longest match that ends at each place of the automaton's own text.

    order: the states by length. What matched in a state matched in full in all those that it links to.
    """
    for k in range(order.shape[0] - 1, 0, -1):
        state = order[k]
        link = states[state, LINK]
        if states[state, LONGEST] > 0 and link > 0:
            states[link, LONGEST] = states[link, LENGTH]
    for k in range(1, order.shape[0]):
        state = order[k]
        states[state, LONGEST] = max(states[state, LONGEST], states[states[state, LINK], LONGEST])
    for n in range(ends.shape[0]):
        result[n] = states[ends[n], LONGEST]
