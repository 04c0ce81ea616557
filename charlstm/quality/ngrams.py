"""n-gram models of characters with interpolated modified Kneser-Ney smoothing: what a model must be better than.

Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3: the highest
order has counts, those below it the numbers of different symbols that precede a gram; there are three discounts by
count; each order is interpolated with the next lower one, and the lowest with a uniform distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import DataError


class _Order(NamedTuple):
    """The grams of k symbols. A gram is the number of its first k - 1 symbols times V, plus its last symbol."""

    grams: np.ndarray  # (G,) sorted; a gram's number is its place here
    discounted: np.ndarray  # (G,) its count less the discount, over its context's total
    starts: (
        np.ndarray
    )  # (C + 1,) where the grams of each context begin, a context being a gram of the order below
    left: np.ndarray  # (C,) what the discounts leave to the order below; 1 for a context without grams


class KneserNey:
    """A model of the text's characters, of some order: the number of characters in its longest gram."""

    def __init__(self, text: str, order: int = 6) -> None:
        """Counts a text: a megabyte in a few seconds. Raises DataError for one that is shorter than `order`."""
        if order < 1 or len(text) < order:
            raise DataError(f"an n-gram model of order {order} needs a text at least that long")
        self.order = order
        self.alphabet = np.array(sorted(set(text)))
        symbols = self._symbols(text)
        raw, ids = self._count(symbols)
        self._orders: list[_Order] = []
        for k in range(1, order + 1):
            counts = np.bincount(ids[k][k - 1 :], minlength=len(raw[k]))
            if k < order:  # how many different symbols precede it
                _, first = np.unique(ids[k + 1][k:], return_index=True)
                counts = np.bincount(ids[k][k:][first], minlength=len(raw[k]))
            self._orders.append(self._smoothed(raw[k], counts, len(raw[k - 1])))

    def _symbols(self, text: str) -> np.ndarray:
        """Numbers of the text's characters; those that the alphabet has not are left out."""
        characters = np.array(list(text))
        if not len(characters):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self.alphabet, characters), len(self.alphabet) - 1)
        known: np.ndarray = places[self.alphabet[places] == characters]
        return known.astype(np.int64)

    def _count(self, symbols: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For k = 0 to the order: the grams of k symbols, and the number of that which ends at each place."""
        raw, ids = [np.zeros(1, np.int64)], [np.zeros(len(symbols), np.int64)]
        for k in range(1, self.order + 1):
            grams = np.full(len(symbols), -1, np.int64)
            before = ids[-1][k - 2 : len(symbols) - 1] if k > 1 else 0
            grams[k - 1 :] = before * len(self.alphabet) + symbols[k - 1 :]
            found, numbers = np.unique(grams[k - 1 :], return_inverse=True)
            raw.append(found)
            ids.append(np.concatenate((np.full(k - 1, -1, np.int64), numbers)))
        return raw, ids

    def _smoothed(self, grams: np.ndarray, counts: np.ndarray, contexts: int) -> _Order:
        numbers = [int(np.count_nonzero(counts == n)) for n in range(5)]
        share = numbers[1] / max(1, numbers[1] + 2 * numbers[2])
        discounts = np.zeros(4)
        for n in (1, 2, 3):
            if numbers[n]:
                discounts[n] = n - (n + 1) * share * numbers[n + 1] / numbers[n]
        taken = np.minimum(np.clip(discounts, 0, None)[np.minimum(counts, 3)], counts)
        context = grams // len(self.alphabet)
        totals = np.bincount(context, counts, contexts)
        with np.errstate(invalid="ignore"):
            left = np.where(totals > 0, np.bincount(context, taken, contexts) / totals, 1.0)
            discounted = np.where(totals[context] > 0, (counts - taken) / totals[context], 0.0)
        return _Order(grams, discounted, np.searchsorted(context, np.arange(contexts + 1)), left)

    def log_probabilities(self, text: str) -> np.ndarray:
        """Of each character after those before it, nats; characters that the alphabet has not are left out."""
        symbols = self._symbols(text)
        V, n = len(self.alphabet), len(symbols)
        p = np.full(n, 1 / V)
        context = np.zeros(n, np.int64)  # the number of the gram before each place; -1: unknown
        for order in self._orders:
            known = context >= 0
            grams = context[known] * V + symbols[known]
            places = np.minimum(np.searchsorted(order.grams, grams), len(order.grams) - 1)
            seen = order.grams[places] == grams
            p[known] = np.where(seen, order.discounted[places], 0) + order.left[context[known]] * p[known]
            ids = np.full(n, -1, np.int64)
            ids[known] = np.where(seen, places, -1)
            context = np.concatenate(([-1], ids[:-1]))[:n]
        logarithms: np.ndarray = np.log(p)
        return logarithms

    def sample(self, length: int, rng: np.random.Generator) -> str:
        """Text drawn from the model, after a character that begins a line in the text it was made of (or any)."""
        start = int(np.searchsorted(self.alphabet, "\n"))
        last = [start if start < len(self.alphabet) and self.alphabet[start] == "\n" else 0]
        drawn = []
        for uniform in rng.random(length):
            p = self.posterior(last)
            symbol = int(min(np.searchsorted(np.cumsum(p), uniform * p.sum(), side="right"), len(p) - 1))
            drawn.append(symbol)
            last = [*last[-(self.order - 1) :], symbol][-max(1, self.order - 1) :]
        return "".join(self.alphabet[drawn])

    def posterior(self, symbols: list[int]) -> np.ndarray:
        """The probability of each symbol (V,) after some others."""
        V = len(self.alphabet)
        p = np.full(V, 1 / V)
        for k, order in enumerate(self._orders):
            context = self._number(symbols[len(symbols) - k :]) if k <= len(symbols) else -1
            if context < 0:
                break
            some = slice(order.starts[context], order.starts[context + 1])
            p *= order.left[context]
            p[order.grams[some] - context * V] += order.discounted[some]
        return p

    def _number(self, symbols: list[int]) -> int:
        """The number of a gram; -1 where the text has none."""
        number = 0
        for order, symbol in zip(self._orders, symbols, strict=False):
            gram = number * len(self.alphabet) + symbol
            number = int(np.searchsorted(order.grams, gram))
            if number == len(order.grams) or order.grams[number] != gram:
                return -1
        return number
