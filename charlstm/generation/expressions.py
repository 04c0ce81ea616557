"""Regular expressions as deterministic automata over Unicode characters.

The standard library's parser reads the expression, and its matcher says which characters a class or a
literal takes, so that syntax, flags and Unicode are those of `re`. From there on it is the textbook: a
network of silent and reading edges (Thompson 1968, "Regular expression search algorithm"), then
sets of its nodes as states (Rabin and Scott 1959).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError

MAX_STATES = 20_000  # of any automaton that is made of an expression
MAX_NODES = 100_000  # of the network that an expression becomes
MAX_LEAVES = 1000  # different classes and characters in it: each class is looked for in all of Unicode
MAX_VISITS = 3_000_000  # to nodes and edges while states are made: a few seconds
CODE_POINTS = 0x110000
_FREE, _LAST_LINE_END, _ENDED = range(3)  # what may still be read: anything, one line feed, nothing
_ANCHORS = {"AT_BEGINNING": "^", "AT_BEGINNING_STRING": "^", "AT_END": "$", "AT_END_STRING": r"\Z"}
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d", "CATEGORY_NOT_DIGIT": r"\D", "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S", "CATEGORY_WORD": r"\w", "CATEGORY_NOT_WORD": r"\W",
}  # fmt: skip
_UNSUPPORTED = {
    "ASSERT": "a lookahead or lookbehind, (?=...) or (?<=...),",
    "ASSERT_NOT": "a negative lookahead or lookbehind, (?!...) or (?<!...),",
    "ATOMIC_GROUP": "an atomic group, (?>...),",
    "GROUPREF": r"a backreference, \1 or (?P=name),",
    "GROUPREF_EXISTS": "a condition on a group, (?(1)...),",
    "POSSESSIVE_REPEAT": "a possessive quantifier, such as *+,",
}
_FLAGS = ((re.IGNORECASE, "i"), (re.DOTALL, "s"), (re.ASCII, "a"))


class Automaton(NamedTuple):
    """A deterministic automaton over characters, which it knows by C classes; state 0 is the start."""

    bounds: np.ndarray  # (K,) int64: the code points at which an interval of one class begins
    classes: np.ndarray  # (K,) int64: the class of each interval
    next: np.ndarray  # (S, C) int32: the state after a character; -1 where there is none
    final: np.ndarray  # (S,) bool: whether what was read is a match

    def classes_of(self, points: np.ndarray) -> np.ndarray:
        """The classes of code points, of their shape."""
        found: np.ndarray = self.classes[np.searchsorted(self.bounds, points, side="right") - 1]
        return found


def automaton(pattern: str) -> Automaton:
    """The automaton of the texts that `re.fullmatch` finds to match a pattern.

    Raises UsageError for what `re` cannot read, for what no automaton can follow (backreferences,
    lookaround, word boundaries, ...), and for a pattern that needs more than MAX_STATES states.
    """
    try:
        network = _Network(pattern)
    except RecursionError:
        raise UsageError(f"the regular expression {shown(pattern)} is nested too deeply") from None
    bounds, taken = _intervals(list(network.leaves))
    signatures, classes = np.unique(taken, axis=0, return_inverse=True)
    next_state, final = _States(pattern, network, signatures).explore()
    return Automaton(bounds, classes.reshape(-1), next_state, final)


def _too_large(pattern: str) -> UsageError:
    return UsageError(
        f"the regular expression {shown(pattern)} is too large for an automaton of {MAX_STATES:,} states: "
        "use smaller counts, fewer of them inside of each other, and fewer different classes"
    )


def shown(pattern: str) -> str:
    """A pattern for messages, cut where it is long."""
    return repr(pattern if len(pattern) <= 60 else f"{pattern[:57]}...")


# ---- from the expression to a network -------------------------------------------------------


class _Network:
    """Nodes with silent edges, edges that ask where in the text one is, and edges that read a character.

    Node 0 is the start. An edge that reads is labelled with a leaf: an expression for one character.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.silent: list[list[int]] = []
        self.asking: list[list[tuple[str, int]]] = []
        self.reading: list[list[tuple[int, int]]] = []
        self.leaves: dict[str, int] = {}
        tree = _parsed(pattern)
        self.accept = self._sequence(tree, self._node(), int(tree.state.flags))
        self.line_feed = self._leaf(r"\n")

    def _node(self) -> int:
        if len(self.silent) == MAX_NODES:
            raise _too_large(self._pattern)
        for edges in (self.silent, self.asking, self.reading):
            edges.append([])
        return len(self.silent) - 1

    def _leaf(self, expression: str) -> int:
        if len(self.leaves) > MAX_LEAVES:
            raise _too_large(self._pattern)
        return self.leaves.setdefault(expression, len(self.leaves))

    def _sequence(self, items: Iterable[tuple[Any, Any]], start: int, flags: int) -> int:
        """Add a sequence of the parser's items after a node; the node after it."""
        for op, argument in items:
            start = self._item(str(op), argument, start, flags)
        return start

    def _item(self, op: str, argument: Any, start: int, flags: int) -> int:
        match op:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                end = self._node()
                self.reading[start].append((self._leaf(_leaf_expression(op, argument, flags)), end))
                return end
            case "SUBPATTERN":
                _, added, removed, items = argument
                return self._sequence(items, start, (flags | added) & ~removed)
            case "BRANCH":
                end = self._node()
                for items in argument[1]:
                    self.silent[self._sequence(items, start, flags)].append(end)
                return end
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, items = argument
                return self._repeat(least, most, items, start, flags)
            case "AT":
                return self._anchor(str(argument), start, flags)
        raise self._refused(_UNSUPPORTED.get(op, op))

    def _repeat(self, least: Any, most: Any, items: Any, start: int, flags: int) -> int:
        for _ in range(least):
            before, start = start, self._sequence(items, start, flags)
            if start == before:  # nothing to repeat, so that no limit would end it
                return start
        if str(most) == "MAXREPEAT":
            hub = self._node()
            self.silent[start].append(hub)
            self.silent[self._sequence(items, hub, flags)].append(hub)
            return hub
        end = self._node()
        for _ in range(most - least):
            self.silent[start].append(end)
            start = self._sequence(items, start, flags)
        self.silent[start].append(end)
        return end

    def _anchor(self, name: str, start: int, flags: int) -> int:
        if name not in _ANCHORS:
            raise self._refused(r"a word boundary, \b or \B,")
        if flags & re.MULTILINE and name in ("AT_BEGINNING", "AT_END"):
            raise self._refused(f"{_ANCHORS[name]} under the flag m, which asks what stands in other lines,")
        end = self._node()
        self.asking[start].append((_ANCHORS[name], end))
        return end

    def _refused(self, construct: str) -> UsageError:
        return UsageError(
            f"{construct} cannot be followed while text is drawn: write {shown(self._pattern)} without it"
        )


def _parsed(pattern: str) -> Any:
    """The parser's tree."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what might change in future versions of `re`
            return import_module("re._parser").parse(pattern)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        raise UsageError(
            f"the regular expression {shown(pattern)} cannot be read: {error.msg}{where}"
        ) from None
    except OverflowError as error:
        raise UsageError(f"the regular expression {shown(pattern)} cannot be read: {error}") from None


def _leaf_expression(op: str, argument: Any, flags: int) -> str:
    """The expression for one character, its flags included."""
    match op:
        case "LITERAL":
            read = _escaped(argument)
        case "NOT_LITERAL":
            read = f"[^{_escaped(argument)}]"
        case "ANY":
            read = "."
        case _:
            read = f"[{''.join(_member(str(kind), value) for kind, value in argument)}]"
    set_flags = "".join(letter for flag, letter in _FLAGS if flags & flag)
    return f"(?{set_flags}:{read})" if set_flags else read


def _member(kind: str, value: Any) -> str:
    """What stands between square brackets."""
    match kind:
        case "NEGATE":
            return "^"
        case "LITERAL":
            return _escaped(value)
        case "RANGE":
            return f"{_escaped(value[0])}-{_escaped(value[1])}"
        case _:
            return _CATEGORIES[str(value)]


def _escaped(point: int) -> str:
    return f"\\U{point:08x}"


# ---- which characters a leaf takes ----------------------------------------------------------


@lru_cache(maxsize=1)
def _every_character() -> str:
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


@lru_cache(maxsize=256)
def _spans(leaf: str) -> tuple[tuple[int, int], ...]:
    """The ranges of code points that a leaf takes."""
    if leaf.startswith("\\U"):
        point = int(leaf[2:], 16)
        return ((point, point + 1),)
    return tuple(found.span() for found in re.finditer(f"{leaf}+", _every_character()))


def _intervals(leaves: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (K,) between which no leaf tells characters apart, and which leaves take them (K, leaves)."""
    spans = [np.array(_spans(leaf), dtype=np.int64).reshape(-1, 2) for leaf in leaves]
    bounds = np.unique(np.concatenate([[0], *(pairs.reshape(-1) for pairs in spans)]))
    bounds = bounds[bounds < CODE_POINTS]
    taken = [np.searchsorted(pairs.reshape(-1), bounds, side="right") % 2 == 1 for pairs in spans]
    return bounds, np.stack(taken, axis=1)


# ---- from the network to states -------------------------------------------------------------


class _States:
    """Makes a state of every set of places that some text leads to; a place is 3 node + what may be read."""

    def __init__(self, pattern: str, network: _Network, signatures: np.ndarray) -> None:
        self._pattern, self._network = pattern, network
        # the leaves that take a class, as bits of one number
        self._leaves_of = [sum(1 << int(leaf) for leaf in np.flatnonzero(row)) for row in signatures]
        self._visits = 0

    def explore(self) -> tuple[np.ndarray, np.ndarray]:
        """`next` (S, C) and `final` (S,) of the automaton."""
        states = [self._reachable([_FREE], at_start=True)]
        number = {states[0]: 0}
        rows: list[list[int]] = []
        for places in states:  # which grows
            row = []
            targets: dict[int, int] = {}
            moves, relevant = self._moves(places)
            for leaves in self._leaves_of:
                read = leaves & relevant
                if read not in targets:
                    found = self._reachable(self._after(moves, read))
                    targets[read] = number.setdefault(found, len(number)) if found else -1
                    if len(number) > len(states):
                        states.append(found)
                row.append(targets[read])
            rows.append(row)
            self._spend(len(row))
            if len(states) > MAX_STATES:
                raise _too_large(self._pattern)
        final = [any(place // 3 == self._network.accept for place in places) for places in states]
        return np.array(rows, dtype=np.int32), np.array(final)

    def _spend(self, visits: int) -> None:
        self._visits += visits
        if self._visits > MAX_VISITS:
            raise _too_large(self._pattern)

    def _moves(self, places: frozenset[int]) -> tuple[list[tuple[int, int, int]], int]:
        """(leaf, node after it, what may be read) from the places of a state, and the leaves as bits."""
        moves = [
            (leaf, target, place % 3)
            for place in places
            for leaf, target in self._network.reading[place // 3]
        ]
        relevant = 0
        for leaf, _, may_read in moves:
            relevant |= 1 << leaf
            if may_read == _LAST_LINE_END:
                relevant |= 1 << self._network.line_feed
        self._spend(len(moves))
        return moves, relevant

    def _after(self, moves: list[tuple[int, int, int]], read: int) -> list[int]:
        """The places after a character that the leaves `read` take."""
        self._spend(len(moves))
        line_feed = read >> self._network.line_feed & 1
        return [
            3 * target + (_FREE if may_read == _FREE else _ENDED)
            for leaf, target, may_read in moves
            if read >> leaf & 1 and (may_read == _FREE or line_feed)
        ]

    def _reachable(self, places: list[int], at_start: bool = False) -> frozenset[int]:
        """The places that silent edges lead to, of which only those that read or accept are kept."""
        network = self._network
        seen = set(places)
        waiting = list(seen)
        for place in waiting:  # which grows
            node, may_read = divmod(place, 3)
            edges = [3 * target + may_read for target in network.silent[node]]
            for anchor, target in network.asking[node]:
                if anchor == "$":
                    edges.append(3 * target + max(may_read, _LAST_LINE_END))
                elif anchor == r"\Z":
                    edges.append(3 * target + _ENDED)
                elif at_start:
                    edges.append(3 * target + may_read)
            waiting.extend(new := [edge for edge in edges if edge not in seen])
            seen.update(new)
        self._spend(len(waiting))
        return frozenset(
            place
            for place in seen
            if place // 3 == network.accept or (network.reading[place // 3] and place % 3 != _ENDED)
        )
