"""What stands before the routes: who may ask, how much, and what browsers are told."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from .config import ServeConfig, is_loopback
from .metrics import Metrics
from .protocol import error

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 20.0  # in which a request's body has to come
LINGER_SECONDS = 2.0  # in which who is refused may send the rest of it
OPEN_PATHS = ("/health",)  # that need no key
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_CLOSE = {"connection": "close"}


async def refuse(
    send: Send,
    status: int,
    content: dict[str, Any],
    headers: dict[str, str] | None = None,
    receive: Receive | None = None,
) -> None:
    """Answer with an error. With `receive` the rest of the request's body is thrown away before the end.

    A connection that is closed while bytes come in is reset, and the client may lose the answer.
    """
    body = json.dumps(content).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if receive is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await _discard(receive)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


class Told:
    """Adds the headers that are the same for all answers, and counts these."""

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                # routes have names; of paths there are endlessly many
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(route, message["status"]).inc()
                given = {name for name, _ in message["headers"]}
                added = {"content-security-policy": POLICY, "cache-control": "no-store", **HEADERS}
                message["headers"] = list(message["headers"]) + [
                    (name.encode(), value.encode())
                    for name, value in added.items()
                    if name.encode() not in given
                ]
            await send(message)

        await self._app(scope, receive, telling)


class Admission:
    """Lets in who knows the key and calls the server by its name, and no page of another origin."""

    def __init__(self, app: Application, config: ServeConfig) -> None:
        self._app, self._origins = app, config.cors_origin
        self._hosts = {name.lower().strip("[]") for name in (config.host, *config.allowed_host)}
        self._checks_host = config.checks_host
        self._key = None if config.api_key is None else config.api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if not self._named(headers):
                message = "the Host header does not name this server (--allowed-host NAME lets a name in)"
                told = error(message, "permission_error", code="host_not_allowed")
                await refuse(send, 403, told, _CLOSE, receive)
                return
            if self._foreign(headers):
                message = "pages of this origin may not use this server (--cors-origin lets them)"
                told = error(message, "permission_error", code="origin_not_allowed")
                await refuse(send, 403, told, _CLOSE, receive)
                return
            if not self._knows(headers.get(b"authorization", b"")) and scope["path"] not in OPEN_PATHS:
                message = "give the server's key: Authorization: Bearer KEY (a browser asks for a password)"
                told = error(message, "authentication_error", code="invalid_api_key")
                asking = {"www-authenticate": 'Basic realm="charlstm", charset="UTF-8"'}
                await refuse(send, 401, told, asking | _CLOSE, receive)
                return
        await self._app(scope, receive, send)

    def _named(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request is for this server. A page may have its own name resolved to this machine's address
        (DNS rebinding): to the browser it is then of the same origin, but the name stays the page's."""
        if not self._checks_host:
            return True
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = re.sub(r":[0-9]*\Z", "", host).strip("[]")  # without the port, and the brackets of IPv6
        return is_loopback(name) or name in self._hosts

    def _foreign(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a browser says that another site's page asks; one that cannot read the answer would still have
        it drawn."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._origins or "*" in self._origins:
            return False
        return origin.partition("://")[2] != headers.get(b"host", b"").decode("latin-1")

    def _knows(self, authorization: bytes) -> bool:
        if self._key is None:
            return True
        kind, _, given = authorization.partition(b" ")
        if kind.lower() == b"basic":  # with which browsers send what a person was asked for
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        return kind.lower() in (b"bearer", b"basic") and hmac.compare_digest(given, self._key)


class BodyLimit:
    """Reads a request's body before anybody else does, and no more of it than is allowed."""

    def __init__(self, app: Application, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(scope, receive)
        except TimeoutError:
            await refuse(send, 408, error("the request did not come in time"), _CLOSE)
            return
        if body is None:
            message = f"a request may have at most {self._most} bytes"
            await refuse(send, 413, error(message, code="request_too_large"), _CLOSE, receive)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """None where it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            return None
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._most:
                return None
        return b"".join(parts)
