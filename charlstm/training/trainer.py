"""The training loop: stateful truncated BPTT with Adam, validations, samples and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..backends import AdamStep
from ..cifg import State
from ..config import Config, SamplingConfig
from ..data import Corpus, StreamBatches
from ..errors import CheckpointError, DataError, DivergedError
from ..evaluation import Evaluation, evaluate
from ..generation import generate
from ..model import CIFGModel
from .directory import MetricsLog, model_card, plot_curves, write_text
from .progress import Reporter
from .schedule import learning_rate

LOG_EVERY = 10  # steps that one line of metrics sums up
SAMPLE_LENGTH = 200


class Trainer:
    """Trains one model in one run directory.

    After step k it holds everything that step k + 1 depends on, so that a checkpoint and the same
    limits give the same bytes as a run without a stop. (With a limit of time, the clock decides
    how the learning rate falls.)
    """

    def __init__(
        self, model: CIFGModel, corpus: Corpus, config: Config, directory: Path, reporter: Reporter
    ) -> None:
        self.model, self.corpus, self.config = model, corpus, config
        self.directory, self.reporter = directory, reporter
        self.batches = StreamBatches(corpus.train, config.data.batch_size, config.data.seq_len)
        flat = model.parameters.flat
        self.m = model.ops.zeros(flat.shape, flat.dtype)
        self.v = model.ops.zeros(flat.shape, flat.dtype)
        self.state = model.zero_state(config.data.batch_size)
        self.step = 0
        self.seconds = 0.0  # of all sessions, validations included
        self.best_val_loss: float | None = None
        self.best_step = 0
        self._validated_at = -1
        self._since: list[float] = []  # losses since the last line of metrics
        self._clock = time.perf_counter()
        self._busy_seconds, self._busy_steps = 0.0, 0  # of training alone, since the last line of metrics
        self._rate, self._norm = 0.0, 0.0  # of the last step

    # ---- the loop -----------------------------------------------------------------------

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # divergence is told once, as an error
    def train(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train until a limit is reached or `stop()` says so; True where a limit was reached.

        Ends with a checkpoint, and where a limit was reached with a validation. Raises
        DivergedError where the loss is no longer a number; the checkpoints are those from before.
        """
        self.reporter.notice(self.describe())
        self._clock = time.perf_counter() - self.seconds
        metrics = MetricsLog(self.directory / "metrics.jsonl", self.step)
        training = self.config.training
        try:
            self.reporter.advanced(self.step, self.progress())
            while (done := self._tick()) < 1 and not stop():
                self._train_step(done)
                self.reporter.advanced(self.step, done)
                if self.step % LOG_EVERY == 0:
                    self._log(metrics)
                if self.step % training.eval_every == 0:
                    self._validate_and_save(metrics)
                if self.step % training.sample_every == 0:
                    self._sample()
            finished = done >= 1
            if finished and self._validated_at != self.step:
                self._validate_and_save(metrics)
            elif not finished:
                self._save("last")
        finally:
            metrics.close()
            self.reporter.close()
        plot_curves(self.directory)
        return finished

    def progress(self) -> float:
        """How much of the training is over, 0 to 1, by whichever limit is nearest."""
        training = self.config.training
        parts = [0.0]
        if training.max_steps is not None:
            parts.append(self.step / training.max_steps)
        if training.epochs is not None:
            parts.append(self.step / max(1, round(training.epochs * self.batches.steps_per_epoch)))
        if training.max_seconds is not None:
            parts.append(self.seconds / training.max_seconds)
        return min(1.0, max(parts))

    def describe(self) -> str:
        """The text and the model, in two lines."""
        model, corpus, data = self.model, self.corpus, self.config.data
        return (
            f"{corpus.name}: {len(corpus.train):,} characters train, {len(corpus.val):,} validate, "
            f"{len(corpus.tokenizer)} distinct\n"
            f"{model.num_parameters:,} parameters: {model.config.num_layers} layers of "
            f"{model.config.hidden_size}, batches of {data.batch_size} x {data.seq_len}, "
            f"{model.ops.name} on {model.ops.threads()} threads"
        )

    def _tick(self) -> float:
        """`progress`, by the clock as it stands now."""
        self.seconds = time.perf_counter() - self._clock
        return self.progress()

    @property
    def tokens(self) -> int:
        """Tokens read so far."""
        return self.step * self.batches.batch_size * self.batches.seq_len

    def _train_step(self, done: float) -> None:
        training, ops = self.config.training, self.model.ops
        started = time.perf_counter()
        batch = self.batches[self.step]
        state = self.model.zero_state(self.batches.batch_size) if batch.fresh else self.state
        loss, gradients, self.state = self.model.loss_and_gradients(
            batch.x, batch.y, state, dropout_seed=(training.seed, self.step)
        )
        norm = ops.global_norm(gradients.flat)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self._diverged("gradient" if math.isfinite(loss) else "loss")
        self._rate, self._norm = learning_rate(training, self.step, done), norm
        scale = min(1.0, training.clip_norm / norm) if norm > 0 else 1.0
        self.step += 1
        adam = AdamStep(self.step, self._rate, scale)
        ops.adam_update(self.model.parameters.flat, gradients.flat, self.m, self.v, adam)
        self._since.append(loss)
        self._busy_seconds += time.perf_counter() - started
        self._busy_steps += 1

    def _log(self, metrics: MetricsLog) -> None:
        """A line of metrics that sums up the steps since the last one."""
        done = self._tick()
        read = self._busy_steps * self.batches.batch_size * self.batches.seq_len
        speed = read / max(self._busy_seconds, 1e-9)
        line = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "loss": sum(self._since) / len(self._since),
            "learning_rate": self._rate,
            "gradient_norm": self._norm,
            "tokens_per_second": round(speed, 1),
        }
        self._since = []
        self._busy_seconds, self._busy_steps = 0.0, 0
        metrics.write(**line)
        self.reporter.step(line, done)

    # ---- what happens now and then ------------------------------------------------------

    def _validate_and_save(self, metrics: MetricsLog) -> None:
        if self._busy_steps:
            self._log(metrics)
        figures = evaluate(self.model, self.corpus.val)
        self._validated_at = self.step
        if not math.isfinite(figures.loss):
            raise self._diverged("validation loss")
        best = self.best_val_loss is None or figures.loss < self.best_val_loss
        if best:
            self.best_val_loss, self.best_step = figures.loss, self.step
        self._tick()
        line = self._validation_line(figures)
        metrics.write(**line)
        if best:
            self._save("best")
        self._save("last")
        self.reporter.validated(line, best)

    def _validation_line(self, figures: Evaluation) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "val_loss": figures.loss,
            "val_mean_max_posterior": figures.mean_max_posterior,
        }

    def _sample(self) -> None:
        """A sample, once the mean of the largest posterior exceeds the threshold."""
        batch = self.batches[self.step]
        _, confidence, _ = self.model.loss(batch.x, batch.y, self.state)
        if confidence <= self.config.training.sample_threshold:
            return
        sampling = SamplingConfig(length=SAMPLE_LENGTH, seed=self.step)
        text = "".join(generate(self.model, self.corpus.tokenizer, "", sampling))
        write_text(self.directory / "samples" / f"step-{self.step:06d}.txt", text)
        self.reporter.sampled(self.step, text)

    def _diverged(self, what: str) -> DivergedError:
        kept = "nothing was kept, since no validation had been made"
        if self.best_val_loss is not None:
            kept = (
                f"the best checkpoint, of step {self.best_step}, is kept in {self.directory / 'checkpoints'}"
            )
        return DivergedError(
            f"the {what} is no longer a finite number at step {self.step}: "
            f"try a --learning-rate below {self.config.training.learning_rate:g}; {kept}"
        )

    # ---- checkpoints --------------------------------------------------------------------

    def _progress_record(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best_val_loss": self.best_val_loss,
            "best_step": self.best_step,
            "losses_since_last_line": self._since,
            "text_sha256": self.corpus.sha256,
        }

    def _save(self, which: str) -> None:
        """Write a checkpoint; "last", which follows every "best", also holds what resuming needs."""
        record = self._progress_record()
        card = model_card(self.config, self.corpus, self.model.num_parameters, record)
        training = None
        if which == "last":
            to_numpy = self.model.ops.to_numpy
            training = checkpoint.TrainingState(
                optimizer={"adam.m": to_numpy(self.m), "adam.v": to_numpy(self.v)},
                carried={"state.h": to_numpy(self.state.h), "state.c": to_numpy(self.state.c)},
                progress=record,
            )
            write_text(self.directory / "README.md", card)
        target = self.directory / "checkpoints" / which
        checkpoint.save(target, self.model, self.corpus.tokenizer, card, training)

    def restore(self) -> None:
        """Take up the last checkpoint; the model's weights are already those of it.

        Raises CheckpointError where it is damaged, DataError where the text has changed since.
        """
        last = self.directory / "checkpoints" / "last"
        saved = checkpoint.load_training(last, self.model)
        record = saved.progress
        asarray, to_numpy = self.model.ops.asarray, self.model.ops.to_numpy
        try:
            self.step, self.seconds = int(record["step"]), float(record["seconds"])
            best = record["best_val_loss"]
            self.best_val_loss = None if best is None else float(best)
            self.best_step = int(record["best_step"])
            self._since = [float(loss) for loss in record["losses_since_last_line"]]
            text = record["text_sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{last / 'training.json'} is damaged: {error!r}") from None
        if self.config.model != self.model.config:
            raise CheckpointError(f"{last} is of another model than config.toml describes")
        if text != self.corpus.sha256:
            raise DataError(f"{self.corpus.name} has changed since the run was started: it cannot go on")
        if saved.carried["state.h"].shape != to_numpy(self.state.h).shape:
            raise CheckpointError(f"{last}: the carried state is of another batch size than config.toml's")
        self.m[...], self.v[...] = asarray(saved.optimizer["adam.m"]), asarray(saved.optimizer["adam.v"])
        self.state = State(asarray(saved.carried["state.h"]), asarray(saved.carried["state.c"]))
