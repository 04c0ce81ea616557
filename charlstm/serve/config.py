"""How a server serves: the choices a user makes."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..config import OnUnknown
from ..errors import UsageError
from ..options import check_not_negative, check_positive, check_types, parse_duration


@dataclass(frozen=True)
class ServeConfig:
    """Where a server listens, and what it lets a client ask for."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets in whoever reaches this machine."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    api_key: str | None = None
    """Answer only who knows this key, on every route but /health [default: CHARLSTM_API_KEY, if set]."""
    cors_origin: tuple[str, ...] = ()
    """Let pages of this origin, such as https://example.com, use the API. May be given several times."""
    allowed_host: tuple[str, ...] = ()
    """Answer requests for this name, such as text.example.com, which a reverse proxy passes on; localhost and its
    addresses are answered always. May be given several times."""
    slots: int = 256
    """Texts of a model that are drawn side by side; further ones wait."""
    queue: int = 256
    """Texts of a model that may wait; beyond that requests are refused with status 429."""
    max_prompt: int = 16384
    """Tokens that a prompt may have."""
    max_length: int = 4096
    """Tokens that a text may have."""
    max_texts: int = 32
    """Texts that one request may ask for."""
    max_body: int = 262144
    """Bytes that a request may have."""
    deadline: str = "2m"
    """How long a request may take, waiting included; a text that is not over by then is cut."""
    drain: str = "10s"
    """How long requests that are under way may go on after SIGTERM."""
    on_unknown: OnUnknown = "error"
    """What to do with characters of a prompt that the model does not know, unless the request says it."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "slots", "max_prompt", "max_length", "max_texts", "max_body")
        check_not_negative(self, "queue")
        if not 0 <= self.port < 65536:
            raise UsageError(f"port must lie in 0 to 65535, not {self.port}")
        if self.api_key == "":
            raise UsageError("api_key is empty, which would let everybody in: leave it out for that")
        for origin in self.cors_origin:
            if origin != "*" and ("://" not in origin or origin.endswith("/")):
                raise UsageError(f"cors_origin reads https://example.com, without a path, not {origin!r}")
        for name in self.allowed_host:
            if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name):
                raise UsageError(
                    f"allowed_host reads text.example.com, without a scheme, a port or a path, not {name!r}"
                )
        for duration in (self.deadline, self.drain):
            parse_duration(duration)

    @property
    def checks_host(self) -> bool:
        """Whether requests must name this server: nothing else keeps a page away that has made a browser take its
        name for this machine's. Behind a key it is not needed, and other machines may know this one by any name."""
        return bool(self.allowed_host) or (self.api_key is None and is_loopback(self.host))

    @property
    def deadline_seconds(self) -> float:
        return parse_duration(self.deadline)

    @property
    def drain_seconds(self) -> float:
        return parse_duration(self.drain)


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
