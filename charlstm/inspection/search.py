"""Which cells go with which properties of a text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .properties import of_tokens
from .reading import Reading

BEST = 5  # cells that are named for each property


class Cell(NamedTuple):
    """A value that a model holds: memory "c" or output "h" of a unit of a layer, both counted from 0."""

    kind: str
    layer: int
    unit: int


class Finding(NamedTuple):
    """A cell with its correlation to a property."""

    cell: Cell
    r: float  # on the half of the text that it was found on
    held_out: float | None  # on the other half; None where cell or property do not change there


class Search(NamedTuple):
    """What goes with what in a reading."""

    properties: dict[str, np.ndarray]  # (N,) by name
    found: dict[str, list[Finding]]  # the best cells by property; none where it does not change
    strength: np.ndarray  # the largest |r| of every cell with any property, (2, L, H): c, then h


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every column of x (N, C) with every one of y (N, P): (C, P), in float64.

    With a y of zeros and ones it is the point-biserial one. NaN where a column does not change.
    """
    (x, x_length), (y, y_length) = _centred(x), _centred(y)
    with np.errstate(invalid="ignore"):  # NaN lengths
        r: np.ndarray = x.T @ y / np.outer(x_length, y_length)
    return r.clip(-1, 1)


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns less their means, and the lengths of these; NaN for columns that do not change."""
    x = x.astype(np.float64)
    changes = np.ptp(x, axis=0) > 0
    x = np.where(changes, x - x.mean(axis=0), 0.0)
    largest = np.abs(x).max(axis=0)
    x /= np.where(changes, largest, 1.0)  # so that no square is too small for a number
    return x, np.where(changes, np.linalg.norm(x, axis=0), np.nan)


def search(reading: Reading, best: int = BEST) -> Search:
    """The cells that go most with each property on the first half of a text, checked on the second.

    Among a thousand cells some go with anything by chance: what stays on the second half does not.
    """
    N, L, H = reading.c.shape
    known = of_tokens(reading.texts)
    y, half = np.stack(list(known.values()), axis=1), N // 2
    first, second = np.empty((2, 2, L, H, y.shape[1]))
    for kind, states in enumerate((reading.c, reading.h)):
        for layer in range(L):
            first[kind, layer] = correlations(states[:half, layer], y[:half])
            second[kind, layer] = correlations(states[half:, layer], y[half:])
    found = {name: _best(first[..., k], second[..., k], best) for k, name in enumerate(known)}
    return Search(known, found, np.nan_to_num(np.abs(first)).max(axis=-1))


def _best(first: np.ndarray, second: np.ndarray, most: int) -> list[Finding]:
    """The cells of the largest |r| in `first` (2, L, H)."""
    strength = np.nan_to_num(np.abs(first)).ravel()
    findings = []
    for place in np.argsort(-strength, kind="stable")[:most]:
        if strength[place] == 0:
            break
        kind, layer, unit = (int(k) for k in np.unravel_index(place, first.shape))
        held_out = float(second[kind, layer, unit])
        cell = Cell("ch"[kind], layer, unit)
        findings.append(
            Finding(cell, float(first[kind, layer, unit]), None if np.isnan(held_out) else held_out)
        )
    return findings
