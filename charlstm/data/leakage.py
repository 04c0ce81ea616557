"""How much of what validates was also trained on: a loss on text that was seen says little."""

from __future__ import annotations

import numpy as np

from .windows import Windows

LENGTH = 32  # tokens of the pieces that `repeated_share` looks for, a power of 2
SAMPLE = 2000  # pieces or windows that are looked at, spread evenly
LARGEST = 1 << 24  # tokens of training text beyond which looking would hold up the start
_CHUNK = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def covered_share(train: Windows, val: Windows) -> float:
    """Share of the tokens in validation windows that stand in a training window, at the same place.

    Both from `split_windows`. It looks at up to 2,000 windows.
    """
    order, T, stride = val.order, val.seq_len, val.stride
    assert order is not None
    sample = np.unique(np.linspace(0, len(val) - 1, min(SAMPLE, len(val))).astype(np.int64))
    windows = val.starts(sample) // stride  # (K,) their numbers in the text
    near = np.arange(-(T // stride), T // stride + 1)  # (M,) distances of windows that overlap one
    neighbours = windows[:, np.newaxis] + near
    inside = (neighbours >= 0) & (neighbours < order.n)
    places = order.inverse(np.where(inside, neighbours, 0).ravel()).reshape(neighbours.shape)
    trains = inside & (places < len(train))  # (K, M)
    begins = near[:, np.newaxis] * stride
    covers = (np.arange(T + 1) >= begins) & (np.arange(T + 1) <= begins + T)  # (M, T + 1)
    return float(np.mean(trains.astype(np.float32) @ covers.astype(np.float32) > 0))


def repeated_share(train: np.ndarray, val: np.ndarray) -> float | None:
    """Share of the pieces of 32 tokens of val (M,) that also stand somewhere in train (N,).

    It looks for up to 2,000 pieces, by their hash. None for texts shorter than a piece, or too
    large to be looked through before training starts.
    """
    if min(len(train), len(val)) < LENGTH or len(train) > LARGEST:
        return None
    starts = np.unique(np.linspace(0, len(val) - LENGTH, SAMPLE).astype(np.int64))
    wanted = _hashes(val[starts[:, np.newaxis] + np.arange(LENGTH)])[:, 0]
    top = np.uint64(48)
    possible = np.zeros(1 << 16, bool)
    possible[wanted >> top] = True
    found = np.zeros(len(wanted), bool)
    for start in range(0, len(train) - LENGTH + 1, _CHUNK):
        hashes = _hashes(train[start : start + _CHUNK + LENGTH - 1])
        found |= np.isin(wanted, hashes[possible[hashes >> top]])
    return float(found.mean())


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """Of all pieces of 32 along the last axis: polynomials in an odd factor, modulo 2^64."""
    hashes = tokens.astype(np.uint64) + np.uint64(1)
    length, factor = 1, _FACTOR
    while length < LENGTH:
        hashes = hashes[..., :-length] * factor + hashes[..., length:]
        with np.errstate(over="ignore"):
            factor = factor * factor
        length *= 2
    return hashes
