"""Telling that training goes wrong: a loss that is no number, or one that has jumped."""

from __future__ import annotations

import math

SMOOTHING = 0.98  # what the smoothed training loss keeps at each step: batches of a few tokens scatter widely
JUMP = 1.0  # nats of the smoothed loss above its lowest value that count as divergence


class DivergingError(Exception):
    """Training has gone wrong, as the message says; it may be saved by going back."""


class JumpError(DivergingError):
    """The training loss has jumped."""


class LossWatch:
    """The smoothed training loss and its lowest value so far."""

    def __init__(self) -> None:
        self.smoothed = self.lowest = math.inf

    def stepped(self, loss: float, step: int) -> None:
        """Take in a step's loss; JumpError where it has jumped."""
        before = self.smoothed if self.smoothed < math.inf else loss
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.smoothed)
        if self.smoothed > self.lowest + JUMP:
            raise JumpError(
                f"the loss has risen from {self.lowest:.2f} to {self.smoothed:.2f} at step {step}"
            )

    def steady(self, last: float | None) -> bool:
        """Whether there is no sign of a jump, `last` being the last loss: else going back to here might not help."""
        last = self.smoothed if last is None else last
        return self.smoothed <= self.lowest + JUMP / 4 and last <= self.lowest + 2 * JUMP

    def let_be(self) -> None:
        """Take the jump as it is: the text itself may have changed."""
        self.lowest = self.smoothed

    @property
    def record(self) -> list[float | None]:
        """For JSON."""
        return [x if x < math.inf else None for x in (self.smoothed, self.lowest)]

    def restore(self, record: list[float | None]) -> None:
        """Take up a record; TypeError or ValueError where it is damaged."""
        self.smoothed, self.lowest = (math.inf if x is None else float(x) for x in record)
