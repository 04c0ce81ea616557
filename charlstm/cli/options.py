"""Options that several commands share."""

from __future__ import annotations

import sys
from collections import Counter
from contextvars import ContextVar
from typing import Annotated, Literal

from cyclopts import Parameter

from ..backends import MatmulPrecision
from ..config import OnUnknown
from ..data import Tokenizer

COMMAND: ContextVar[str] = ContextVar("command")  # the command line that is being run, quoted for a shell
Backend = Annotated[
    Literal["auto", "numpy", "numba", "cupy"],
    Parameter(help="What computes; auto, the default, takes the fastest that can run here."),
]
Threads = Annotated[
    int | None, Parameter(help="Threads [default: CHARLSTM_NUM_THREADS, else one for each usable core].")
]
Precision = Annotated[
    MatmulPrecision,
    Parameter(
        name="--matmul-precision",
        help="How exactly float32 matrix products are made: highest, float32 throughout; medium, operands rounded to "
        "bfloat16, faster where the processor has such products; high, nearly as exact as highest; "
        "auto, medium where it is faster.",
    ),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object on stdout.")]
Unknown = Annotated[
    OnUnknown,
    Parameter(
        name="--on-unknown", help="What to do with characters (or words) that the model does not know."
    ),
]


def tell_unknown(tokenizer: Tokenizer, unknown: Counter[str], on_unknown: OnUnknown) -> None:
    """Say on stderr which characters or words are skipped or replaced."""
    if unknown and tokenizer.policy(on_unknown) != "error":
        print(tokenizer.tell_unknown(unknown, on_unknown), file=sys.stderr)
