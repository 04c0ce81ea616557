"""A server that draws text for many at once, in OpenAI's format of completions, and a page on top of it.

What is imported here needs no more than charlstm itself; the rest needs the extra `serve`.
"""

from __future__ import annotations

from .config import ServeConfig
from .engine import Engine, Piece, Request

__all__ = ["Engine", "Piece", "Request", "ServeConfig"]
