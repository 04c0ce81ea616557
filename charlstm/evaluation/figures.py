"""What is told of a model's predictions, made of sums over segments, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np

from .config import EvaluationConfig
from .reading import Evaluation
from .segments import BIN_EDGES, Segments

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST = 20  # segments with tokens that intervals are made of
LARGEST_EXPONENT = 700.0  # of e, in float64


class Bin(NamedTuple):
    """One line of a reliability table: the predictions whose largest posterior lies in a range."""

    above: float
    up_to: float
    tokens: int
    confidence: float
    """Their largest posterior, averaged."""
    accuracy: float
    """Share of them whose most probable token came."""


@dataclass(frozen=True)
class DetailedEvaluation(Evaluation):
    """Figures over the tokens that were predicted, and the sums over segments that they are made of."""

    segments: Segments
    config: EvaluationConfig

    @property
    def words(self) -> int:
        """Words between white space that begin among the predicted characters, and line ends."""
        return int(self.segments.words.sum())

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """All figures by name, as `figures_of` makes them; None for those per word of a text without any."""
        found = figures_of(self.segments)
        return {name: float(value[0]) if np.isfinite(value[0]) else None for name, value in found.items()}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float] | None]:
        """For each figure where 95 % of its resampled values lie: the percentile bootstrap over segments
        (Efron & Tibshirani 1993, section 13.3), from `bootstrap_seed`.

        None for fewer than 20 segments (4,000 characters), and for figures that are None.
        """
        occupied = self.segments.tokens > 0
        if occupied.sum() < FEWEST:
            return dict.fromkeys(self.figures)
        counts = resampling(int(occupied.sum()), self.config.bootstrap_seed)
        ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        found: dict[str, tuple[float, float] | None] = {}
        for name, values in figures_of(self.segments, counts, occupied).items():
            found[name] = None
            if np.isfinite(values).all():
                low, high = np.quantile(values, ends)
                found[name] = float(low), float(high)
        return found

    @property
    def reliability(self) -> list[Bin]:
        """How often the most probable token came, by its posterior; bins without predictions are left out."""
        s = self.segments
        sums = [part.sum(axis=0) for part in (s.bin_tokens, s.bin_confidence, s.bin_correct)]
        return [
            Bin(float(BIN_EDGES[m]), float(BIN_EDGES[m + 1]), int(n), float(p / n), float(correct / n))
            for m, (n, p, correct) in enumerate(zip(*sums, strict=True))
            if n
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the sums, for JSON."""
        return {
            **self.figures,
            "top_k": self.config.top_k,
            "tokens": self.tokens,
            "characters": self.characters,
            "words": self.words,
            "segments": len(self.segments),
            "confidence": CONFIDENCE,
            "intervals": self.intervals,
            "reliability": [each._asdict() for each in self.reliability],
            "options": asdict(self.config),
        }


def figures_of(
    segments: Segments, counts: np.ndarray | None = None, chosen: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Figures over all segments together, (1,) each; or of the `chosen` ones, each taken as often as each
    row of `counts` (R, S) says, (R,) each.

        loss, perplexity            nats by tokens, and e to that
        bits_per_char               bits by characters
        bits_per_word               bits by words: between white space, and line ends
        word_perplexity             2 to that; where tokens are words, their perplexity
        mean_max_posterior          the largest posterior, averaged
        top_1_accuracy              share of tokens that were the most probable
        top_k_accuracy              share of tokens among the k most probable
        expected_calibration_error  (Guo et al. 2017, arXiv 1706.04599, equation 3) over bins of the largest
                                    posterior: |share of right predictions - mean posterior|, weighted by tokens

    Figures per word are infinite or not a number where there are no words.
    """
    s = {f.name: getattr(segments, f.name) for f in fields(segments)}
    if chosen is not None:
        s = {name: values[chosen] for name, values in s.items()}
    weights = np.ones((1, len(s["nats"]))) if counts is None else counts.astype(np.float64)
    s = {name: weights @ values for name, values in s.items()}
    tokens, top_1, posterior = (s[f"bin_{name}"].sum(axis=1) for name in ("tokens", "correct", "confidence"))
    bits = s["nats"] / math.log(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_word = bits / s["words"]
    return {
        "loss": s["nats"] / tokens,
        "perplexity": np.exp(np.minimum(s["nats"] / tokens, LARGEST_EXPONENT)),
        "bits_per_char": bits / np.maximum(1, s["characters"]),
        "bits_per_word": per_word,
        "word_perplexity": np.where(
            np.isfinite(per_word), np.exp2(np.minimum(per_word, LARGEST_EXPONENT / math.log(2))), np.nan
        ),
        "mean_max_posterior": posterior / tokens,
        "top_1_accuracy": top_1 / tokens,
        "top_k_accuracy": s["top_k"] / tokens,
        "expected_calibration_error": np.abs(s["bin_correct"] - s["bin_confidence"]).sum(axis=1) / tokens,
    }


def resampling(segments: int, seed: int) -> np.ndarray:
    """How often each of S segments is drawn in each of 2,000 samples of S segments, (2000, S).

    The same for the same S and seed: two runs on one text are resampled in pairs.
    """
    return np.random.default_rng(seed).multinomial(segments, np.full(segments, 1 / segments), RESAMPLES)


def summed_up(segments: Segments, config: EvaluationConfig) -> DetailedEvaluation:
    """The figures of a text from the sums over its segments."""
    count = int(segments.tokens.sum())
    loss, confidence = segments.nats.sum() / count, segments.max_posterior.sum() / count
    return DetailedEvaluation(
        float(loss), float(confidence), count, int(segments.characters.sum()), segments, config
    )


def joined(figures: Sequence[DetailedEvaluation]) -> DetailedEvaluation:
    """The figures over the tokens of several texts, whose segments follow each other."""
    segments = reduce(Segments.followed_by, (each.segments for each in figures))
    return summed_up(segments, figures[0].config)
