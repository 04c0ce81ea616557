"""Recipes with a name, for `--preset`: the TOML files of this folder.

A file reads as a run's config.toml, any part of it; its first line is a comment that says what it is
for. To add a recipe is to add a file.
"""

from __future__ import annotations

from pathlib import Path

from ..config import Tables, read_tables
from ..errors import UsageError

FOLDER = Path(__file__).parent


def descriptions() -> dict[str, str]:
    """What each preset is for, by its name."""
    files = sorted(FOLDER.glob("*.toml"))
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}


def read(name: str) -> Tables:
    """A preset's options, by concern; UsageError, with the names that there are, where there is no such one."""
    known = descriptions()
    if name not in known:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(known)}")
    return read_tables(FOLDER / f"{name}.toml")
