"""A server in a thread, and what it answers, for tests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

import charlstm
from charlstm.serve import ServeConfig
from charlstm.serve.app import Server
from charlstm.serve.command import Listener
from charlstm.serve.protocol import Completion, Error

LIMITS = ServeConfig(slots=4, queue=6, max_prompt=300, max_length=100_000, max_texts=8, max_body=20_000)


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


def completed(http: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    Completion.model_validate_json(answer.content)
    told: dict[str, Any] = answer.json()
    return told


def refused(answer: httpx.Response, status: int, *parts: str) -> None:
    assert answer.status_code == status, answer.text
    message = Error.model_validate_json(answer.content).error.message
    for part in parts:
        assert part in message


def streamed(http: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    """The events of a streamed answer."""
    with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last, nothing = answer.read().decode().split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def figure(http: httpx.Client, name: str) -> float:
    """One of /metrics."""
    (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])
