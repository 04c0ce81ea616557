"""Strings that end a text, found while it is generated."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence

from ..errors import UsageError


class StopStrings:
    """Passes on the text that comes before the first stop string, piece by piece.

    The first one is the one that starts first in the whole text, as `str.find` would say; of
    those that start there it is the shortest. What might still become a stop string is held back until
    that is decided: of "abcd" and "bc", "bc" ends a text that goes on "abc", but only once no "d"
    follows. Pieces may be cut anywhere. Takes time linear in the text (Aho and Corasick 1975,
    "Efficient string matching"), and memory for the stop strings.

    stopped  the stop string that ended the text, once it is decided; None before
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Raises UsageError for an empty stop string."""
        if isinstance(stops, str):
            raise UsageError(f"stop strings are given as a list, such as [{stops!r}]")
        if "" in stops:
            raise UsageError("a stop string is empty: it would end every text before its first character")
        self.stopped: str | None = None
        self._stops = tuple(dict.fromkeys(stops))
        self._tree = _Tree(self._stops)
        self._node = 0
        self._read = 0  # characters of the text so far
        self._held = ""  # the last of them, not passed on yet
        self._found: tuple[int, str] | None = None  # where the first complete stop string starts, so far

    def copy(self) -> StopStrings:
        """Another one that goes on from here; neither changes what the other gives."""
        return copy.copy(self)

    def feed(self, piece: str) -> str:
        """What may be shown now that this text came; nothing once the text has ended."""
        if self.stopped is not None:
            return ""
        if not self._stops:
            return piece
        tree, node, start = self._tree, self._node, self._read
        for position, character in enumerate(piece, self._read + 1):
            while node and character not in tree.after[node]:
                node = tree.shorter[node]
            node = tree.after[node].get(character, 0)
            stop = tree.stop[node]
            if stop is not None and (self._found is None or position - len(stop) < self._found[0]):
                self._found = (position - len(stop), stop)
            if self._found is not None and position - tree.depth[node] >= self._found[0]:
                return self._end(piece)
        self._node, self._read = node, start + len(piece)
        text = self._held + piece
        shown = len(text) - tree.depth[node]
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What is still to be shown when no more text follows."""
        if self._found is not None and self.stopped is None:
            return self._end("")
        held, self._held = self._held, ""
        return held

    def _end(self, piece: str) -> str:
        """The text before the stop string that was found."""
        assert self._found is not None
        start, self.stopped = self._found
        text, self._held = self._held + piece, ""
        return text[: start - (self._read - len(text) + len(piece))]


class _Tree:
    """The tree of all beginnings of some strings; node 0 is the empty one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.after: list[dict[str, int]] = [{}]  # the node one character longer
        self.depth = [0]  # its length
        self.stop: list[str | None] = [None]  # the longest of the strings that its text ends with
        for string in strings:
            node = 0
            for character in string:
                if character not in self.after[node]:
                    self.after[node][character] = len(self.after)
                    self.after.append({})
                    self.depth.append(self.depth[node] + 1)
                    self.stop.append(None)
                node = self.after[node][character]
            self.stop[node] = string
        # the node of the longest beginning that a node's text ends with, itself left out
        self.shorter = [0] * len(self.after)
        waiting = deque(self.after[0].values())
        while waiting:
            node = waiting.popleft()
            for character, longer in self.after[node].items():
                end = self.shorter[node]
                while end and character not in self.after[end]:
                    end = self.shorter[end]
                self.shorter[longer] = self.after[end].get(character, 0)
                waiting.append(longer)
            if self.stop[node] is None:
                self.stop[node] = self.stop[self.shorter[node]]
