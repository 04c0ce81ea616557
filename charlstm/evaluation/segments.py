"""A text cut into consecutive segments, and what is summed up over each.

A bootstrap that resamples tokens would take them for independent, and its intervals would come out
far too narrow. Segments of some hundred characters are nearly so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from ..data import Tokenizer

SHORTEST = 200  # characters of a segment
MOST = 400  # segments of a text
BINS = 10  # of the largest posterior, for calibration
BLOCK = 1 << 20  # tokens that are decoded at once
BIN_EDGES = np.linspace(0, 1, BINS + 1)
_SPACE = np.array([chr(k).isspace() for k in range(0x3002)])  # the last is none, as are all above


@dataclass(frozen=True)
class Segments:
    """Sums over each of S consecutive segments of a text.

    Segment s begins at the character s C / S of a text of C characters, rounded down, whatever the
    tokenizer: all segments of a text are of one length, at least 200 characters where the text is as
    long as that, and there are 400 at most. A token belongs to the segment in which it begins, a window
    to that in which its second token, the first predicted one, begins.
    """

    nats: np.ndarray
    """Negative log-likelihood of the tokens, (S,) float64."""
    characters: np.ndarray
    """Characters that the predicted tokens stand for, (S,) int64."""
    words: np.ndarray
    """Words that begin among these characters, between white space, and line ends, (S,) int64."""
    top_k: np.ndarray
    """Tokens that were among the k most probable, (S,) int64."""
    bin_tokens: np.ndarray
    """Tokens by the largest posterior, (S, BINS) int64; bin m holds those above m / BINS and not above
    (m + 1) / BINS."""
    bin_correct: np.ndarray
    """Those of them that were the most probable, (S, BINS) int64."""
    bin_confidence: np.ndarray
    """Sum of their largest posteriors, (S, BINS) float64."""

    @classmethod
    def zeros(cls, count: int) -> Segments:
        flat, bins = (count,), (count, BINS)
        return cls(
            np.zeros(flat), np.zeros(flat, np.int64), np.zeros(flat, np.int64), np.zeros(flat, np.int64),
            np.zeros(bins, np.int64), np.zeros(bins, np.int64), np.zeros(bins),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens predicted, (S,) int64."""
        tokens: np.ndarray = self.bin_tokens.sum(axis=1)
        return tokens

    @property
    def top_1(self) -> np.ndarray:
        """Tokens that were the most probable, (S,) int64."""
        correct: np.ndarray = self.bin_correct.sum(axis=1)
        return correct

    @property
    def max_posterior(self) -> np.ndarray:
        """Sum of the largest posterior at each token, (S,) float64."""
        total: np.ndarray = self.bin_confidence.sum(axis=1)
        return total

    def add(
        self, segment: np.ndarray, nats: np.ndarray, confidence: np.ndarray, rank: np.ndarray, k: int
    ) -> None:
        """Take in tokens (N,): their segments, losses, largest posteriors, and how many tokens were more
        probable than each."""
        S = len(self)
        self.nats[:] += np.bincount(segment, nats, S)
        self.top_k[:] += np.bincount(segment[rank < k], minlength=S)
        place = segment * BINS + np.searchsorted(BIN_EDGES[1:-1], confidence)
        for sums, values in (
            (self.bin_tokens, np.bincount(place, minlength=S * BINS)),
            (self.bin_correct, np.bincount(place[rank == 0], minlength=S * BINS)),
            (self.bin_confidence, np.bincount(place, confidence, S * BINS)),
        ):
            sums += values.reshape(S, BINS)

    def followed_by(self, other: Segments) -> Segments:
        """The segments of two texts, one after the other."""
        return Segments(
            *(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        )


@dataclass(frozen=True)
class Cut:
    """Where the segments of a text lie among its tokens (N,), and how much text is in them."""

    first: np.ndarray  # (S - 1,) the first token of each segment but the first
    characters: np.ndarray  # (S,) int64, without those of the text's first token
    words: np.ndarray  # (S,) int64, likewise

    def segment_of(self, index: np.ndarray) -> np.ndarray:
        """The segments of tokens by their number in the text, of any shape."""
        return np.searchsorted(self.first, index, side="right")


def cut(tokens: np.ndarray, tokenizer: Tokenizer | None) -> Cut:
    """Cut a text (N,) into segments, as `Segments` says; without a tokenizer each token is a character.

    Reads the text twice, block by block.
    """
    total = 0
    for _, ends in _located(tokens, tokenizer):
        total = int(ends[-1])
    S = max(1, min(MOST, total // SHORTEST))
    bounds = np.arange(1, S) * total // S
    counts, characters, words = (np.zeros(S, np.int64) for _ in range(3))
    done, after_space = 0, True
    for text, ends in _located(tokens, tokenizer):
        begins = np.concatenate(([done], ends[:-1]))
        segment = np.searchsorted(bounds, begins, side="right")
        counts += np.bincount(segment, minlength=S)
        characters += np.bincount(segment, ends - begins, S).astype(np.int64)
        places, after_space = word_places(text, after_space)
        words += np.bincount(segment[np.searchsorted(ends - done, places, side="right")], minlength=S)
        if done == 0:
            characters[0] -= ends[0]
            words[0] -= int(np.searchsorted(places, ends[0]))
        done = int(ends[-1])
    return Cut(np.cumsum(counts)[:-1], characters, words)


def _located(tokens: np.ndarray, tokenizer: Tokenizer | None) -> Iterator[tuple[str, np.ndarray]]:
    if tokenizer is None:
        return iter([("", np.arange(1, len(tokens) + 1))])
    return tokenizer.located(tokens[k : k + BLOCK] for k in range(0, len(tokens), BLOCK))


def word_places(text: str, after_space: bool) -> tuple[np.ndarray, bool]:
    """Where words between white space begin in a text, and where its line feeds are; and whether what
    follows comes after white space. `after_space`: whether the text does.

    A line's end counts as a word because word-level models predict it as one, `<eos>`.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    if not len(points):
        return np.empty(0, np.int64), after_space
    space = _SPACE[np.minimum(points, len(_SPACE) - 1)]
    begins = ~space & np.concatenate(([after_space], space[:-1]))
    return np.flatnonzero(begins | (points == ord("\n"))), bool(space[-1])
