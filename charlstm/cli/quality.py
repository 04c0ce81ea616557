"""The report of `charlstm evaluate --text-quality`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..config import differing
from ..data import Corpus, read_text
from ..errors import UsageError
from ..quality import FIGURES, TextQuality, text_quality
from ..quality.report import COPIED_FROM
from ..run import Run, Split
from ..sampling import SamplingConfig
from ..wording import printable


@dataclass(frozen=True)
class TextQualityOptions:
    """What `--text-quality` measures."""

    text_quality: bool = False
    """Measure generated text in place of predicting: its words, phrases, repetitions, copies of the training
    text, beside real held-out text and text of an n-gram model (needs sacrebleu: pip install "charlstm[quality]")."""
    characters: int = 20_000
    """Characters to generate and measure."""
    copied_from: int = COPIED_FROM
    """Characters from which on a stretch that stands in the training text counts as copied."""
    generated: Path | None = None
    """Measure the text in this file (--encoding, or else UTF-8) in place of generating some; the n-gram model's is
    drawn at --temperature all the same."""


@dataclass(frozen=True)
class Sampling(SamplingConfig):
    """How the measured text is drawn: all of `SamplingConfig`, without what cannot be chosen here.

    `--top-k` is the rank that `evaluate` counts to.
    """

    length: Annotated[int, Parameter(parse=False)] = SamplingConfig.length
    stop: Annotated[tuple[str, ...], Parameter(parse=False)] = ()
    regex: Annotated[str | None, Parameter(parse=False)] = None
    top_k: Annotated[int, Parameter(name="--sample-top-k")] = 0
    """Draw among this many of the most probable tokens only; 0: among all."""


def check_options(
    quality: TextQualityOptions, sampling: Sampling, others: Iterable[str], split: Split
) -> None:
    """UsageError for options that do nothing without --text-quality or, these `others`, with it."""
    drawn = ["sample_top_k" if name == "top_k" else name for name in differing(sampling)]
    if not quality.text_quality:
        for name in (*differing(quality), *drawn):
            raise UsageError(f"{_flag(name)} does nothing without --text-quality")
        return
    for name in others:
        raise UsageError(f"{_flag(name)} does nothing with --text-quality")
    if split == "train":
        raise UsageError(
            "--text-quality compares with text that was not trained on: take --split val or test"
        )
    if quality.generated is not None:
        for name in drawn:
            if name not in ("temperature", "seed"):
                raise UsageError(f"{_flag(name)} does nothing with --generated")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def print_text_quality(
    run: Run,
    data: Corpus,
    split: Split,
    options: TextQualityOptions,
    sampling: Sampling,
    encoding: str,
    as_json: bool,
) -> None:
    """Measure and print; `data` has the held-out text."""
    assert split != "train"
    with Console(stderr=True).status("reading") as status:  # shows nothing where there is no terminal
        found = text_quality(
            run,
            data,
            split=split,
            characters=options.characters,
            copied_from=options.copied_from,
            generated=None if options.generated is None else read_text(options.generated, encoding),
            tell=status.update,
            **{name: value for name, value in vars(sampling).items() if name != "length"},
        )
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    _print(found, "generated" if options.generated is None else printable(options.generated.name))


def _print(found: TextQuality, name: str) -> None:
    console = Console(highlight=False)
    table = Table("", escape(name), "held-out", "n-gram", "good is", box=box.SIMPLE)
    for column in table.columns[1:4]:
        column.justify = "right"
    labels = {figure.name: figure.label.format(copied_from=found.copied_from) for figure in FIGURES}
    for figure in FIGURES:
        columns = (found.model, found.held_out, found.ngram)
        shown = (_shown(figure.name, each[figure.name]) for each in columns)
        table.add_row(labels[figure.name], *shown, figure.better)
    console.print(
        f"{found.characters:,} characters of each kind of text. Held-out text is what to aim at; that of a "
        f"{len(found.bits_per_char) - 1}-gram model, drawn at temperature {found.temperature:g}, what to beat."
    )
    console.print(table)
    bits = found.bits_per_char
    told = ", ".join(f"{k}: {bits[str(k)]:.3f}" for k in range(1, len(bits)))
    console.print(
        f"bits per character of held-out text: {bits['model']:.3f}; Kneser-Ney n-grams of order {told}\n"
    )
    copy = Text("the longest copy: ").append(printable(found.copy).replace("\n", "⏎"), style="italic")
    console.print(copy if found.copy else "nothing is copied")
    console.print("\nWhat they say, and when they mislead:")
    for figure in FIGURES:
        if figure.meaning:
            meaning = figure.meaning.format(copied_from=found.copied_from)
            console.print(Padding(f"{labels[figure.name]}: {meaning}.", (0, 0, 0, 2)))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name == "longest_copy":
        return f"{value:,.0f}"
    return f"{value:.1f}" if name in ("self_bleu", "bleu", "chrf") else f"{value:.3f}"
