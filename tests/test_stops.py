"""Stop strings, against a search of the whole text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm.errors import UsageError
from charlstm.generation.stops import StopStrings


def plain(stops: list[str], text: str) -> tuple[str, str | None]:
    """The text before the first stop string, and which one that is."""
    found = min(((text.find(stop), len(stop), stop) for stop in stops if stop in text), default=None)
    return (text, None) if found is None else (text[: found[0]], found[2])


def fed(stops: StopStrings, pieces: list[str]) -> str:
    return "".join([*map(stops.feed, pieces), stops.finish()])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.text("abé", min_size=1, max_size=5), max_size=4),
    st.lists(st.text("abé", max_size=4), max_size=12),
)
def test_a_search_of_the_whole_text_finds_the_same(strings: list[str], pieces: list[str]) -> None:
    stops = StopStrings(strings)
    shown = ""
    for piece in pieces:
        shown += stops.feed(piece)
        assert plain(strings, "".join(pieces))[0].startswith(shown)
    shown += stops.finish()
    assert (shown, stops.stopped) == plain(strings, "".join(pieces))


@pytest.mark.parametrize(
    ("strings", "pieces", "shown", "stopped"),
    [
        (["\n\n"], ["one\n", "\ntwo"], "one", "\n\n"),
        (["b", "ab"], ["xa", "bc"], "x", "ab"),  # the earliest start, though "b" ends as early
        (["abcd", "bc"], ["abc", "x"], "a", "bc"),
        (["abcd", "bc"], ["abc"], "a", "bc"),  # decided by the end of the text
        (["abcd", "bc"], ["abc", "d"], "", "abcd"),
        (["ab", "abc"], ["xabc"], "x", "ab"),  # the shortest of those that start there
        (["🙂é"], ["a🙂", "é"], "a", "🙂é"),
        (["longer than the text"], ["longer"], "longer", None),
        ([], ["a", "b"], "ab", None),
        (["aab"], ["aaaab"], "aa", "aab"),
    ],
)
def test_where_a_text_ends(strings: list[str], pieces: list[str], shown: str, stopped: str | None) -> None:
    stops = StopStrings(strings)
    assert fed(stops, pieces) == shown
    assert stops.stopped == stopped


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["END"])
    assert [stops.feed(s) for s in "a ENx EN"] == ["a", " ", "", "", "ENx", " ", "", ""]
    assert stops.finish() == "EN"


def test_nothing_follows_the_end() -> None:
    stops = StopStrings(["."])
    assert stops.feed("a.b") == "a"
    assert stops.feed("c") == stops.finish() == ""
    assert stops.stopped == "."


def test_a_copy_goes_on_alone() -> None:
    stops = StopStrings(["ab"])
    assert stops.feed("xa") == "x"
    other = stops.copy()
    assert other.feed("b") == ""
    assert (other.stopped, stops.stopped) == ("ab", None)
    assert stops.feed("c") == "ac"


def test_bad_stop_strings() -> None:
    with pytest.raises(UsageError, match="empty"):
        StopStrings(["a", ""])
    with pytest.raises(UsageError, match="list"):
        StopStrings("ab")


@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_linear_time(size: int) -> None:
    """The stop string that a plain search is slowest with: it nearly matches everywhere."""
    n = 1_000_000 if size > 1 else 200_000
    stops = StopStrings(["a" * 2000 + "b"])
    before = time.process_time()
    shown = sum(len(stops.feed("a" * size)) for _ in range(n // size)) + len(stops.finish())
    assert shown == n
    assert time.process_time() - before < 20  # about one second for a million, on a quiet machine
