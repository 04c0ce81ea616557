"""`charlstm serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..backends import get_ops
from ..errors import UsageError
from ..run import Run, Which, load
from ..serve import ServeConfig
from .options import Backend, Precision, Threads


def serve(
    *runs: Path,
    config: Annotated[ServeConfig | None, Parameter(name="*", negative=())] = None,
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    matmul_precision: Precision = "highest",
) -> None:
    """Serve trained models: a page to write with, and an API in OpenAI's format of completions.

    ```
    charlstm serve runs/my-1          # http://127.0.0.1:8000
    charlstm serve runs/my-1 runs/my-2 --port 9000
    CHARLSTM_API_KEY=secret charlstm serve runs/my-1 --host 0.0.0.0
    curl localhost:8000/v1/completions -H "Content-Type: application/json" \\
         -d '{"prompt": "ROMEO:", "max_tokens": 100, "stream": true}'
    ```

    Needs FastAPI: pip install "charlstm[serve]".

    Parameters
    ----------
    runs
        Run directories, or model directories; clients know them by the names of these folders.
    which
        Checkpoint to take.
    """
    if not runs:
        raise UsageError("name a run directory to serve")
    config = config if config is not None else ServeConfig()
    if config.api_key is None:
        config = replace(config, api_key=os.environ.get("CHARLSTM_API_KEY") or None)
    try:
        from ..serve.command import serve as start
    except ImportError as error:
        raise UsageError(f'serving needs {error.name}: pip install "charlstm[serve]"') from None
    ops = get_ops(backend, threads, matmul_precision)
    named = _named([load(run, ops, which=which) for run in runs])

    def tell(address: str) -> None:
        print(
            f"{', '.join(named)} on {address} (API: {address}/docs). Ctrl-C stops.",
            file=sys.stderr,
            flush=True,
        )

    start(named, config, tell)


def _named(runs: list[Run]) -> dict[str, Run]:
    """Runs by the names of their folders, which are numbered where they are the same."""
    named: dict[str, Run] = {}
    for run in runs:
        stem, number = run.directory.resolve().name, 1
        name = stem
        while name in named:
            number += 1
            name = f"{stem}-{number}"
        named[name] = run
    return named
