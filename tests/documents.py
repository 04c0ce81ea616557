"""Blocks of code in the Markdown documents, for the tests that execute them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document, by its path from the root; in their order.

    Each begins with as many empty lines as there are lines before it, so that a traceback names its line.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if match[1] == language]
    return ["\n" * text.count("\n", 0, match.start(2)) + match[2] for match in found]
