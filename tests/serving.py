"""A server in a thread, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import charlstm
from charlstm.serve import ServeConfig
from charlstm.serve.app import Server
from charlstm.serve.command import Listener


@contextmanager
def serving(runs: Mapping[str, charlstm.Run], config: ServeConfig | None = None) -> Iterator[str]:
    """Its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = Listener(Server(runs, config if config is not None else ServeConfig()))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    while not running.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()
