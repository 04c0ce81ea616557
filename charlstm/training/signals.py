"""Stopping in good order when a person or the system asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from .progress import Reporter


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop; the next SIGINT stops at once.

    A context manager; in it, calling the object says whether to stop, and `status` holds the exit
    status for it. Outside of the main thread, where Python has no signals, it never says so.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.status = 0
        self._reporter = reporter
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._requested)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _requested(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        if self.status:  # told here, because a handler may have interrupted another message
            self._reporter.notice("stopping and saving (press Ctrl-C again to stop without saving)")
        return self.status != 0
