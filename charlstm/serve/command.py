"""Running a server until it is told to stop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn

from ..errors import CharLSTMError
from ..run import Run
from .app import Server
from .config import ServeConfig

SWITCH_SECONDS = 0.0005  # in which the engine's thread gets the interpreter from the event loop
AFTER_DRAINING = 5  # seconds for answers to be sent


class Listener(uvicorn.Server):
    """Serves an application, and tells its engines when it is told to stop."""

    def __init__(self, server: Server) -> None:
        options = uvicorn.Config(
            server.app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="on",
            timeout_graceful_shutdown=int(server.config.drain_seconds) + AFTER_DRAINING,
        )  # fmt: skip
        super().__init__(options)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._server.drain()
        super().handle_exit(sig, frame)


def serve(runs: Mapping[str, Run], config: ServeConfig, tell: Callable[[str], None]) -> None:
    """Serve runs, by the names that clients know them by, until SIGINT or SIGTERM.

    The signal lets no further requests in, lets those under way go on for `config.drain`, and then has its usual
    effect. `tell` is called with the server's address. Raises CharLSTMError where it cannot listen there.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    server = Server(runs, config)
    with _listening(config) as listener:
        host, port = listener.getsockname()[:2]
        tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        Listener(server).run([listener])


def _listening(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise CharLSTMError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error} (--host, --port)"
        ) from None
    listener.listen(2048)
    return listener
