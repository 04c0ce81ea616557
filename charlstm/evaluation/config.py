"""What is measured, and how: the choices a user makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from ..options import check_not_negative, check_positive, check_shares, check_types, field_names

MOST_STEPS = 10_000  # of dynamic evaluation


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and how the model reads."""

    top_k: int = 5
    """Tell how often the token is among this many of the most probable."""
    bootstrap_seed: int = 0
    """Seed of the draws that the intervals come from."""
    dynamic: bool = False
    """Let the model go on learning while it reads (dynamic evaluation, Krause et al. 2018): each token is
    predicted before it is learned from. Slow, since the text is read in one go. The trained model stays as it is."""
    dynamic_rule: Literal["rms", "sgd"] = "rms"
    """How it learns: rms scales each weight's steps by its gradients on the text that the model was trained on,
    and is the better one; sgd does without that text."""
    dynamic_rate: float | None = None
    """Learning rate of dynamic evaluation [default: 0.5, sgd 0.1]."""
    dynamic_decay: float = 0.002
    """How far each step draws the weights back to the trained ones."""
    dynamic_steps: int = 20
    """Tokens that are read before the model learns from them."""

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "top_k", "dynamic_rate", "dynamic_steps")
        check_not_negative(self, "bootstrap_seed")
        check_shares(self, "dynamic_decay")
        if self.dynamic_steps > MOST_STEPS:
            raise UsageError(
                f"dynamic_steps must be at most {MOST_STEPS:,}: what is learned from is held in memory"
            )
        for name in field_names(EvaluationConfig):
            changed = getattr(self, name) != getattr(EvaluationConfig, name)
            if changed and name.startswith("dynamic_") and not self.dynamic:
                raise UsageError(f"{name} does nothing without dynamic")
