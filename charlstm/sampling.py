"""How text is drawn: the choices a user makes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import UsageError
from .options import check_not_negative, check_types


@dataclass(frozen=True)
class SamplingConfig:
    """How text is drawn from a model; `charlstm.backends.draw` says in which order its parts apply."""

    length: int = 500
    """Tokens to generate: characters, or what else the model's text was cut into."""
    temperature: float | str | tuple[float, ...] = 0.8
    """Divides the logits: lower is safer, higher is wilder; 0 takes the most probable token. 0.5,1.0 are taken in
    turn, token by token; 1.2:0.4 goes evenly from the one to the other over the length."""
    top_k: int = 0
    """Draw among this many of the most probable tokens only; 0: among all."""
    top_p: float = 1.0
    """Draw among the most probable tokens that hold this much of the probability (nucleus sampling)."""
    typical: float = 1.0
    """Draw among the tokens whose surprise is nearest to what is expected and that hold this much of the
    probability (locally typical sampling)."""
    min_p: float = 0.0
    """Draw among the tokens with at least this share of the most probable one's probability."""
    repetition_penalty: float = 1.0
    """Makes tokens that came lately less likely: 1.1 to 1.3 are usual for words; characters must repeat."""
    no_repeat_ngram: int = 0
    """Never draw the same sequence of so many tokens twice within the window, unless nothing else is left."""
    repetition_window: int = 256
    """How many tokens the last two look back, the prompt's included."""
    logit_bias: tuple[str, ...] | dict[str, float] = ()
    """TEXT=NUMBER: added to the logit of a token; -inf forbids it. May be given several times."""
    stop: tuple[str, ...] = ()
    """End the text before this string. May be given several times."""
    regex: str | None = None
    """Draw only text that matches this regular expression as a whole, and end where the model would leave it."""
    redraw: bool = False
    """Draw once again, and keep that, if the first draw is not the most probable token."""
    seed: int = 0
    """Seed of the draws: the same seed gives the same text."""

    def __post_init__(self) -> None:
        for name in ("temperature", "stop", "logit_bias"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_types(self)
        check_not_negative(self, "length", "top_k", "no_repeat_ngram", "repetition_window", "seed")
        if not 0.01 <= self.repetition_penalty <= 100:  # beyond that a logit may be no number any more
            raise UsageError(f"repetition_penalty must lie in 0.01 to 100, not {self.repetition_penalty}")
        for name in ("top_p", "typical"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must lie above 0 and be at most 1, not {getattr(self, name)}")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p must lie in 0 to 1, not {self.min_p}")
        if "" in self.stop:
            raise UsageError("stop cannot be empty: every text begins with nothing")
        for value in self.temperatures:
            if not 0 <= value < math.inf:
                raise UsageError(f"temperature must be 0 or more and finite, not {self.temperature}")
        for text, value in self.biases.items():
            if not value < math.inf:
                raise UsageError(f"logit_bias of {text!r} must be a number or -inf, not {value}")

    @property
    def biases(self) -> dict[str, float]:
        """`logit_bias` by the token's text."""
        given = self.logit_bias
        return dict(map(_text_and_number, given)) if isinstance(given, tuple) else given

    @property
    def falling(self) -> bool:
        """Whether the temperature goes from the first of `temperatures` to the last."""
        return isinstance(self.temperature, str) and ":" in self.temperature

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those that are taken in turn, or the first and the last."""
        if not isinstance(self.temperature, str):
            values = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
            if not values:
                raise UsageError("temperature must be at least one number")
            return values
        parts = self.temperature.split(":" if self.falling else ",")
        try:
            values = tuple(map(float, parts))
        except ValueError:
            values = ()
        if not values or (self.falling and len(values) != 2):
            raise UsageError(
                f"temperature reads 0.8, or 0.5,1.0 (in turn), or 1.2:0.4 (from, to), not {self.temperature!r}"
            )
        return values


def _text_and_number(given: str) -> tuple[str, float]:
    text, _, number = given.rpartition("=")
    try:
        if text:
            return text, float(number)
    except ValueError:
        pass
    raise UsageError(f"logit_bias reads TEXT=NUMBER, as in e=-2 or q=-inf, not {given!r}")
