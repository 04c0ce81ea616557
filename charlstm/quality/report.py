"""The report on a text: generated, real and n-gram text of the same length, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ..data import Corpus, Tokenizer
from ..errors import DataError, UsageError
from ..evaluation import measure
from ..run import Run
from .copying import copying
from .figures import bleu, chrf, distinct, divergence, in_loops, real_words, self_bleu, words
from .ngrams import KneserNey

ORDER = 6  # of the n-gram model that gives the floor
PIECE = 1000  # characters of each text that is measured
LEAST = 200  # characters of a piece; fewer say nothing
COUNTED = 2_000_000  # characters of the training text that n-gram models count, the last ones
DECODED = 1 << 20  # tokens that are decoded at a time
COPIED = 40  # characters of a stretch that counts as copied


class Figure(NamedTuple):
    """One line of the report."""

    name: str
    label: str
    better: str  # which way is better, or what to compare with
    meaning: str  # what it says, and when it misleads


FIGURES = (
    Figure("real_words", "real words", "near held-out", "share of words that the training text has twice or more; "
           "names and rare words of real text count as none, and nonsense made of real words as all"),
    Figure("distinct_1", "distinct words", "near held-out", "different words over all words; falls with the "
           "length, so that only texts of one length compare"),
    Figure("distinct_2", "distinct pairs", "near held-out", "the same of pairs of words; random text has the most"),
    Figure("distinct_3", "distinct triples", "near held-out", "the same of triples; low where phrases come again"),
    Figure("self_bleu", "self-BLEU", "near held-out", "how much the pieces are like each other, 0 to 100; high "
           "for text that says the same again and again, low for noise as well"),
    Figure("bleu", "BLEU", "high", "words and phrases in common with held-out text, 0 to 100; no text is the one "
           "right answer, and common phrases are enough for it"),
    Figure("chrf", "chrF", "high", "the same of characters: spelling counts; blind to sense"),
    Figure("divergence_1", "letters", "low", "distance of the frequencies of characters from held-out text, bits"),
    Figure("divergence_2", "pairs of letters", "low", "the same of pairs; not 0 even for real text, because both are "
           "short"),
    Figure("divergence_3", "triples of letters", "low", "the same of triples: spelling and short words"),
    Figure("divergence_4", "4-grams of letters", "low", "the same of four; an n-gram model is made for this"),
    Figure("in_loops", "in loops", "near held-out", "share of characters in what repeats itself three times in a "
           "row or more; a low temperature brings it"),
    Figure("copied", f"copied, {COPIED} or more", "near held-out", f"share of characters in stretches of {COPIED} or "
           "more that stand in the training text; real text has some: phrases, tables, quotations"),
    Figure("longest_copy", "longest copy", "near held-out", "characters of the longest stretch in common with "
           "the training text"),
)  # fmt: skip


@dataclass(frozen=True)
class TextQuality:
    """Figures of three kinds of text, by name as in `FIGURES`; None where there was nothing to measure."""

    model: dict[str, float | None]
    """Of generated text (or of that which was given)."""
    held_out: dict[str, float | None]
    """Of real text that was not trained on: the ceiling."""
    ngram: dict[str, float | None]
    """Of text drawn from an n-gram model of the training text: the floor."""
    copy: str
    """The longest stretch that the generated text has in common with the training text."""
    characters: int
    """Of each of the three."""
    bits_per_char: dict[str, float]
    """Of the held-out text: by the model, and by n-gram models "1" to "6"."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def text_quality(
    run: Run,
    *,
    characters: int = 20_000,
    generated: str | None = None,
    held_out: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    **sampling: Any,
) -> TextQuality:
    """Measure text that a run generates, or a `generated` one, beside held-out text and text of an n-gram model.

    `held_out`: real text in the model's vocabulary that was not trained on; by default the run's test part, or else
    what validates. As much of it is measured as generated, and as much again is what all three are compared
    with: so `characters` become fewer where it is short. `sampling` are keywords of `SamplingConfig`. `tell` hears
    what is being done.

    Raises DataError where there is too little held-out or given text, or the training text is not at hand;
    UsageError where sacrebleu is not installed.
    """
    if characters < PIECE:
        raise UsageError(f"at least {PIECE:,} characters are measured, not {characters:,}")
    corpus, tokenizer = run.corpus(), run.tokenizer
    tokens = _held_out(corpus) if held_out is None else tokenizer.encode(held_out)
    real = tokenizer.decode(tokens)
    half, count, size = (
        len(real) // 2,
        max(1, min(characters, len(real) // 2) // PIECE),
        min(PIECE, len(real) // 2),
    )
    if generated is None:
        tell("generating")
        length = size if len(tokens) == len(real) else int(1.3 * size * len(tokens) / len(real)) + 10
        texts = run.generate_many([""] * count, length=length, **sampling)
    else:
        texts = _cut(generated, min(size, len(generated)), count)
    size = min(map(len, texts), default=0)
    if size < LEAST:
        raise DataError(
            f"{size:,} characters of a text are too few to measure: {LEAST:,} at least are needed"
        )
    tell("counting n-grams")
    counted = "".join(_decoded(tokenizer, corpus.train[-COUNTED:]))[-COUNTED:]
    models = [KneserNey(counted, k) for k in range(1, ORDER + 1)]
    floor = models[-1].sample(size * len(texts), np.random.default_rng(sampling.get("seed", 0)))
    columns = [[text[:size] for text in texts], *(_cut(text, size, len(texts)) for text in (real, floor))]
    tell("measuring")
    figures = _measured(columns, _cut(real[half:], size, len(texts)), tokenizer, corpus)
    bits = {"model": measure(run.model, tokens, tokenizer).bits_per_char}
    bits |= {
        str(k): float(-each.log_probabilities(real).mean() / np.log(2)) for k, each in enumerate(models, 1)
    }
    return TextQuality(*figures, size * len(texts), bits)


def _held_out(corpus: Corpus) -> np.ndarray:
    """The tokens that were not trained on."""
    part = corpus.test if len(corpus.test) else corpus.val
    if len(part) < 2 * LEAST:
        raise DataError(
            f"{corpus.name} has too little text that was held out of training: name a text with --data"
        )
    return part


def _measured(
    columns: list[list[str]], references: list[str], tokenizer: Tokenizer, corpus: Corpus
) -> tuple[dict[str, float | None], dict[str, float | None], dict[str, float | None], str]:
    """The figures of each column, and the longest stretch that the first has copied."""
    known = Counter(word for text in _decoded(tokenizer, corpus.train) for word in words(text))
    copies = copying(columns, _decoded(tokenizer, corpus.train), COPIED)
    model, held_out, ngram = (
        {
            "real_words": real_words(texts, known),
            **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
            "self_bleu": self_bleu(texts),
            "bleu": bleu(texts, references),
            "chrf": chrf(texts, references),
            **{f"divergence_{n}": divergence(texts, references, n) for n in (1, 2, 3, 4)},
            "in_loops": in_loops(texts),
            "copied": copy.share,
            "longest_copy": copy.longest,
        }
        for texts, copy in zip(columns, copies, strict=True)
    )
    return model, held_out, ngram, copies[0].stretch


def _cut(text: str, size: int, most: int) -> list[str]:
    """The first so many pieces of a text, all of one size."""
    return [text[k * size : (k + 1) * size] for k in range(min(most, len(text) // max(1, size)))]


def _decoded(tokenizer: Tokenizer, tokens: np.ndarray) -> Iterator[str]:
    """Text as the tokenizer gives it back, piece by piece."""
    for first in range(0, len(tokens), DECODED):
        yield tokenizer.decode(tokens[first : first + DECODED])
