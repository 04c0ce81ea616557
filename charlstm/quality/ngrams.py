"""n-gram models of characters with interpolated modified Kneser-Ney smoothing: what a model must be better than.

Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3: the highest
order has counts, those below it the numbers of different symbols that precede a gram; there are three discounts by
count; each order is interpolated with the next lower one, and the lowest with a uniform distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..backends import PLAIN, Sampler, draw
from ..errors import DataError
from .texts import codes

# where counts of counts are too few to tell discounts (as in KenLM, Heafield et al. 2013); never 0, so that every
# context leaves something to symbols that it has not been seen with
FALLBACK = (0.5, 1.0, 1.5)


class _Order(NamedTuple):
    """The grams of k symbols. A gram is the number of its first k - 1 symbols times V, plus its last symbol."""

    grams: np.ndarray  # (G,) sorted; a gram's number is its place here
    discounted: np.ndarray  # (G,) its count less the discount, over its context's total
    starts: np.ndarray  # (C + 1,) where the grams of each context begin; that is a gram of the order below
    left: np.ndarray  # (C,) what the discounts leave to the order below; 1 for a context without grams


class KneserNey:
    """Models of a text's characters, of all orders up to one: the number of characters in the longest gram."""

    def __init__(self, text: str, order: int = 6, also: str = "") -> None:
        """Counts a text: a megabyte in a few seconds.

        The alphabet is that of the text and of `also`. Raises DataError for a text that is shorter than `order`.
        """
        if order < 1 or len(text) < order:
            raise DataError(f"an n-gram model of order {order} needs a text at least that long")
        self.order = order
        self._codes = np.unique(codes(text + also))
        self.alphabet = self._codes.tobytes().decode("utf-32-le", "surrogatepass")
        """The characters (V,), by number."""
        self._lower: list[_Order] = []  # of each order, as it is below another one
        self._highest: list[_Order] = []  # and where it is the highest
        symbols = self._symbols(text)
        ids, contexts = (
            np.zeros(len(symbols) + 1, np.int64),
            1,
        )  # of the gram before each place, of the order below
        for k in range(1, order + 1):
            found, first, numbers, counts = np.unique(
                ids[:-1] * len(self._codes) + symbols[k - 1 :],
                return_index=True, return_inverse=True, return_counts=True,
            )  # fmt: skip
            if k > 1:  # how many different symbols precede each gram of the order below
                below = self._highest[-1].grams
                preceded = np.bincount(ids[1:][first], minlength=len(below))
                self._lower.append(self._smoothed(below, preceded, len(self._highest[-1].left)))
            self._highest.append(self._smoothed(found, counts, contexts))
            ids, contexts = numbers, len(found)

    def _symbols(self, text: str) -> np.ndarray:
        characters = codes(text)
        places = np.minimum(np.searchsorted(self._codes, characters), len(self._codes) - 1)
        if not np.array_equal(self._codes[places], characters):
            raise DataError(
                "the text has characters that the n-gram model's alphabet has not: name them in `also`"
            )
        return places.astype(np.int64)

    def _smoothed(self, grams: np.ndarray, counts: np.ndarray, contexts: int) -> _Order:
        taken = np.minimum(_discounts(counts)[np.minimum(counts, 3)], counts)
        context = grams // len(self._codes)
        totals = np.bincount(context, counts, contexts)
        with np.errstate(invalid="ignore"):
            left = np.where(totals > 0, np.bincount(context, taken, contexts) / totals, 1.0)
            discounted = np.where(totals[context] > 0, (counts - taken) / totals[context], 0.0)
        return _Order(grams, discounted, np.searchsorted(context, np.arange(contexts + 1)), left)

    def _orders(self, order: int) -> list[_Order]:
        return [*self._lower[: order - 1], self._highest[order - 1]]

    def log_probabilities(self, text: str, order: int | None = None) -> np.ndarray:
        """Of each character after those before it, nats (N,), by the model of some order or the highest.

        Raises DataError for characters outside of the alphabet.
        """
        symbols = self._symbols(text)
        p = np.full(len(symbols), 1 / len(self._codes))
        context = np.zeros(len(symbols), np.int64)  # the number of the gram before each place; -1: unknown
        for level in self._orders(self.order if order is None else order):
            known = context >= 0
            places = _places(level, context, symbols, len(self._codes))
            p[known] *= level.left[context[known]]
            seen = places >= 0
            p[seen] += level.discounted[places[seen]]
            context = np.concatenate(([-1], places[:-1]))[: len(symbols)]
        logarithms: np.ndarray = np.log(p)
        return logarithms

    def posterior(self, text: str) -> np.ndarray:
        """The probability of each character of the alphabet (V,) after a text."""
        ids = self._beginning(1)
        for symbol in self._symbols(text):
            ids = self._read(ids, np.array([symbol]))
        found: np.ndarray = self._posteriors(ids)[0]
        return found

    def sample(
        self,
        count: int,
        length: int,
        rng: np.random.Generator,
        temperature: float = 1.0,
        sampler: Sampler = PLAIN,
    ) -> list[str]:
        """So many texts of one length, drawn side by side as `charlstm.backends.draw` draws from a model."""
        ids, drawn = self._beginning(count), np.empty((count, length), np.int64)
        for n in range(length):
            uniforms, before = rng.random((count, 2)), drawn[:, max(0, n - sampler.window) : n]
            for k, row in enumerate(np.log(self._posteriors(ids))):
                drawn[k, n] = draw(row, sampler, temperature, uniforms[k], before[k])
            ids = self._read(ids, drawn[:, n])
        return [self._codes[row].tobytes().decode("utf-32-le", "surrogatepass") for row in drawn]

    def _beginning(self, count: int) -> list[np.ndarray]:
        """For each order the numbers of the grams below it that end before a place, (count,); -1: none."""
        return [np.zeros(count, np.int64), *(np.full(count, -1) for _ in range(1, self.order))]

    def _read(self, ids: list[np.ndarray], symbols: np.ndarray) -> list[np.ndarray]:
        """As `_beginning`, one symbol (B,) later."""
        V = len(self._codes)
        return [
            ids[0], *(_places(level, context, symbols, V) for level, context in zip(self._lower, ids, strict=False))
        ]  # fmt: skip

    def _posteriors(self, ids: list[np.ndarray]) -> np.ndarray:
        """The probability of each symbol (B, V) where grams ended, as `_read` tells them."""
        V = len(self._codes)
        p = np.full((len(ids[0]), V), 1 / V)
        for level, context in zip(self._orders(self.order), ids, strict=True):
            rows = np.flatnonzero(context >= 0)
            first = level.starts[context[rows]]
            counts = level.starts[context[rows] + 1] - first
            p[rows] *= level.left[context[rows], np.newaxis]
            ends = np.cumsum(counts)
            places = np.arange(counts.sum()) + np.repeat(first - ends + counts, counts)
            p[np.repeat(rows, counts), level.grams[places] % V] += level.discounted[places]
        return p


def _places(level: _Order, context: np.ndarray, symbols: np.ndarray, V: int) -> np.ndarray:
    """The numbers of grams (N,) from their contexts and last symbols; -1 where there is no such gram."""
    grams = context * V + symbols
    places = np.minimum(np.searchsorted(level.grams, grams), len(level.grams) - 1)
    return np.where((context >= 0) & (level.grams[places] == grams), places, -1)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from counts of 0, 1, 2, and 3 or more, (4,): Chen & Goodman's equation 17.

    Estimates that are not between 0 and the count itself say that there is too little to make them of.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    discounts = np.array([0.0, *FALLBACK])
    if n1 and n2 and n3:
        share = n1 / (n1 + 2 * n2)
        estimates = [1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3]
        if all(0 < estimate <= n for n, estimate in enumerate(estimates, 1)):
            discounts[1:] = estimates
    return discounts
