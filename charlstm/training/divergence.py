"""Telling that training goes wrong: a loss that is no number, or one that has jumped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SMOOTHING = 0.98  # what the smoothed training loss keeps at each step: batches of a few tokens scatter widely
JUMP = 1.0  # nats of the smoothed loss above its lowest value that count as divergence


class DivergingError(Exception):
    """Training has gone wrong, as the message says; it may be saved by going back."""


class JumpError(DivergingError):
    """The training loss has jumped."""


def check_finite(loss: float, norm: float, step: int) -> None:
    """DivergingError unless a step's loss and the norm of its gradients are finite numbers."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise DivergingError(f"the {what} is no longer a finite number at step {step}")


class LossWatch:
    """The losses of training steps: smoothed, and the lowest such value so far; some are not yet read.

    A device is asked once in many steps, so that no step waits for the one before.
    """

    def __init__(self) -> None:
        self.smoothed = self.lowest = math.inf
        self.norm = 0.0  # of the last step's gradients
        self.since: list[float] = []  # losses since the last line of metrics
        self.unread: list[tuple[int, Any, Any]] = []  # step, loss and norm that may still be on the device

    def add(self, step: int, loss: Any, norm: Any) -> None:
        """Take a step's loss and the norm of its gradients, to be read later."""
        self.unread.append((step, loss, norm))

    def read(self) -> None:
        """Wait for all that were added; DivergingError where one is no finite number, or has jumped."""
        while self.unread:
            step, loss, norm = self.unread.pop(0)
            loss, self.norm = float(loss), float(norm)
            check_finite(loss, self.norm, step)
            self.since.append(loss)
            self.stepped(loss, step)

    def stepped(self, loss: float, step: int) -> None:
        """Take in a step's loss; JumpError where it has jumped."""
        before = self.smoothed if self.smoothed < math.inf else loss
        self.smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.smoothed)
        if self.smoothed > self.lowest + JUMP:
            raise JumpError(
                f"the loss has risen from {self.lowest:.2f} to {self.smoothed:.2f} at step {step}"
            )

    def steady(self) -> bool:
        """Whether there is no sign of a jump: else going back to here might not help."""
        last = self.since[-1] if self.since else self.smoothed
        return self.smoothed <= self.lowest + JUMP / 4 and last <= self.lowest + 2 * JUMP

    def let_be(self) -> None:
        """Take the jump as it is: the text itself may have changed."""
        self.lowest = self.smoothed

    @property
    def record(self) -> dict[str, list[float | None]]:
        """For JSON."""
        smoothed = [x if x < math.inf else None for x in (self.smoothed, self.lowest)]
        return {"losses_since_last_line": [*self.since], "smoothed_loss": smoothed}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take up a record; KeyError, TypeError or ValueError where it is damaged."""
        self.unread = []
        self.since = [float(loss) for loss in record["losses_since_last_line"]]
        self.smoothed, self.lowest = (math.inf if x is None else float(x) for x in record["smoothed_loss"])
