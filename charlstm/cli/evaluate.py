"""`charlstm evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..run import Split, Which, load
from .options import Backend, Json, Threads, Unknown, tell_unknown


def evaluate(
    run: Path,
    /,
    *,
    split: Split = "val",
    data: str | None = None,
    encoding: str | None = None,
    on_unknown: Unknown | None = None,
    windows: Annotated[bool, Parameter(negative="")] = False,
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    json_output: Json = False,
) -> None:
    """Measure how well a trained model predicts a text.

    ```
    charlstm evaluate runs/my-1                              # the text's last tenth
    charlstm evaluate runs/my-1 --data other.txt --split all
    charlstm evaluate runs/my-1 --json
    ```

    Parameters
    ----------
    run
        A run directory, or a model directory.
    split
        Part of the text.
    data
        Another text than the one that the run was trained on.
    windows
        Predict each window of seq_len tokens from a zero state, in place of carrying the state through the text;
        what validates in a run with --split windows is always read so.
    encoding
        The text's encoding, where it is another than that of the run's text.
    which
        Checkpoint to take.
    """
    loaded = load(run, backend, which=which, threads=threads)
    corpus = loaded.corpus(data, encoding=encoding, on_unknown=on_unknown)
    tell_unknown(loaded.tokenizer, corpus.unknown, on_unknown or loaded.data_config.on_unknown)
    figures = loaded.evaluate(corpus, split=split, windows=windows)
    if json_output:
        print(json.dumps(figures.to_dict()))
        return
    print(f"loss                {figures.loss:.4f} nats per token")
    print(f"perplexity          {figures.perplexity:.4f}")
    print(f"bits per character  {figures.bits_per_char:.4f}")
    print(f"mean max posterior  {figures.mean_max_posterior:.4f}")
    print(f"tokens              {figures.tokens:,}")
