"""`charlstm export`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from .. import checkpoint
from ..errors import UsageError
from ..export import to_onnx
from ..run import Which, load, model_directory
from .options import Backend, Json, Threads


def export(
    run: Path,
    /,
    *,
    format: Annotated[Literal["onnx", "hub"], Parameter(name="--format")],
    output: Path,
    license: Annotated[str | None, Parameter(name="--license")] = None,
    which: Which = "best",
    force: Annotated[bool, Parameter(negative="")] = False,
    backend: Backend = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Write a trained model for other programs, or for other people.

    ```
    charlstm export runs/my-1 --format onnx --output model.onnx
    charlstm export runs/my-1 --format hub --output my-model --license mit
    ```

    onnx: one file, float32, with the state as inputs and outputs; a language model's tokenizer.json is written
    beside it. hub: a directory in the Hugging Face Hub's form, with a model card of the run's losses and a sample,
    which --backend computes.

    Parameters
    ----------
    run
        A run directory, or a model directory.
    format
        What to write.
    output
        The ONNX file, or the directory. An earlier export is replaced.
    license
        hub: the licence that the model card names, such as mit.
    which
        Checkpoint to take.
    force
        Overwrite other files than an earlier export's too. In a directory, those that a model does not have stay.
    """
    if format == "onnx":
        if license is not None:
            raise UsageError("--license goes with --format hub: an ONNX file names none")
        model, tokenizer = checkpoint.load_model(model_directory(run, which), "numpy")
        to_onnx(model, output, tokenizer, force=force)
    else:
        load(run, backend, which=which, threads=threads).save_pretrained(output, license=license, force=force)
    if json_output:
        print(json.dumps({"format": format, "output": str(output)}))
    else:
        print(f"written: {shlex.quote(str(output))}", file=sys.stderr)
