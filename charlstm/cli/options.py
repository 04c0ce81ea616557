"""Options that several commands share."""

from __future__ import annotations

import sys
from collections import Counter
from contextvars import ContextVar
from typing import Annotated, Literal

from cyclopts import Parameter

from ..data import CharacterTokenizer, OnUnknown, name_characters

COMMAND: ContextVar[str] = ContextVar("command")  # the command line that is being run, quoted for a shell
Backend = Annotated[
    Literal["auto", "numpy", "numba", "cupy"],
    Parameter(help="What computes; auto, the default, takes the fastest that can run here."),
]
Threads = Annotated[
    int | None, Parameter(help="Threads [default: CHARLSTM_NUM_THREADS, else one for each usable core].")
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object on stdout.")]
Unknown = Annotated[
    OnUnknown, Parameter(name="--on-unknown", help="What to do with characters that the model does not know.")
]


def tell_unknown(tokenizer: CharacterTokenizer, unknown: Counter[str], on_unknown: OnUnknown) -> None:
    """Say on stderr which characters are skipped or replaced."""
    if unknown and on_unknown != "error":
        done = "skipped" if on_unknown == "skip" else f"replaced by {tokenizer.replacement!r}"
        print(f"{done}, not in the vocabulary: {name_characters(unknown)}", file=sys.stderr)
