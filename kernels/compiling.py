"""How the CPU kernels are compiled, and kept on disk between processes."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event

from .features import NO_TILES

FLAGS = {"contract"}  # fused multiply-add, and nothing that could reorder or assume away a NaN
OPTIONS = {"nogil": True, "fastmath": FLAGS, "error_model": "numpy"}


def _sources_stamp() -> str:
    digest = hashlib.sha256(__name__.encode())  # stored code names the modules that it belongs to
    digest.update(
        str(NO_TILES is None).encode()
    )  # which Numba's own key, the processor's features, does not tell
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = _sources_stamp()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile at first call, without the GIL; keep the machine code where a cache can be written.

    Numba would notice an edit only in the function's own file; here an edit in any kernel file
    makes the stored code stale. Without a place to write, kernels are compiled in each process.
    """
    dispatcher = njit(**OPTIONS)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no directory that can be written
        return dispatcher
    dispatcher._cache._cache_file._source_stamp = _STAMP
    return dispatcher


class _Announcer(event.Listener):
    """Logs that kernels are being compiled, and counts the time: the first time on a machine that takes a while.

    Numba tells of compilations only, not of code that it finds in its cache; one may lie within another.
    """

    log = logging.getLogger("charlstm")
    every = 4.0  # seconds between two messages

    def __init__(self) -> None:
        self.compiled, self.told = 0, -math.inf
        self.seconds, self._since, self._running = 0.0, 0.0, 0

    def on_start(self, started: event.Event) -> None:
        if not self._running:
            self._since = time.monotonic()
        self._running += 1
        if not self.compiled and self._ours(started):
            self._tell("compiling kernels for this machine, once (up to half a minute)")

    def on_end(self, ended: event.Event) -> None:
        self._running -= 1
        if not self._running:
            self.seconds += time.monotonic() - self._since
        if self._ours(ended):
            self.compiled += 1
            self._tell(f"  {self.compiled} kernels compiled")

    def _tell(self, text: str) -> None:
        if time.monotonic() - self.told >= self.every:
            self.told = time.monotonic()
            self.log.info(text)

    @staticmethod
    def _ours(told: event.Event) -> bool:
        return told.data["dispatcher"].py_func.__module__.startswith(__package__ + ".")


_announcer = _Announcer()
event.register("numba:compile", _announcer)


def compile_seconds() -> float:
    """Seconds for which this process has been compiling so far."""
    return _announcer.seconds
