"""Stop strings in a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError


class StopStrings:
    """Lets the pieces of one text through up to the first stop string that is complete.

    Where two are complete at the same character, the longer one counts. What may still become a stop string
    is held back until it is known.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Without any stop string all text is let through at once. Raises UsageError for an empty one."""
        if "" in stops:
            raise UsageError("a stop string cannot be empty: every text begins with nothing")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended the text, if one did."""

    def copy(self) -> StopStrings:
        """Another one that goes on from here; neither changes what the other gives."""
        other = StopStrings(self._stops)
        other._held, other.stopped = self._held, self.stopped
        return other

    def feed(self, piece: str) -> str:
        """What may be shown now that a further piece has come; nothing once the text has stopped."""
        if self.stopped is not None:
            return ""
        text, self._held = self._held + piece, ""
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self.stopped = min(found)
            return text[: end - len(self.stopped)]
        start = min((self._undecided(text, stop) for stop in self._stops), default=len(text))
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _undecided(text: str, stop: str) -> int:
        """Where the longest end of the text begins that `stop` begins with."""
        start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while start >= 0 and not stop.startswith(text[start:]):
            start = text.find(stop[0], start + 1)
        return start if start >= 0 else len(text)
