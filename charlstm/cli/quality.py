"""The report of `charlstm evaluate --text-quality`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..errors import DataError
from ..quality import FIGURES, TextQuality, text_quality
from ..run import Run
from ..wording import printable


@dataclass(frozen=True)
class TextQualityOptions:
    """What `--text-quality` measures."""

    text_quality: bool = False
    """Measure generated text in place of predicting: its words, phrases, repetitions, copies of the training
    text, beside real held-out text and text of an n-gram model (needs sacrebleu: pip install "charlstm[quality]")."""
    characters: int = 20_000
    """Characters to generate and measure."""
    generated: Path | None = None
    """Measure the text in this file (UTF-8) in place of generating some."""
    temperature: float = 0.8
    """Temperature of what is generated; for other samplers see generate, and --generated."""
    seed: int = 0
    """Seed of what is generated."""


def print_text_quality(run: Run, data: str | None, options: TextQualityOptions, as_json: bool) -> None:
    """Measure and print; `data` names a file of held-out text."""
    console = Console(stderr=True)
    with console.status("reading") if console.is_terminal else _Silent() as status:
        found = text_quality(
            run,
            characters=options.characters,
            generated=None if options.generated is None else _read(options.generated),
            held_out=None if data is None else _read(Path(data)),
            tell=status.update,
            temperature=options.temperature,
            seed=options.seed,
        )
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    _print(found, "generated" if options.generated is None else printable(options.generated.name))


class _Silent:
    """Tells nobody what is being done."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, text: str) -> None:
        pass


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start:,}") from None


def _print(found: TextQuality, name: str) -> None:
    console = Console(highlight=False)
    table = Table("", name, "held-out", "n-gram", "good is", box=box.SIMPLE)
    for column in table.columns[1:4]:
        column.justify = "right"
    for figure in FIGURES:
        columns = (found.model, found.held_out, found.ngram)
        table.add_row(
            figure.label, *(_shown(figure.name, each[figure.name]) for each in columns), figure.better
        )
    console.print(
        f"{found.characters:,} characters of each kind of text. Held-out text is the ceiling; that of a 6-gram "
        "model, drawn at temperature 1, the floor."
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
        console.print(Padding(f"{figure.label}: {figure.meaning}.", (0, 0, 0, 2)))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name in ("longest_copy",):
        return f"{value:,.0f}"
    return f"{value:.1f}" if name in ("self_bleu", "bleu", "chrf") else f"{value:.3f}"


def without_effect(options: TextQualityOptions) -> list[str]:
    """The options that were given and do nothing without --text-quality."""
    plain: dict[str, Any] = vars(TextQualityOptions())
    return [name for name, value in vars(options).items() if value != plain[name] and name != "text_quality"]
