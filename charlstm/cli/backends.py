"""`charlstm backends`."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..backends import describe_backends
from ..verification import Figure, check_backend
from .options import Json


def backends(*, check: bool = False, json_output: Json = False) -> int:
    """Show what each backend can use on this machine, and check that it computes rightly.

    ```
    charlstm backends
    charlstm backends --check    # gradients and agreement on this machine and device
    ```

    Parameters
    ----------
    check
        Run the gradient and agreement checks on each backend that can run, and print each figure.
    """
    rows = describe_backends()
    figures: list[Figure] = []
    if check:
        for row in rows:
            if row["available"]:
                figures += check_backend(row["backend"])
    passed = all(figure.passed for figure in figures)
    if json_output:
        content: dict[str, object] = {"backends": rows}
        if check:
            content |= {"checks": [figure.to_dict() for figure in figures], "passed": passed}
        print(json.dumps(content))
    else:
        console = Console(highlight=False)
        console.print(_backend_table(rows))
        for row in rows:
            if row.get("bfloat16"):
                console.print(f"{row['backend']}, --matmul-precision medium: {escape(str(row['bfloat16']))}")
        if check:
            console.print(_check_table(figures))
            console.print(
                "all checks passed" if passed else "[bold]some checks failed: do not trust that backend[/]"
            )
    return 0 if passed else 1


def _backend_table(rows: list[dict[str, object]]) -> Table:
    table = Table("backend", "can run", "device", "threads", "BLAS", title="backends")
    for row in rows:
        if not row["available"]:
            table.add_row(str(row["backend"]), "no", escape(str(row["reason"])), "", "")
            continue
        blas = row["blas"]
        name = (
            f"{blas['library']} {blas['version']}, {blas['architecture']}"
            if isinstance(blas, dict)
            else "cuBLAS"
        )
        table.add_row(str(row["backend"]), "yes", str(row["device"]), str(row["threads"]), name)
    return table


def _check_table(figures: list[Figure]) -> Table:
    table = Table("backend", "check", "error", "allowed", "", title="checks")
    for figure in figures:
        verdict = "passed" if figure.passed else "[bold]failed[/]"
        table.add_row(figure.backend, figure.check, f"{figure.error:.1e}", f"{figure.allowed:.0e}", verdict)
    return table
