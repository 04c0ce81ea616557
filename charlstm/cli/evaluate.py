"""`charlstm evaluate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table

from ..config import differing
from ..evaluation import DetailedEvaluation, EvaluationConfig
from ..run import SPLITS, Split, Which, default_split, load
from ..wording import printable
from .options import Backend, Json, Precision, Threads, Unknown, tell_unknown
from .quality import Sampling, TextQualityOptions, check_options, print_text_quality

FIGURES = (  # as they are printed: name, label, unit
    ("loss", "loss", "nats per token"),
    ("perplexity", "perplexity", "per token"),
    ("bits_per_char", "bits per character", ""),
    ("bits_per_word", "bits per word", "per word or line end"),
    ("word_perplexity", "word perplexity", "per word or line end"),
    ("mean_max_posterior", "mean max posterior", ""),
    ("top_1_accuracy", "top-1 accuracy", "share of tokens"),
    ("top_k_accuracy", "top-{k} accuracy", "share of tokens"),
    ("expected_calibration_error", "calibration error", "of the posterior"),
)


def evaluate(
    run: Path,
    /,
    *,
    split: Split | None = None,
    data: str | None = None,
    encoding: str | None = None,
    on_unknown: Unknown | None = None,
    windows: Annotated[bool, Parameter(negative="")] = False,
    options: Annotated[EvaluationConfig | None, Parameter(name="*", negative="")] = None,
    quality: Annotated[
        TextQualityOptions | None, Parameter(name="*", negative="", group="Text quality")
    ] = None,
    sampling: Annotated[Sampling | None, Parameter(name="*", negative=(), group="Text quality")] = None,
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    matmul_precision: Precision = "highest",
    json_output: Json = False,
) -> None:
    """Measure how well a trained model predicts a text.

    ```
    charlstm evaluate runs/my-1                              # the text's last tenth
    charlstm evaluate runs/my-1 --data other.txt             # all of it
    charlstm evaluate runs/my-1 --dynamic                    # learns while it reads
    charlstm evaluate runs/my-1 --text-quality               # what it writes, beside real text
    charlstm evaluate runs/my-1 --json
    ```

    Each figure comes with its 95 % interval, by bootstrap over segments of the text; a text of fewer than 4,000
    characters is too short for one.

    Parameters
    ----------
    run
        A run directory, or a model directory.
    split
        Part of the text. [default: what validates (val), of --data all]
    data
        Another text than the one that the run was trained on.
    windows
        Predict each window of seq_len tokens from a zero state, as models without a memory across batches are
        measured. Without it the state is carried through the text, so that each token is predicted from all before
        it, which is what generating does; a window's first tokens are predicted from little or nothing, and its
        figures are worse. What validates in a run with --split windows is always read in windows.
    encoding
        The text's encoding, where it is another than that of the run's text.
    which
        Checkpoint to take.
    """
    quality = quality if quality is not None else TextQualityOptions()
    sampling = sampling if sampling is not None else Sampling()
    options = options if options is not None else EvaluationConfig()
    split = split or default_split(data is not None)
    check_options(quality, sampling, [*(["windows"] if windows else []), *differing(options)], split)
    loaded = load(run, backend, which=which, threads=threads, matmul_precision=matmul_precision)
    own = (
        quality.text_quality and data is None
    )  # a run knows its text's encoding: this is the generated one's
    corpus = loaded.corpus(data, encoding=None if own else encoding, on_unknown=on_unknown)
    tell_unknown(loaded.tokenizer, corpus.unknown, on_unknown or loaded.data_config.on_unknown)
    if quality.text_quality:
        print_text_quality(loaded, corpus, split, quality, sampling, encoding or "utf-8", json_output)
        return
    found = loaded.evaluate(corpus, split=split, windows=windows, **dataclasses.asdict(options))
    if json_output:
        print(json.dumps(found.to_dict()))
        return
    console = Console(highlight=False)
    console.print(_figures(found, printable(f"{SPLITS[split]} of {corpus.name}")))
    console.print(_reliability(found))


def _figures(found: DetailedEvaluation, part: str) -> Table:
    by = f"95 % intervals by bootstrap over {len(found.segments):,} segments of the text"
    if all(interval is None for interval in found.intervals.values()):
        by = "too short a text for intervals"
    table = Table("", "", "95 % interval", "", title=f"{part}: {_what(found)}", caption=by, box=box.SIMPLE)
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, label, unit in FIGURES:
        value, interval = found.figures[name], found.intervals[name]
        if value is not None:
            shown = "" if interval is None else " to ".join(map(_number, interval))
            k = found.config.top_k
            table.add_row(label.format(k=k), _number(value), shown, unit.format(k=k))
    return table


def _what(found: DetailedEvaluation) -> str:
    text = f"{found.tokens:,} tokens, {found.characters:,} characters, {found.words:,} words and line ends"
    return f"{text},\nlearned from while read" if found.config.dynamic else text


def _reliability(found: DetailedEvaluation) -> Table:
    title = "how often the most probable token was right"
    table = Table("its posterior", "mean", "was right", "tokens", title=title, box=box.SIMPLE)
    for column in table.columns:
        column.justify = "right"
    for each in found.reliability:
        table.add_row(
            f"{each.above:.1f} to {each.up_to:.1f}", f"{each.confidence:.3f}", f"{each.accuracy:.3f}",
            f"{each.tokens:,}",
        )  # fmt: skip
    return table


def _number(value: float) -> str:
    if value >= 1e9:
        return f"{value:.3e}"
    return f"{value:.4f}" if value < 100 else f"{value:,.1f}"
