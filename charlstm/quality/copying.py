"""What a text has in common, word for word, with another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

AT_ONCE = 1 << 22  # characters of the longer text that are read at a time


class Copying(NamedTuple):
    """What of a text stands word for word in another one."""

    longest: int
    """Characters of the longest stretch."""
    stretch: str
    """This stretch."""
    share: float
    """Share of the texts' characters that lie in stretches of `at_least` characters or more."""
    at_least: int


def copying(groups: Sequence[Sequence[str]], source: Iterable[str], at_least: int) -> list[Copying]:
    """How much each group of texts has copied from a source that comes in pieces.

    Takes time linear in all of them (a suffix automaton of the texts, which the source is read through once), and
    memory for the texts alone: some 110 bytes a character.
    """
    from ..kernels import copying as kernels

    parts = [_codes(text) for group in groups for text in group]
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
    state = length = 0
    for piece in source:
        for first in range(0, len(piece), AT_ONCE):
            read = table[_codes(piece[first : first + AT_ONCE])]
            state, length = kernels.follow(read, states, keys, targets, state, length)
    matched = np.zeros(n, np.int32)
    kernels.matches(states, np.argsort(states[:, 0], kind="stable"), ends, matched)
    sizes = [sum(len(text) + 1 for text in group) for group in groups]
    found = np.split(matched, np.cumsum(sizes)[:-1])
    return [_summed_up(group, part, at_least) for group, part in zip(groups, found, strict=True)]


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


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
    return Copying(longest, stretch, copied / characters, at_least)
