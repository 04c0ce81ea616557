"""From an automaton over characters to one over the bytes of their UTF-8."""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from .expressions import CODE_POINTS, MAX_STATES, Automaton, shown

_SURROGATES = (0xD800, 0xE000)
# lead bytes of a length: the first one, how many, how many code points each has, the first one written so
_LENGTHS = ((0xC0, 32, 1 << 6, 0x80), (0xE0, 16, 1 << 12, 0x800), (0xF0, 8, 1 << 18, 0x10000))


def over_bytes(pattern: str, characters: Automaton) -> tuple[np.ndarray, np.ndarray]:
    """`next` (S, 256) int32 and `final` (S,) of an automaton over well-formed UTF-8; state 0 is the start.

    The states of the automaton over characters come first, in their order; then those within a
    character. Raises UsageError where there are more than MAX_STATES.
    """
    return _Bytes(pattern, characters).build()


class _Bytes:
    """Characters as a tree of blocks of 64, in which equal blocks are one."""

    def __init__(self, pattern: str, characters: Automaton) -> None:
        self._pattern, self._characters = pattern, characters
        self._count = len(characters.next)
        self._number: dict[bytes, int] = {}  # a state within a character, by where its 64 bytes lead
        self._rows: list[np.ndarray] = []
        dead = characters.next.shape[1]  # the class of what is no character
        points = np.arange(CODE_POINTS)
        self._classes = np.full(8 << 18, dead, dtype=np.int32)
        self._classes[:CODE_POINTS] = characters.classes_of(points)
        self._classes[slice(*_SURROGATES)] = dead
        self._levels = [self._blocks(leads, size, first) for _, leads, size, first in _LENGTHS]

    def _blocks(self, leads: int, size: int, first: int) -> list[np.ndarray]:
        """For characters of one length: distinct blocks of 64 classes, of 64 of those, ... and each lead's."""
        classes = self._classes[: leads * size].copy()
        classes[:first] = self._characters.next.shape[1]
        levels = []
        while len(classes) > leads:
            rows = classes.reshape(-1, 64)
            number: dict[bytes, int] = {}
            ids = [number.setdefault(row.tobytes(), len(number)) for row in rows]
            levels.append(np.stack([np.frombuffer(row, dtype=np.int32) for row in number]))
            classes = np.array(ids, dtype=np.int32)
        return [*levels, classes]

    def build(self) -> tuple[np.ndarray, np.ndarray]:
        S = self._count
        by_class = np.concatenate([self._characters.next, np.full((S, 1), -1, np.int32)], axis=1)
        start = np.full((S, 256), -1, dtype=np.int32)
        start[:, :0x80] = by_class[:, self._classes[:0x80]]
        for state in range(S):
            for (lead, leads, *_), (*levels, last) in zip(_LENGTHS, self._levels, strict=True):
                targets = by_class[state]
                for blocks in levels:
                    targets = self._states(targets[blocks])
                start[state, lead : lead + leads] = targets[last]
        within = np.full((len(self._rows), 256), -1, dtype=np.int32)
        if self._rows:
            within[:, 0x80:0xC0] = np.stack(self._rows)
        final = np.concatenate([self._characters.final, np.zeros(len(within), dtype=bool)])
        return np.concatenate([start, within]), final

    def _states(self, rows: np.ndarray) -> np.ndarray:
        """The states (K,) that lead, by 64 bytes, where rows (K, 64) say; -1 for those that lead nowhere."""
        states = np.full(len(rows), -1, dtype=np.int32)
        for k in np.flatnonzero((rows >= 0).any(axis=1)):
            key = rows[k].tobytes()
            if key not in self._number:
                self._number[key] = self._count + len(self._rows)
                self._rows.append(rows[k])
                if self._count + len(self._rows) > MAX_STATES:
                    raise UsageError(
                        f"the regular expression {shown(self._pattern)} is too large over the bytes of UTF-8, where "
                        f"it needs more than {MAX_STATES:,} states: use smaller counts, or narrower classes such "
                        "as [a-z] or (?a) in place of \\w"
                    )
            states[k] = self._number[key]
        return states
