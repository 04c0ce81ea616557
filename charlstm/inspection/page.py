"""A reading as one page: the text coloured by surprise, or by any cell, and the cells worth a look."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Tokenizer
from ..pages import escaped, page
from .reading import Reading
from .search import Cell, Finding, Search

FOLDER = Path(__file__).parent
VALUES = 3 << 20  # cells times tokens that a page holds at most, a byte each
LEVELS = 8  # of colour, on each side of 0
JOINERS = "\u200c\u200d"  # format characters that words and emoji are made with


def inspection_page(title: str, subject: str, tokenizer: Tokenizer, reading: Reading, search: Search) -> str:
    """The whole page; `subject` says what was read. Cells beyond what fits are those that go least with anything."""
    N, L, H = reading.c.shape
    kept = np.sort(np.argsort(-search.strength.ravel(), kind="stable")[: max(1, VALUES // N)])
    left_out = search.strength.size - len(kept)
    data = _data(tokenizer, reading, search, kept)
    fewer = "" if not left_out else (
        f" This page has room for {len(kept):,} of {search.strength.size:,} cells: those that go most with a "
        f"property. A smaller --length leaves room for more."
    )  # fmt: skip
    template = (FOLDER / "body.html").read_text(encoding="utf-8")
    body = template.format(
        title=escaped(title),
        subject=escaped(subject),
        bits=f"{reading.bits_per_token:.3f}",
        unit=escaped(tokenizer.unit),
        count=f"{N:,}",
        text=_text(reading),
        cells=_table(search, {int(k) for k in kept}),
        layers=L - 1,
        units=H - 1,
        properties="".join(f"<option>{escaped(name)}</option>" for name in search.properties),
        fewer=escaped(fewer),
        # a script would end at its first "</script>"
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("inspect.css", "inspect.js"))
    return page(title, body, style, script)


def _data(tokenizer: Tokenizer, reading: Reading, search: Search, kept: np.ndarray) -> dict[str, Any]:
    """What the page's script reads."""
    N, L, H = reading.c.shape
    states = np.concatenate([reading.c.reshape(N, L * H), reading.h.reshape(N, L * H)], axis=1)
    rows = np.concatenate([states[:, kept].T, np.stack(list(search.properties.values()))])
    values, scales = quantised(rows)
    named = sorted({*reading.alternatives.ravel().tolist(), *reading.tokens.tolist()})
    number = {token: k for k, token in enumerate(named)}
    return {
        "shape": [L, H],
        "tokens": [number[token] for token in reading.tokens.tolist()],
        "names": [label(tokenizer.name_of(token)) for token in named],
        "texts": reading.texts,
        "surprise": np.round(reading.surprise, 3).tolist(),
        "entropy": np.round(reading.entropy, 3).tolist(),
        "alternatives": [[number[token] for token in row] for row in reading.alternatives.tolist()],
        "probabilities": np.round(reading.probabilities, 6).tolist(),
        "kept": kept.tolist(),
        "properties": list(search.properties),
        "scales": [float(f"{scale:.4g}") for scale in scales],
        "values": base64.b64encode(values.tobytes()).decode(),
    }


def quantised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M, N) as int8, -127 to 127, and the scale (M,) of each: values * scale / 127 is within scale / 254."""
    scales = np.abs(rows).max(axis=1)
    steps = 127 * rows / np.where(scales > 0, scales, 1)[:, np.newaxis]
    return np.round(steps).astype(np.int8), scales


def _text(reading: Reading) -> str:
    levels = np.minimum(LEVELS, reading.surprise).astype(int)
    return "".join(
        f"<span class=p{level}>{escaped(visible(text))}</span>"
        for level, text in zip(levels, reading.texts, strict=True)
    )


def visible(text: str) -> str:
    """A text with a sign for each character that has none, so that nothing in it hides or turns lines round."""
    return "".join(map(_sign, text))


def label(text: str) -> str:
    """A token by itself, in a line: what it is made of can be told from it."""
    shown = [_sign(s) for s in text]
    named = [
        f"U+{ord(s):04X}" if sign == "\ufffd" != s else sign for s, sign in zip(text, shown, strict=True)
    ]
    return "".join(named).replace(" ", "␣").replace("\n", "").replace("\t", "")


def _sign(s: str) -> str:
    if s in "\n\t":
        return {"\n": "↵\n", "\t": "⇥\t"}[s]
    code, category = ord(s), unicodedata.category(s)
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)
    if (category[0] == "C" and s not in JOINERS) or category in ("Zl", "Zp"):
        return "\ufffd"
    return s


def _table(search: Search, kept: set[int]) -> str:
    """The best cells by property, each a button that shows it."""
    _, L, H = search.strength.shape
    rows = []
    for name, findings in search.found.items():
        buttons = "".join(
            f"<button data-cell={place}{'' if place in kept else ' disabled'}>{_named(finding)}</button>"
            for finding in findings
            for place in ["ch".index(finding.cell.kind) * L * H + finding.cell.layer * H + finding.cell.unit]
        )
        none = '<span class="faint">the same everywhere in the first half of this text</span>'
        rows.append(f"<tr><th scope=row>{escaped(name)}</th><td>{buttons or none}</td></tr>\n")
    return "".join(rows)


def _named(finding: Finding) -> str:
    held_out = "–" if finding.held_out is None else f"{finding.held_out:+.2f}"
    return f"{cell_name(finding.cell)} <b>{finding.r:+.2f}</b> <span>{held_out}</span>"


def cell_name(cell: Cell) -> str:
    """Such as c1.34: memory of unit 34 of layer 1."""
    return f"{cell.kind}{cell.layer}.{cell.unit}"


def table_lines(search: Search, most: int = 3) -> Sequence[tuple[str, str]]:
    """For a terminal: each property, and its best cells with both correlations."""
    return [
        (
            name,
            "   ".join(
                f"{cell_name(one.cell)} {one.r:+.2f} ({'-' if one.held_out is None else f'{one.held_out:+.2f}'})"
                for one in findings[:most]
            )
            or "the same everywhere",
        )
        for name, findings in search.found.items()
    ]
