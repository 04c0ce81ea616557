"""The docstrings of charlstm as reStructuredText, for the API reference.

They are written to be read as they stand: paragraphs, code in single backticks, indented code, and tables of
arguments with the name in the first column and what it is in the second, two spaces or more to the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

ROW = re.compile(r"(\w+(?:, \w+)*)  +(\S.*)")
CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"([\\*_|])")  # what would be markup outside of code


def to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines as lines of reStructuredText."""
    rst: list[str] = []
    for empty, block in groupby(lines, key=lambda line: not line.strip()):
        if not empty:
            rst += [*_block(list(block)), ""]
    return rst


def _block(lines: list[str]) -> Iterator[str]:
    """The lines of one block, between two empty ones."""
    if lines[0].startswith(">>> "):
        yield from lines
    elif all(line.startswith(" ") for line in lines):
        yield "::"
        yield ""
        yield from lines
    elif (len(lines) > 1 and ROW.fullmatch(lines[0])) or all(ROW.fullmatch(line) for line in lines):
        yield from _table(lines)
    else:
        # an indented block brings its own "::"
        yield from map(_escaped, [*lines[:-1], re.sub("::$", ":", lines[-1])])


def _table(lines: list[str]) -> Iterator[str]:
    """A table of arguments as a definition list."""
    for line in lines:
        row = ROW.fullmatch(line)
        if row:
            yield f"``{row[1]}``"
        yield "    " + _escaped(row[2] if row else line.strip())


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(part if part.startswith("`") else MARKUP.sub(r"\\\1", part) for part in parts)
