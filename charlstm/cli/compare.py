"""`charlstm compare`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..comparison import Comparison
from ..comparison import compare as compared
from ..comparison.page import comparison_page
from ..comparison.tables import COSTS, HEADINGS, costs, letter, notes, options, quality
from ..pages import check_page
from ..run import Split, Which
from ..wording import printable, write_text
from .options import Backend, Json, Threads, Unknown


def compare(
    *runs: Path,
    data: str | None = None,
    split: Split | None = None,
    output: Path | None = None,
    encoding: str | None = None,
    on_unknown: Unknown | None = None,
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> int:
    """Measure several runs on one text, and set side by side what they reach, what they cost and how they differ.

    ```
    charlstm compare runs/my-1 runs/my-2                       # on the text that validates in both
    charlstm compare runs/* --output compare.html              # with curves
    charlstm compare runs/words runs/bytes --data other.txt    # whatever they were trained on
    charlstm compare runs/my-1 runs/my-2 --json
    ```

    Best first, in bits per character, which do not depend on what the tokens are. Each run's difference from the
    best comes with an interval by the paired bootstrap: where it holds 0, this text does not tell which is better.
    Runs that were measured on different texts are refused.

    Parameters
    ----------
    runs
        Run directories, or model directories (with --data). One that is missing or damaged is left out, and the exit
        status is then 1.
    data
        A text to measure all runs on, in place of their own; all of it, unless --split names a part.
    split
        Part of the text. [default: val; with --data all]
    output
        A page to write, with tables and curves; it takes the place of such a page only.
    encoding
        The text's encoding, where it is another than that of the runs' texts.
    which
        Checkpoint to take.
    """
    if output is not None:
        check_page(output)
    found = compared(
        runs,
        data,
        split,
        encoding=encoding,
        on_unknown=on_unknown,
        which=which,
        backend=backend,
        threads=threads,
    )
    if output is not None:
        write_text(output, comparison_page(found))
    for note in notes(found):
        print(printable(note), file=sys.stderr)
    if json_output:
        print(json.dumps(found.to_dict()))
    else:
        _print(found)
    return 1 if found.left_out else 0


def _print(found: Comparison) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file has no edge
    console.print(_table(HEADINGS, quality(found), f"on {found.text}"))
    console.print(
        _table(COSTS, costs(found), "what they cost; losses in nats per token, on what each validates with")
    )
    differing = options(found)
    if differing:
        letters = [letter(k) for k in range(len(found.runs))]
        console.print(_table(("", *letters), differing, "options in which they differ"))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    table = Table(title=escape(printable(title)), box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "run") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(value)) for value in row))
    return table
