"""What a text has in common, word for word, with another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .texts import codes

AT_ONCE = 1 << 20  # characters of the longer text that are read at a time
GRAM = 24  # characters of the stretches that are looked for first: by chance few texts share one


class Copying(NamedTuple):
    """What of a text stands word for word in another one."""

    longest: int
    """Characters of the longest stretch."""
    stretch: str
    """This stretch."""
    share: float
    """Share of the texts' characters that lie in stretches of `at_least` characters or more."""
    at_least: int


def copying(
    groups: Sequence[Sequence[str]], source: Callable[[], Iterable[str]], at_least: int
) -> list[Copying]:
    """How much each group of texts has copied from a source, which is called for its pieces.

    Exact, in time linear in all of them: a suffix automaton of the texts, which the source is read through. Memory
    is for the texts alone, some 110 bytes a character. Where a group has no stretch of 24 characters in common with
    the source, that is read again, for shorter ones.
    """
    return _copying(groups, source, at_least, max(1, min(at_least, GRAM)))


def _copying(
    groups: Sequence[Sequence[str]], source: Callable[[], Iterable[str]], at_least: int, gram: int
) -> list[Copying]:
    """What is shorter than `gram` is looked for where a group has nothing longer."""
    sizes = np.array([sum(len(text) + 1 for text in group) for group in groups], np.int64)
    matched = _matches([text for group in groups for text in group], source(), gram)
    parts = np.split(matched, np.cumsum(sizes)[:-1])
    found = [_summed_up(group, part, at_least) for group, part in zip(groups, parts, strict=True)]
    missing = [k for k, each in enumerate(found) if not each.longest and any(groups[k])]
    if gram > 1 and missing:
        again = _copying([groups[k] for k in missing], source, at_least, gram // 4 or 1)
        for k, each in zip(missing, again, strict=True):
            found[k] = each
    return found


def _matches(texts: Sequence[str], source: Iterable[str], gram: int) -> np.ndarray:
    """Characters of the longest match that ends at each place of the texts, 0 below `gram`; int32.

    Behind each text stands one place more.
    """
    from ..kernels import copying as kernels

    parts = [codes(text) for text in texts]
    alphabet = np.unique(np.concatenate([*parts, np.empty(0, np.uint32)]))
    table = np.full(0x110000, -1, np.int32)
    table[alphabet] = np.arange(len(alphabet))
    # behind each text stands a symbol that the source has not
    symbols = np.concatenate(
        [np.append(table[part], len(alphabet)) for part in parts] or [np.empty(0, np.int32)]
    )
    n = len(symbols)
    states, ends = np.zeros((2 * n + 1, 6), np.int32), np.empty(n, np.int32)
    size = 1 << max(4, (3 * n).bit_length())
    keys, targets, before = np.full(size, -1, np.int64), np.empty(size, np.int32), np.empty(size, np.int32)
    states = states[: kernels.build(symbols, states, keys, targets, before, ends)]
    words = np.zeros(max(1, size // 16), np.int64)
    kernels.mark(symbols, gram, words)
    state = length = 0
    read = np.empty(0, np.int32)
    for piece in source:
        for start in range(0, len(piece), AT_ONCE):
            last = read[-gram:]
            read = np.concatenate((last, table[codes(piece[start : start + AT_ONCE])]))
            state, length = kernels.follow(read, len(last), gram, words, states, keys, targets, state, length)
    matched = np.zeros(n, np.int32)
    kernels.matches(states, np.argsort(states[:, 0], kind="stable"), ends, matched)
    return np.where(matched >= gram, matched, 0)


def _summed_up(texts: Sequence[str], matched: np.ndarray, at_least: int) -> Copying:
    characters = len(matched) - len(texts)
    if not characters:
        return Copying(0, "", 0.0, at_least)
    edges = np.zeros(len(matched) + 1, np.int64)  # +1 where a stretch begins, -1 behind its end
    stop = np.flatnonzero(matched >= at_least) + 1
    np.add.at(edges, stop - matched[stop - 1], 1)
    np.add.at(edges, stop, -1)
    copied = np.count_nonzero(np.cumsum(edges[:-1]) > 0)
    last = int(np.argmax(matched))
    longest = int(matched[last])
    stretch = "\0".join(texts)[last + 1 - longest : last + 1]
    return Copying(longest, stretch, float(copied / characters), at_least)
