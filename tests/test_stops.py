"""Stop strings in pieces of text, against a search of the whole."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlstm import UsageError
from charlstm.generation.stops import StopStrings

LETTERS = st.text("abé😀", max_size=30)


def plain(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What comes before the stop string that is complete first, character by character."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(st.lists(LETTERS), st.lists(st.text("abé😀", min_size=1, max_size=5), max_size=4))
def test_pieces_give_what_the_whole_text_would(pieces: list[str], stops: list[str]) -> None:
    expected, stop = plain("".join(pieces), stops)
    found, shown, fed = StopStrings(stops), "", ""
    for piece in pieces:
        shown, fed = shown + found.feed(piece), fed + piece
        assert expected.startswith(shown)
        if stop is None:  # nothing is held back but what may become a stop string
            held = fed[len(shown) :]
            assert not held or any(s.startswith(held) for s in stops)
    if found.stopped is None:
        shown += found.finish()
    assert (shown, found.stopped) == (expected, stop)
    assert found.finish() == ""


def test_nothing_comes_after_the_stop() -> None:
    found = StopStrings(["END"])
    assert [found.feed(piece) for piece in ("a E", "ND b", "END c")] == ["a ", "", ""]
    assert found.stopped == "END"


def test_copies_go_on_by_themselves() -> None:
    first = StopStrings(["END"])
    assert first.feed("a E") == "a "
    second = first.copy()
    assert second.feed("ND") == ""
    assert first.feed("X") == "EX"
    assert (first.stopped, second.stopped) == (None, "END")
    with pytest.raises(UsageError, match="empty"):
        StopStrings(["a", ""])


def test_a_million_characters_take_a_moment() -> None:
    found = StopStrings(["ab" * 500 + "c", "b\n", "x"])
    started = time.perf_counter()
    shown = sum(len(found.feed("ab" * 32)) for _ in range(15_000)) + len(found.finish())
    assert shown == 960_000
    assert time.perf_counter() - started < 20
