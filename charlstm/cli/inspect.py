"""`charlstm inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..data import read_beginning
from ..inspection import Reading, Search, search
from ..inspection.page import inspection_page, table_lines
from ..pages import check_page
from ..run import INSPECTED, MOST_INSPECTED, Run, Which, load
from ..wording import printable, write_text
from .options import Backend, Json, Threads, Unknown, tell_unknown

PER_TOKEN = 32  # characters of a text that are read for each token that is longer than one: few are longer


def inspect(
    run: Path,
    /,
    *,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    length: int = INSPECTED,
    output: Path | None = None,
    encoding: str | None = None,
    on_unknown: Unknown | None = None,
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Look inside a trained model while it reads: one HTML page, coloured by surprise or by any cell.

    ```
    charlstm inspect runs/my-1                       # the text that validates; writes inspect.html
    charlstm inspect runs/my-1 --text other.txt --length 5000 --output other.html
    charlstm inspect runs/my-1 --json | jq .cells
    ```

    Prints the cells that go most with properties of the text (inside quotes, length of the line, upper case, ...):
    found on its first half, and in brackets the correlation on its second half.

    Parameters
    ----------
    run
        A run directory, or a model directory.
    text
        What to read: a file, - for stdin, or whatever else `train --data` takes. [default: the run's own text that
        validates]
    length
        Tokens to read from the text's beginning, at most 20,000. A page has room for all cells of 2 layers of 256
        units while they read 3,000; of more, for those that go most with a property.
    output
        The page to write; it takes the place of such a page only. [default: inspect.html; with --json none]
    encoding
        The text's encoding, where it is another than that of the run's text.
    which
        Checkpoint to take.
    """
    if output is None and not json_output:
        output = Path("inspect.html")
    if output is not None:
        check_page(output)
    loaded = load(run, backend, which=which, threads=threads)
    name, content = None, None
    if text is not None:
        name, content = read_beginning(
            text,
            _characters(loaded, length),
            encoding or loaded.data_config.encoding,
            loaded.tokenizer.decoding_errors,
        )
        policy = on_unknown or loaded.data_config.on_unknown
        tell_unknown(loaded.tokenizer, loaded.tokenizer.unknown(content), policy)
    reading = loaded.inspect(content, length=length, on_unknown=on_unknown)
    found = search(reading)
    if output is not None:
        read = "The text that validates" if name is None else name
        title = loaded.directory.name or str(loaded.directory)
        write_text(output, inspection_page(title, read, loaded.tokenizer, reading, found))
    if json_output:
        print(json.dumps(_described(loaded, reading, found, output)))
        return
    for property_name, cells in table_lines(found):
        print(f"{property_name:27}{cells}")
    print(printable(f"{reading.bits_per_token:.4f} bits per token; the page is {output}"), file=sys.stderr)


def _characters(run: Run, length: int) -> int:
    """How much of a text holds that many tokens: what is not looked into need not be known."""
    per_token = 1 if run.tokenizer.unit in ("character", "byte") else PER_TOKEN
    return per_token * min(max(length, 1), MOST_INSPECTED)


def _described(loaded: Run, reading: Reading, found: Search, output: Path | None) -> dict[str, Any]:
    """--json."""
    names: dict[int, str] = {}

    def named(token: int) -> str:
        return names.setdefault(token, loaded.tokenizer.name_of(token))

    rows = zip(reading.texts, reading.surprise.tolist(), reading.entropy.tolist(),
               reading.alternatives.tolist(), reading.probabilities.tolist(), strict=True)  # fmt: skip
    return {
        "run": str(loaded.directory),
        "output": None if output is None else str(output),
        "bits_per_token": reading.bits_per_token,
        "cells": {
            name: [
                {**finding.cell._asdict(), "r": finding.r, "held_out": finding.held_out}
                for finding in findings
            ]
            for name, findings in found.found.items()
        },
        "tokens": [
            {
                "text": text,
                "bits": bits,
                "entropy": entropy,
                "alternatives": [
                    [named(token), p] for token, p in zip(alternatives, probabilities, strict=True)
                ],
            }
            for text, bits, entropy, alternatives, probabilities in rows
        ],
    }
