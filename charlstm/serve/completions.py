"""Answers to requests for completions: at once, or piece by piece."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Collection
from typing import Any

from starlette.responses import Response

from ..generation import Stream
from .engine import DrawingError, Engine, Piece, QueueFullError, Request
from .guards import Receive, Scope, Send
from .protocol import Choice, CompletionRequest, error, usage

READING_SECONDS = 30.0  # after its deadline, in which a client may read what is left of an answer


class Asked(Request):
    """A request whose reader waits in an event loop."""

    def __init__(self, streams: list[Stream], watched: bool, deadline: float) -> None:
        super().__init__(streams, watched, deadline)
        self.ready = asyncio.Event()


def wake(requests: Collection[Request]) -> None:
    """Called in the event loop for what has pieces to read."""
    for request in requests:
        if isinstance(request, Asked):
            request.ready.set()


class Answer(Response):
    """Has texts drawn while it answers; if the client goes away, it has them drawn no more."""

    def __init__(
        self, asked: CompletionRequest, request: Asked, engine: Engine, model: str, names: list[str]
    ) -> None:
        super().__init__()
        self._asked, self._request, self._engine = asked, request, engine
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._choices = [Choice(k, stream, names, asked) for k, stream in enumerate(request.streams)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        self._engine.submit(self._request)
        answering = asyncio.ensure_future(self._stream(send) if self._asked.stream else self._whole(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            left = self._request.deadline - time.monotonic() + READING_SECONDS
            await asyncio.wait({answering, leaving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            self._engine.cancel(self._request)
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _pieces(self) -> dict[int, Piece]:
        """What has come since the last time, joined for each text; waits until something has."""
        await self._request.ready.wait()
        self._request.ready.clear()
        joined: dict[int, Piece] = {}
        inbox = self._request.inbox
        while inbox:
            piece = inbox.popleft()
            before = joined.get(piece.place)
            joined[piece.place] = (
                piece
                if before is None
                else Piece(piece.place, before.text + piece.text, before.tokens + piece.tokens, piece.end)
            )
        return joined

    async def _whole(self, send: Send) -> None:
        pieces = await self._pieces()
        self._check(pieces)
        choices = [self._choices[k].told(*pieces[k][1:]) for k in sorted(pieces)]
        told = {**self._head, "choices": choices, "usage": self._usage()}
        body = json.dumps(told).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Send) -> None:
        pieces = await self._pieces()
        self._check(pieces)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        over = 0
        while True:
            over += sum(piece.end is not None for piece in pieces.values())
            events = [self._event(piece) for piece in pieces.values()]
            if over == len(self._choices):
                if self._asked.include_usage:
                    events.append(_event({**self._head, "choices": [], "usage": self._usage()}))
                events.append(b"data: [DONE]\n\n")
                await send({"type": "http.response.body", "body": b"".join(events)})
                return
            await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
            pieces = await self._pieces()

    def _event(self, piece: Piece) -> bytes:
        if piece.end == "error":
            return _event(error(str(DrawingError()), "server_error"))
        told: dict[str, Any] = {**self._head, "choices": [self._choices[piece.place].told(*piece[1:])]}
        return _event(told | {"usage": None} if self._asked.include_usage else told)

    def _check(self, pieces: dict[int, Piece]) -> None:
        """Raise where nothing has been said so far and nothing is to be said: there still is a status for that."""
        if any(piece.end == "error" for piece in pieces.values()):
            raise DrawingError
        if self._request.started is None:  # the deadline came first
            raise QueueFullError

    def _usage(self) -> dict[str, int]:
        return usage(self._request.streams, self._asked.n or 1)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(content).encode()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
