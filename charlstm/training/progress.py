"""What training tells a person while it runs: on stderr, a live line only on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from ..wording import in_nats, printable


class Reporter:
    """Says nothing; the trainer calls these as it goes."""

    def notice(self, text: str) -> None:
        """Something that the user should know before or while it happens."""

    def advanced(self, step: int, done: float) -> None:
        """After so many steps, `done` (0 to 1) of the training is over."""

    def step(self, line: dict[str, Any], done: float) -> None:
        """A line of metrics that sums up the last steps."""

    def validated(self, line: dict[str, Any], best: bool) -> None:
        """A validation, and whether it is the best so far."""

    def sampled(self, step: int, text: str) -> None:
        """A sample of the model's text."""

    def close(self) -> None:
        """Training is over."""


class _Console(Console):
    """A console whose reader may leave: training goes on in silence."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ConsoleReporter(Reporter):
    """Prints notices, validations and samples on stderr, with a progress bar on a terminal."""

    def __init__(self) -> None:
        self.console = _Console(stderr=True, highlight=False, soft_wrap=True)
        self._train_loss = float("nan")
        self._speed = 0.0
        self._left = ""
        self._progress: Progress | None = None
        self._task: Any = None

    def notice(self, text: str) -> None:
        self.console.print(Text(text))

    def step(self, line: dict[str, Any], done: float) -> None:
        self._train_loss, self._speed = line["loss"], line["tokens_per_second"]
        self._left = _clock(line["seconds"] / done * (1 - done)) if done > 0 else "?"

    def advanced(self, step: int, done: float) -> None:
        if not self.console.is_terminal:
            return
        if self._progress is None:
            columns = (BarColumn(bar_width=20), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task("first steps", total=1.0)
        what = f"step {step:,}"
        if self._left:
            what += f"  loss {in_nats(self._train_loss)}  {self._speed:,.0f} tokens/s  {self._left} left"
        self._progress.update(self._task, completed=min(done, 1.0), description=what)

    def validated(self, line: dict[str, Any], best: bool) -> None:
        self.notice(
            f"step {line['step']:>6,} {_clock(line['seconds']):>6}  train {in_nats(self._train_loss)}  "
            f"val {in_nats(line['val_loss'])} {'best' if best else '    '} {self._speed:>7,.0f} tokens/s  "
            f"{self._left} left"
        )

    def sampled(self, step: int, text: str) -> None:
        body = Text(printable(text), style="dim")
        self.console.print(Text(f"--- a sample at step {step:,}").append("\n").append(body).append("\n---"))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _clock(seconds: float) -> str:
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
