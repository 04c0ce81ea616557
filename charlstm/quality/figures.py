"""Figures of texts: of their words, their characters, their repetitions, and how near they are to real text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from .texts import codes, words

LONGEST_PERIOD = 200  # characters of what repeats itself in a loop
COPIES = 3  # so many times in a row, or more
SHORTEST_LOOP = 20  # characters of a loop; less is a row of dashes or a stammer
SPACES = 0.02  # share of a text's characters; where there are fewer, words do not stand between spaces


def real_words(texts: Iterable[str], known: Counter[str], at_least: int = 2) -> float | None:
    """Share of the texts' words that `known` counts so often or more; None without any words.

    The first and the last word of each text are left out: where a text was cut, they are no words.
    """
    found = [word for text in texts for word in words(text)[1:-1]]
    return sum(known[word] >= at_least for word in found) / len(found) if found else None


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams (Li et al. 2016, arXiv 1510.03055); None without any."""
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def tokenization(texts: Iterable[str]) -> str:
    """How sacrebleu should find the words of such texts: by its default, or where there are hardly any
    spaces (Chinese, Japanese, Thai) character by character."""
    text = "".join(texts)
    return "13a" if sum(map(str.isspace, text)) >= SPACES * len(text) else "char"


def bleu(texts: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> float:
    """The mean BLEU (Papineni et al. 2002) of each text beside all references, 0 to 100, by sacrebleu.

    Raises UsageError where sacrebleu is not installed.
    """
    metric = sacrebleu_metrics().BLEU(effective_order=True, tokenize=tokenize)
    return float(np.mean([metric.sentence_score(text, references).score for text in texts]))


def self_bleu(texts: Sequence[str], tokenize: str = "13a") -> float | None:
    """The mean BLEU of each text beside all others (Zhu et al. 2018, arXiv 1802.01886); None for fewer than two."""
    if len(texts) < 2:
        return None
    scores = [bleu([text], [*texts[:k], *texts[k + 1 :]], tokenize) for k, text in enumerate(texts)]
    return float(np.mean(scores))


def chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean chrF2 (Popovic 2015) of each text beside the nearest reference, 0 to 100, by sacrebleu."""
    metric = sacrebleu_metrics().CHRF()
    return float(np.mean([metric.sentence_score(text, references).score for text in texts]))


def sacrebleu_metrics() -> Any:
    """The module `sacrebleu.metrics`; UsageError where it is not installed."""
    try:
        from sacrebleu import metrics
    except ImportError:
        raise UsageError('BLEU and chrF need sacrebleu: pip install "charlstm[quality]"') from None
    return metrics


def divergence(texts: Iterable[str], others: Iterable[str], n: int) -> float:
    """The Jensen-Shannon divergence of the texts' n-grams of characters from those of others, bits: 0 to 1."""
    counts = [
        Counter(text[k : k + n] for text in part for k in range(len(text) - n + 1))
        for part in (texts, others)
    ]
    grams = sorted(set(counts[0]) | set(counts[1]))
    if not all(map(len, counts)):
        return 0.0 if not grams else 1.0
    p, q = (np.array([count[gram] for gram in grams], float) / count.total() for count in counts)
    middle = (p + q) / 2
    return float(sum(np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q)) / 2)


def in_loops(texts: Iterable[str]) -> float | None:
    """Share of characters in stretches that repeat themselves at once, three times or more; None without any."""
    inside = total = 0
    for text in texts:
        symbols = codes(text)
        looped = np.zeros(len(symbols) + 1, np.int64)  # +1 where a loop begins, -1 behind its end
        for period in range(1, min(LONGEST_PERIOD, len(symbols) // COPIES) + 1):
            same = np.concatenate(([False], symbols[period:] == symbols[:-period], [False]))
            # text[start:end] equals what stands a period later
            start, end = np.flatnonzero(same[1:] != same[:-1]).reshape(-1, 2).T
            long = end - start >= max((COPIES - 1) * period, SHORTEST_LOOP - period)
            np.add.at(looped, start[long], 1)
            np.add.at(looped, end[long] + period, -1)
        inside += int(np.count_nonzero(np.cumsum(looped[:-1]) > 0))
        total += len(symbols)
    return inside / total if total else None
