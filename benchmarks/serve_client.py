"""Clients of a server of completions, cheap enough to leave the server its share of the machine."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    """What one streamed answer was like."""

    status: int = 0
    text: str = ""
    first: float = 0.0
    """Seconds to the first piece."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between two pieces that follow each other."""
    characters: list[tuple[float, int]] = field(default_factory=list)
    """When a piece came, and how many characters it had."""


async def ask(port: int, asked: dict[str, Any], leave_after: int | None = None) -> Heard:
    """A request, streamed or not; `leave_after` so many pieces the client hangs up."""
    return await ask_raw(port, json.dumps(asked).encode(), leave_after)


async def ask_raw(port: int, body: bytes, leave_after: int | None = None) -> Heard:
    heard, started = Heard(), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        heard.status = int((await reader.readline()).split()[1])
        last = None
        async for line in reader:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                now = time.perf_counter()
                text = event["choices"][0]["text"]
                heard.text += text
                heard.characters.append((now, len(text)))
                if last is None:
                    heard.first = now - started
                else:
                    heard.gaps.append(now - last)
                last = now
                if leave_after is not None and len(heard.characters) >= leave_after:
                    break
            elif line.startswith(b"{"):
                told = json.loads(line)
                heard.text = told["choices"][0]["text"] if heard.status == 200 else told["error"]["message"]
    finally:
        writer.close()
    return heard
