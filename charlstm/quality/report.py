"""The report on a text: generated, real and n-gram text of the same length, side by side."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..data import Corpus, Tokenizer
from ..errors import DataError, UsageError
from ..generation import sampler_of
from ..options import from_dict
from ..run import Run, pieces_of
from ..sampling import SamplingConfig
from .copying import copying
from .figures import (
    bleu,
    chrf,
    distinct,
    divergence,
    in_loops,
    real_words,
    sacrebleu_metrics,
    self_bleu,
    tokenization,
)
from .ngrams import KneserNey
from .texts import cut, spread, words

ORDER = 6  # of the n-gram model that is to be beaten
PIECE = 1000  # characters of each text that is measured
LEAST = 200  # characters of a piece; fewer say nothing
COUNTED = 2_000_000  # characters of the training text that n-gram models count, the last ones
PREDICTED = 500_000  # tokens of held-out text, the first ones; more where more is to be measured
COMPARED = 30  # pieces that BLEU and chrF compare with each other, which takes the square of that
DECODED = 1 << 20  # tokens that are decoded at a time
COPIED_FROM = 40  # characters of a stretch that counts as copied

HeldOut = Literal["val", "test", "all"]


class Figure(NamedTuple):
    """One line of the report."""

    name: str
    label: str  # {copied_from} stands for that number
    better: str  # which way is better, or what to compare with
    meaning: str  # what it says, and when it misleads; "" where that of the line above says it


FIGURES = (
    Figure("real_words_1", "real words", "near held-out", "share of words that the training text has (once, twice, "
           "five times or more). Names and rare words of real text count as none, nonsense made of real words as "
           "all, and a low temperature raises it. Means nothing where words do not stand between spaces"),
    Figure("real_words_2", "  twice or more", "near held-out", ""),
    Figure("real_words_5", "  five times or more", "near held-out", ""),
    Figure("distinct_1", "distinct words", "near held-out", "different words, pairs and triples of words over all. "
           "Falls with the length, so that only texts of one length compare; random text has the most, and few "
           "tell of phrases that come again"),
    Figure("distinct_2", "distinct pairs", "near held-out", ""),
    Figure("distinct_3", "distinct triples", "near held-out", ""),
    Figure("self_bleu", "self-BLEU", "near held-out", "how much the pieces are like each other, 0 to 100; high "
           "for text that says the same again and again, low for noise as well"),
    Figure("bleu", "BLEU", "high", "words and phrases in common with held-out text, 0 to 100; no text is the one "
           "right answer, and common phrases are enough for it"),
    Figure("chrf", "chrF", "high", "the same of characters: spelling counts; blind to sense"),
    Figure("divergence_1", "letters", "low", "distance of the frequencies of characters, pairs, triples and four of "
           "them from those of held-out text, 0 to 1 bit. Not 0 even for real text, because both are short; a low "
           "temperature raises it; an n-gram model is made for this"),
    Figure("divergence_2", "pairs of letters", "low", ""),
    Figure("divergence_3", "triples of letters", "low", ""),
    Figure("divergence_4", "4-grams of letters", "low", ""),
    Figure("in_loops", "in loops", "near held-out", "share of characters in what repeats itself three times in a "
           "row or more; a low temperature brings it, and lists and tables have it by nature"),
    Figure("copied", "copied, {copied_from} or more", "near held-out", "share of characters in stretches of "
           "{copied_from} or more that stand in the training text; real text has some: phrases, tables, quotations"),
    Figure("longest_copy", "longest copy", "near held-out", "characters of the longest stretch in common with "
           "the training text, as far as it lies in one piece; it grows with the length of both"),
)  # fmt: skip


@dataclass(frozen=True)
class TextQuality:
    """Figures of three kinds of text, by name as in `FIGURES`; None where there was nothing to measure."""

    model: dict[str, float | None]
    """Of generated text (or of that which was given)."""
    held_out: dict[str, float | None]
    """Of real text that was not trained on: what to aim at."""
    ngram: dict[str, float | None]
    """Of text drawn from an n-gram model of the training text: what to beat."""
    copy: str
    """The longest stretch that the generated text has in common with the training text."""
    copied_from: int
    """Characters from which on a stretch counts as copied."""
    characters: int
    """Of each of the three."""
    temperature: float
    """At which the n-gram model's text was drawn."""
    bits_per_char: dict[str, float]
    """Of held-out text: by the model, and by n-gram models "1" to "6"."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def text_quality(
    run: Run,
    data: Corpus | None = None,
    *,
    split: HeldOut = "val",
    characters: int = 20_000,
    copied_from: int = COPIED_FROM,
    generated: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    **sampling: Any,
) -> TextQuality:
    """Measure text that a run generates, or a `generated` one, beside held-out text and text of an n-gram model.

    data       whose part `split` was not trained on (`run.corpus` reads one); the run's own unless given. As much of
               it is measured as is generated, and as much again is what all three are compared with: so
               `characters` become fewer where it is short
    sampling   keywords of `SamplingConfig`, but for length, stop and regex. The n-gram model draws with
               the same samplers, at the same temperature (at the mean of several), since much of what is measured
               depends on them; a logit bias is the model's alone
    tell       hears what is being done

    Texts are measured in pieces of 1,000 characters, each generated one from a seed of its own.

    Raises DataError where there is too little held-out or given text, or the training text is not at hand;
    UsageError where sacrebleu is not installed, or options cannot be used.
    """
    sacrebleu_metrics()
    config = _checked(characters, copied_from, sampling)
    own = run.own_corpus(data, "text is compared with what the model was trained on")
    data, part = _held_out(own if data is None else data, split, own, max(PREDICTED, 2 * characters))
    tokens = getattr(data, part)
    real = "".join(_decoded(run.tokenizer, tokens))
    half = len(real) // 2
    size = min(PIECE, half if generated is None else min(half, len(generated)))
    if size < LEAST:
        raise DataError(
            f"{size:,} characters of a text are too few to measure: {LEAST:,} at least are needed of what is "
            f"measured, and twice as many of {data.name} held out of training"
        )
    count = max(1, min(characters, half) // PIECE)
    if generated is None:
        tell("generating")
        texts = _generated(run, count, size, len(tokens) / len(real), config)
    else:
        texts = cut(generated, size, count)
    tell("counting n-grams")
    counted = "".join(_decoded(run.tokenizer, own.train[-COUNTED:]))[-COUNTED:]
    ngrams = KneserNey(counted, min(ORDER, len(counted)), also=real)
    temperature = float(np.mean(config.temperatures))
    rng = np.random.default_rng(config.seed)
    floor = ngrams.sample(len(texts), size, rng, temperature, sampler_of(config, size))
    columns = [texts, cut(real, size, len(texts)), floor]
    figures = _measured(columns, cut(real[half:], size, len(texts)), run.tokenizer, own, copied_from, tell)
    tell("predicting held-out text")
    bits = {"model": run.evaluate(data, split=part).bits_per_char}
    for k in range(1, ngrams.order + 1):
        bits[str(k)] = float(-ngrams.log_probabilities(real, k).mean() / np.log(2))
    return TextQuality(*figures, copied_from, size * len(texts), temperature, bits)


def _checked(characters: int, copied_from: int, sampling: dict[str, Any]) -> SamplingConfig:
    if characters < PIECE:
        raise UsageError(f"at least {PIECE:,} characters are measured, not {characters:,}")
    if copied_from < 1:
        raise UsageError(f"a stretch that counts as copied has 1 character or more, not {copied_from}")
    for name in ("stop", "regex"):
        if sampling.get(name):
            raise UsageError(
                f"{name} ends texts, which are measured at one length: generate a text with it, "
                "and measure that as a file (--generated)"
            )
    if "length" in sampling:
        raise UsageError("the length of what is generated is a number of characters here (--characters)")
    return from_dict(SamplingConfig, sampling, "text_quality")


def _held_out(
    corpus: Corpus, split: HeldOut, own: Corpus, most: int
) -> tuple[Corpus, Literal["val", "test"]]:
    """A corpus, and which of its parts holds the text to compare with: its first tokens, `most` of them."""
    if split not in ("val", "test", "all") or (split == "all" and corpus.sha256 == own.sha256):
        raise UsageError(
            "text is compared with some that was not trained on: take the split val or test, or all of another text"
        )
    part = "val" if split == "all" else split
    tokens = getattr(corpus, part)
    if split == "all":
        tokens = np.concatenate([each[:most] for each in pieces_of(corpus)])
    if len(tokens) < 2:
        raise DataError(
            f"{corpus.name} has no part {split} that was held out of training: name a text, --data FILE --split all"
        )
    return dataclasses.replace(corpus, **{part: tokens[:most]}), part


def _generated(run: Run, count: int, size: int, rate: float, config: SamplingConfig) -> list[str]:
    """So many texts of `size` characters; `rate` is how many tokens a character of real text has."""
    options = {name: value for name, value in vars(config).items() if name != "length"}
    length = int(np.ceil(size * rate))
    while True:
        texts = run.generate_many([""] * count, length=length, **options)
        if min(map(len, texts)) >= size:
            return [text[:size] for text in texts]
        length = int(1.3 * length) + 10  # its tokens are shorter than those of real text


def _measured(
    columns: list[list[str]], references: list[str], tokenizer: Tokenizer, corpus: Corpus, copied_from: int,
    tell: Callable[[str], None],
) -> tuple[dict[str, float | None], dict[str, float | None], dict[str, float | None], str]:  # fmt: skip
    """The figures of each column, and the longest stretch that the first has copied."""

    def training(what: str) -> Iterator[str]:
        return _decoded(
            tokenizer, corpus.train, lambda share: tell(f"{what}: {share:.0%} of the training text")
        )

    known = Counter(word for text in training("counting words") for word in words(text))
    copies = copying(columns, lambda: training("looking for copies"), copied_from)
    tell("comparing")
    some, tokenize = spread(references, COMPARED), tokenization(references)
    model, held_out, ngram = (
        {
            **{f"real_words_{n}": real_words(texts, known, n) for n in (1, 2, 5)},
            **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
            "self_bleu": self_bleu(spread(texts, COMPARED), tokenize),
            "bleu": bleu(spread(texts, COMPARED), some, tokenize),
            "chrf": chrf(spread(texts, COMPARED), some),
            **{f"divergence_{n}": divergence(texts, references, n) for n in (1, 2, 3, 4)},
            "in_loops": in_loops(texts),
            "copied": copy.share,
            "longest_copy": copy.longest,
        }
        for texts, copy in zip(columns, copies, strict=True)
    )
    return model, held_out, ngram, copies[0].stretch


def _decoded(
    tokenizer: Tokenizer, tokens: np.ndarray, done: Callable[[float], None] = lambda share: None
) -> Iterator[str]:
    """Text as the tokenizer gives it back, piece by piece; `done` hears which share comes next."""
    decoder = tokenizer.decoder()
    for first in range(0, len(tokens), DECODED):
        done(first / len(tokens))
        yield decoder.feed(tokens[first : first + DECODED])
    yield decoder.finish()
