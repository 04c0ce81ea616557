"""metrics.jsonl once more, as TensorBoard reads it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CharLSTMError, UsageError

TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "val_mean_max_posterior": "mean_max_posterior",
    "learning_rate": "learning_rate",
    "gradient_norm": "gradient_norm",
    "tokens_per_second": "tokens_per_second",
}


def check_installed() -> None:
    """UsageError where the library that writes events is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UsageError('tensorboard needs tensorboardX: pip install "charlstm[tensorboard]"') from None


class TensorBoardLog:
    """A file of events that holds what the lines of a metrics.jsonl do, from the first to the last.

    It is written anew from those lines each time, so that after a kill, a rollback or sessions without
    it nothing is missing or too much. (The events' own writer is used rather than `SummaryWriter`, whose
    thread swallows the error of a full disk and leaves training waiting for it.)
    """

    def __init__(self, directory: Path, lines: Iterable[dict[str, Any]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        lines = list(lines)
        self._directory = directory
        self._started = time.time() - (lines[-1]["seconds"] if lines else 0.0)
        try:
            if directory.is_dir():
                shutil.rmtree(directory)
            directory.mkdir()
            self._file = EventsWriter(str(directory.resolve() / "events"))
        except OSError as error:
            raise self._problem(error) from None
        for line in lines:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """A further line; CharLSTMError where the disk refuses."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        when = self._started + line["seconds"]
        try:
            for key, tag in TAGS.items():
                if key in line:
                    summary = scalar(tag, line[key])
                    self._file.write_event(Event(wall_time=when, step=line["step"], summary=summary))
            self._file.flush()
        except OSError as error:
            raise self._problem(error) from None

    def close(self) -> None:
        """All is written; OSError where the disk refuses."""
        self._file.close()

    def _problem(self, error: OSError) -> CharLSTMError:
        return CharLSTMError(f"{self._directory} cannot be written: {error.strerror or error}")
