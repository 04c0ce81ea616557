"""Model cards: Markdown under a front matter in YAML, in the form that the Hugging Face Hub reads.

What names, texts and models bring along is quoted or escaped, so that none of it reads as YAML or Markdown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .errors import UsageError
from .wording import in_nats, printable

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class Figure(NamedTuple):
    """A loss that was measured."""

    part: str  # of the text: validation, test
    loss: float  # nats per token
    bits_per_char: float | None  # None where it is not known


@dataclass(frozen=True)
class Card:
    """A card of a language model.

    Raises UsageError for a licence that is no identifier such as mit or apache-2.0.
    """

    text_name: str  # what the model has learned
    unit: str  # what a token is: character, word, ...
    facts: Sequence[str]
    figures: Sequence[Figure] = ()
    sample: str | None = None  # text drawn from the model
    sampled_by: str = ""  # how
    license: str | None = None
    repository: str | None = None  # on the Hub

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license.lower()):
            raise UsageError(f"a licence reads mit, apache-2.0 or cc-by-4.0, not {self.license!r}")

    def __str__(self) -> str:
        """The content of README.md."""
        licence = [] if self.license is None else [f"licence: {self.license.lower()}"]
        facts = "\n".join(f"- {markdown(fact)}" for fact in [*self.facts, *licence])
        parts = [
            self._front_matter(),
            f"# A CIFG-LSTM language model of {markdown(self.text_name)}\n\n{facts}\n",
            self._table(),
            "" if self.sample is None else f"## A sample\n\n{self.sampled_by}:\n\n{fenced(self.sample)}",
            f"## How to use it\n\n{self._use()}",
        ]
        return "\n".join(part for part in parts if part)

    def _front_matter(self) -> str:
        lines = ["---", "library_name: charlstm"]
        if self.license is not None:
            lines.append(f"license: {yaml_string(self.license.lower())}")
        lines += ["pipeline_tag: text-generation", f"tags: [lstm, cifg, {self.unit}-level]"]
        if self.figures:
            name = self.repository.rsplit("/", 1)[-1] if self.repository else f"CIFG-LSTM of {self.text_name}"
            lines += ["model-index:", f"- name: {yaml_string(name)}", "  results:"]
        for figure in self.figures:
            lines += [
                "  - task:",
                "      type: text-generation",
                "    dataset:",
                f"      name: {yaml_string(self.text_name)}",
                f"      type: {yaml_string(self.text_name)}",
                f"      split: {figure.part}",
                "    metrics:",
            ]
            for kind, value in self._metrics(figure):
                lines += [f"    - type: {kind}", f"      value: {value:.6g}"]
                if kind == "loss":
                    lines.append(f"      name: nats per {self.unit}")
        return "\n".join([*lines, "---"])

    def _metrics(self, figure: Figure) -> list[tuple[str, float]]:
        metrics = [("loss", figure.loss), ("perplexity", math.exp(min(figure.loss, 700.0)))]
        if figure.bits_per_char is not None:
            metrics.append(("bits_per_char", figure.bits_per_char))
        return metrics

    def _table(self) -> str:
        if not self.figures:
            return ""
        lines = [
            f"| part of the text | loss, nats per {self.unit} | perplexity | bits per character |",
            "|---|---:|---:|---:|",
        ]
        for figure in self.figures:
            values = dict(self._metrics(figure))
            bits = values.get("bits_per_char")
            told = "" if bits is None else f"{bits:.4f}"
            lines.append(f"| {figure.part} | {in_nats(figure.loss)} | {values['perplexity']:.4g} | {told} |")
        return "\n".join(lines) + "\n"

    def _use(self) -> str:
        if self.repository is None:
            return (
                '    charlstm generate DIRECTORY --prompt "..."\n\n'
                "    import charlstm\n"
                '    print(charlstm.load("DIRECTORY").generate("..."))\n'
            )
        return (
            "    import charlstm\n"
            "    from huggingface_hub import snapshot_download\n"
            f'    run = charlstm.Run.from_pretrained(snapshot_download("{self.repository}"))\n'
            '    print(run.generate("..."))\n'
        )


def yaml_string(text: str) -> str:
    """A double-quoted YAML scalar, on one line."""
    quoted = (
        f"\\{s}" if s in '"\\' else s if s.isprintable() else f"\\U{ord(s):08x}"
        for s in _without_surrogates(text)
    )
    return f'"{"".join(quoted)}"'


def markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    text = " ".join(printable(_without_surrogates(text)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]>#|~$!])", r"\\\1", text)


def fenced(text: str) -> str:
    """Text of several lines as a block of code, whatever backticks it holds."""
    text = printable(_without_surrogates(text))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
