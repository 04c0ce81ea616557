"""`charlstm generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..config import SamplingConfig
from ..generation import generate as characters_after
from ..run import Which, load
from .options import Backend, Json, Threads, Unknown, tell_unknown


def generate(
    run: Path,
    /,
    *,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)] = "",
    sampling: Annotated[SamplingConfig | None, Parameter(name="*")] = None,
    on_unknown: Unknown = "error",
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Generate text from a trained model.

    ```
    charlstm generate runs/my-1 --prompt "ROMEO:" --length 500
    charlstm generate runs/my-1 --temperature 0.5 --seed 7 > poem.txt
    ```

    Prints the prompt and what follows it on stdout, and nothing else there.

    Parameters
    ----------
    run
        A run directory, or a model directory.
    prompt
        Text to go on from.
    which
        Checkpoint to take.
    """
    sampling = sampling if sampling is not None else SamplingConfig()
    loaded = load(run, backend, which=which, threads=threads)
    tell_unknown(loaded.tokenizer, loaded.tokenizer.unknown(prompt), on_unknown)
    text = characters_after(loaded.model, loaded.tokenizer, prompt, sampling, on_unknown)
    if json_output:
        print(json.dumps({"prompt": prompt, "text": prompt + "".join(text), "seed": sampling.seed}))
        return
    sys.stdout.write(prompt)
    stream = sys.stdout.isatty()
    for character in text:
        sys.stdout.write(character)
        if stream:
            sys.stdout.flush()
    sys.stdout.write("\n")
