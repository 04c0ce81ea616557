"""Figures of texts: of their words, their characters, their repetitions, and how near they are to real text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError

LONGEST_PERIOD = 200  # characters of what repeats itself in a loop
COPIES = 3  # so many times in a row, or more
SHORTEST_LOOP = 20  # characters of a loop; less is a row of dashes or a stammer
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, in lower case: letters, with apostrophes inside."""
    return _WORD.findall(text.lower())


def real_words(texts: Iterable[str], known: Counter[str], at_least: int = 2) -> float | None:
    """Share of the texts' words that `known` counts so often or more; None without any words."""
    found = [word for text in texts for word in words(text)]
    return sum(known[word] >= at_least for word in found) / len(found) if found else None


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams (Li et al. 2016, arXiv 1510.03055); None without any."""
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def _grams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[k:] for k in range(n)), strict=False))


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean BLEU (Papineni et al. 2002) of each text beside all references, 0 to 100, by sacrebleu.

    Raises UsageError where sacrebleu is not installed.
    """
    metric = _sacrebleu().BLEU(effective_order=True)
    return float(np.mean([metric.sentence_score(text, references).score for text in texts]))


def self_bleu(texts: Sequence[str]) -> float | None:
    """The mean BLEU of each text beside all others (Zhu et al. 2018, arXiv 1802.01886); None for fewer than two."""
    if len(texts) < 2:
        return None
    scores = [bleu([text], [*texts[:k], *texts[k + 1 :]]) for k, text in enumerate(texts)]
    return float(np.mean(scores))


def chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """The mean chrF2 (Popovic 2015) of each text beside the nearest reference, 0 to 100, by sacrebleu."""
    metric = _sacrebleu().CHRF()
    return float(np.mean([metric.sentence_score(text, references).score for text in texts]))


def _sacrebleu() -> Any:
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
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        looped = np.zeros(len(codes) + 1, np.int64)
        for period in range(1, min(LONGEST_PERIOD, len(codes) // COPIES) + 1):
            same = np.concatenate(([False], codes[period:] == codes[:-period], [False]))
            edges = np.flatnonzero(same[1:] != same[:-1])
            for start, end in edges.reshape(-1, 2):  # text[start:end] equals what stands a period later
                if end - start >= (COPIES - 1) * period and end - start + period >= SHORTEST_LOOP:
                    looped[start] += 1
                    looped[end + period] -= 1
        inside += int(np.count_nonzero(np.cumsum(looped[:-1]) > 0))
        total += len(codes)
    return inside / total if total else None
