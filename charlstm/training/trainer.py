"""The training loop: stateful truncated BPTT, validations, samples and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from ..backends import Array
from ..cifg import State
from ..config import Config
from ..data import Batch, Corpus, batches_of, describe, limited, part_of
from ..errors import CharLSTMError, CheckpointError, DataError, DivergedError
from ..evaluation import evaluate
from ..generation import generate
from ..model import CIFGModel
from ..sampling import SamplingConfig
from ..wording import write_text
from .directory import MetricsLog, forget_later, model_card, run_readme
from .divergence import DivergingError, JumpError, LossWatch
from .learner import Learner, StepGradients
from .plots import plot_curves
from .progress import Reporter
from .report import write_report

LOG_EVERY = 10  # steps that one line of metrics sums up
SAMPLE_LENGTH = 200
SLOWER = 0.5  # what a rollback leaves of the learning rate


class Trainer:
    """Trains one model in one run directory.

    After step k it holds everything that step k + 1 depends on, so that a checkpoint and the same
    limits give the same bytes as a run without a stop. (With a limit of time, the clock decides
    how the learning rate falls; and a stop is a place to go back to, if training diverges later.)
    """

    def __init__(
        self, model: CIFGModel, corpus: Corpus, config: Config, directory: Path, reporter: Reporter
    ) -> None:
        self.model, self.corpus, self.config = model, corpus, config
        self.directory, self.reporter = directory, reporter
        self.batches = batches_of(corpus, config)
        self.val = limited(part_of(corpus, config.data, "val"), config.data.max_val_tokens)
        self.learner = Learner(model, config.training)
        self.optimizer, self.average = self.learner.optimizer, self.learner.average
        self.state = model.zero_state(config.data.batch_size)
        self.step = self.tokens = 0  # steps made, and tokens that they have read
        self.seconds = 0.0  # of all sessions, validations included
        self.best_val_loss: float | None = None
        self.best_step = 0
        self.rollbacks = 0
        self._rate_factor = 1.0  # what rollbacks and the plateau schedule have left of the learning rate
        self._stale = 0  # validations since the best one
        self._watch = LossWatch()
        self._validated_at = self._saved_at = -1
        self._clock = 0.0  # when training began, by `_now`
        self._busy_seconds, self._busy_tokens = 0.0, 0  # of training alone, since the last line of metrics
        self._rate = 0.0  # of the last step

    # ---- the loop -----------------------------------------------------------------------

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # divergence is told once, as an error
    def train(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train until a limit is reached or `stop()` says so; True where a limit was reached.

        Ends with a checkpoint, plots and report.html, and where a limit was reached with a validation.
        Where the loss is no longer a number, or jumps, training goes back to the last checkpoint, at half
        the learning rate, at most `max_rollbacks` times. Then a jump is let be (the text itself may
        change), and for what is no number it raises DivergedError; the checkpoints are those from before.
        """
        self.reporter.notice(self.describe())
        self._clock = self._now() - self.seconds
        metrics = MetricsLog(self.directory, self.step, self.config.training.tensorboard)
        if self.step == 0:
            self.save("last")  # a place to go back to
        try:
            self.reporter.advanced(self.step, self.progress())
            while (finished := self._go_on(stop, metrics)) is None:
                pass
        except CharLSTMError as error:
            with suppress(CharLSTMError):
                self._report(f"was ended by an error: {error}")
            raise
        finally:
            metrics.close()
            self.reporter.close()
        self._report(self.outcome)
        return finished

    @property
    def outcome(self) -> str:
        """How training ended, where no error did it."""
        if self.stopped_early:
            return f"ended early: {self._stale} validations without a new best"
        return "is over" if self.progress() >= 1 else "was stopped before its limits"

    def _report(self, outcome: str) -> None:
        plot_curves(self.directory)
        write_report(self.directory, outcome)

    def _go_on(self, stop: Callable[[], bool], metrics: MetricsLog) -> bool | None:
        """One step and what is due after it; at the end, whether a limit was reached."""
        done = self._tick()
        try:
            if done >= 1:
                if self._validated_at != self.step:
                    self._validate_and_save(metrics)
                self._save_unless_saved()
                return True
            if stop():
                self._save_unless_saved()
                return False
            self.train_step(done)
            self.reporter.advanced(self.step, done)
            self._do_what_is_due(metrics)
        except DivergingError as problem:
            self._roll_back(problem, metrics)
        return None

    def _do_what_is_due(self, metrics: MetricsLog) -> None:
        """After a step."""
        training = self.config.training
        every = LOG_EVERY, training.sample_every, training.keep_every, training.eval_every
        if any(number is not None and self.step % number == 0 for number in every):
            self._settle()
        if self.step % LOG_EVERY == 0:
            self._log(metrics)
        if self.step % training.sample_every == 0:
            self._sample()
        if training.keep_every is not None and self.step % training.keep_every == 0:
            with self._averaged():
                self.save(f"step-{self.step:06d}")
        if self.step % training.eval_every == 0:  # last: what is not done before a kill is done on resuming
            self._validate_and_save(metrics)

    def progress(self) -> float:
        """How much of the training is over, 0 to 1, by whichever limit is nearest."""
        return min(1.0, max([0.0, float(self.stopped_early), *self.limits().values()]))

    def limits(self) -> dict[str, float]:
        """The limits of `TrainingConfig` that were given, and how much of each is used up."""
        training, used = self.config.training, {}
        if training.max_steps is not None:
            used["max_steps"] = self.step / training.max_steps
        if training.epochs is not None:
            used["epochs"] = self.step / max(1, round(training.epochs * self.batches.steps_per_epoch))
        if training.max_seconds is not None:
            used["max_time"] = self.seconds / training.max_seconds
        return used

    @property
    def stopped_early(self) -> bool:
        """Whether there were too many validations without a new best."""
        most = self.config.training.early_stopping
        return most is not None and self._stale >= most

    def describe(self) -> str:
        """The text and the model, in two lines."""
        model, corpus, data = self.model, self.corpus, self.config.data
        return (
            f"{corpus.name}: {describe(corpus, data)}, {len(corpus.tokenizer)} distinct\n"
            f"{model.num_parameters:,} parameters: {model.config.num_layers} layers of "
            f"{model.config.hidden_size}, batches of {data.batch_size} x {data.seq_len}, "
            f"{model.ops.name} on {model.ops.threads()} threads"
        )

    def _tick(self) -> float:
        """`progress`, by the clock as it stands now."""
        self.seconds = self._now() - self._clock
        return self.progress()

    def _now(self) -> float:
        """Seconds by a clock that stands still while kernels are compiled: no limit of time pays for that."""
        return time.perf_counter() - self.model.ops.compile_seconds()

    def gradients(self, step: int, batch: Batch) -> StepGradients:
        """What a step's batch gives: the loss, the flat gradients, their norm, and the state after it."""
        state = self.model.zero_state(self.batches.batch_size) if batch.fresh else self.state
        return self.learner.gradients(step, batch.x, batch.y, state)

    def train_step(self, done: float) -> None:
        """One step, `done` (0 to 1) of the training being over."""
        started = self._now()
        batch = self.batches[self.step]
        found = self.gradients(self.step, batch)
        self._watch.add(self.step, found.loss, found.norm)
        if found.read:
            self._watch.read()
        share = len(batch.x) / self.batches.seq_len  # 1 unless lengths are random
        self._rate = self.learner.learn(self.step, found, done, self._rate_factor * share)
        self.state = found.state
        self.step += 1
        self.tokens += batch.x.size
        self._busy_seconds += self._now() - started
        self._busy_tokens += batch.x.size

    def read_losses(self) -> None:
        """Wait for the steps whose losses are still on the device, and watch them.

        Raises DivergingError, as `train_step` does where nothing is waited for.
        """
        started = self._now()
        self._watch.read()
        self._busy_seconds += self._now() - started

    def _settle(self) -> None:
        """`read_losses`, and where a jump is let be, on to what is due all the same."""
        while self._watch.unread:
            try:
                self.read_losses()
            except JumpError as problem:
                if not self._let_be(problem):
                    raise

    def _log(self, metrics: MetricsLog) -> None:
        """A line of metrics that sums up the steps since the last one."""
        self.read_losses()
        done = self._tick()
        speed = self._busy_tokens / max(self._busy_seconds, 1e-9)
        line = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "loss": sum(self._watch.since) / len(self._watch.since),
            "learning_rate": self._rate,
            "gradient_norm": self._watch.norm,
            "tokens_per_second": round(speed, 1),
        }
        self._watch.since = []
        self._busy_seconds, self._busy_tokens = 0.0, 0
        metrics.write(**line)
        self.reporter.step(line, done)

    # ---- what happens now and then ------------------------------------------------------

    def _validate_and_save(self, metrics: MetricsLog) -> None:
        self.read_losses()
        steady = self._watch.steady()
        if self._busy_tokens:
            self._log(metrics)
        with self._averaged():
            line, best = self._validate(metrics)
            if best:
                self.save("best")
        if steady:
            self.save("last")
        if line is not None:
            self.reporter.validated(line, best)

    def _validate(self, metrics: MetricsLog) -> tuple[dict[str, Any] | None, bool]:
        """The line of metrics, and whether it is the best so far: always where nothing validates."""
        if self.val is None:
            self._validated_at = self.best_step = self.step
            return None, True
        figures = evaluate(self.model, self.val)
        if not math.isfinite(figures.loss):
            raise DivergingError(f"the validation loss is no longer a finite number at step {self.step}")
        self._validated_at = self.step
        best = self.best_val_loss is None or figures.loss < self.best_val_loss
        self._validated(figures.loss, best)
        self._tick()
        line = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 3),
                "val_loss": figures.loss, "val_mean_max_posterior": figures.mean_max_posterior}  # fmt: skip
        metrics.write(**line)
        return line, best

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _validated(self, loss: float, best: bool) -> None:
        """What follows from a validation loss: the best so far, the plateau schedule, the average."""
        training = self.config.training
        if self.average is not None:
            self.average.validated(loss)
        if best:
            self.best_val_loss, self.best_step, self._stale = loss, self.step, 0
            return
        self._stale += 1
        if training.schedule == "plateau" and self._stale % training.plateau == 0:
            self._rate_factor *= training.decay

    def _sample(self) -> None:
        """A sample, once the mean of the largest posterior exceeds the threshold."""
        batch = self.batches[self.step]
        state = self.model.zero_state(self.batches.batch_size) if batch.fresh else self.state
        _, confidence, _ = self.model.loss(batch.x, batch.y, state)
        if confidence <= self.config.training.sample_threshold:
            return
        sampling = SamplingConfig(length=SAMPLE_LENGTH, seed=self.step)
        text = "".join(generate(self.model, self.corpus.tokenizer, "", sampling))
        write_text(self.directory / "samples" / f"step-{self.step:06d}.txt", text)
        self.reporter.sampled(self.step, text)

    def _roll_back(self, problem: DivergingError, metrics: MetricsLog) -> None:
        """Take up the last checkpoint, at a lower learning rate, unless that was done too often."""
        if self._let_be(problem):
            return
        if self.rollbacks >= self.config.training.max_rollbacks:
            raise self._diverged(problem)
        count, factor, from_step = self.rollbacks + 1, SLOWER * self._rate_factor, self.step
        best = self.best_val_loss, self.best_step  # of the checkpoint "best", which may be newer than "last"
        last, _ = checkpoint.load(self.directory / "checkpoints" / "last", self.model.ops)
        self.model.parameters.flat[...] = last.parameters.flat
        self.restore()
        self.rollbacks, self._rate_factor = count, factor
        self.best_val_loss, self.best_step = best
        self._busy_seconds, self._busy_tokens = 0.0, 0
        self.save("last")  # with the new count and rate
        metrics.cut(self.step)
        forget_later(self.directory, self.step)
        self._tick()
        metrics.write(step=self.step, tokens=self.tokens, seconds=round(self.seconds, 3),
                      rolled_back_from=from_step, learning_rate_factor=factor)  # fmt: skip
        self.reporter.notice(
            f"{problem}: back to step {self.step:,}, at {factor:g} of the learning rate "
            f"({count} of {self.config.training.max_rollbacks} times)"
        )

    def _let_be(self, problem: DivergingError) -> bool:
        """Whether training goes on as it is: after a jump, where it went back too often."""
        if not isinstance(problem, JumpError) or self.rollbacks < self.config.training.max_rollbacks:
            return False
        self._watch.let_be()
        self.reporter.notice(f"{problem}: training goes on as it is")
        return True

    def _diverged(self, problem: DivergingError) -> DivergedError:
        kept = f"the last good checkpoint is kept in {self.directory / 'checkpoints'}"
        if self.best_val_loss is not None:
            kept = (
                f"the best checkpoint, of step {self.best_step}, is kept in {self.directory / 'checkpoints'}"
            )
        rate = self._rate_factor * self.config.training.learning_rate
        return DivergedError(f"{problem}: try a --learning-rate below {rate:g}; {kept}")

    # ---- checkpoints --------------------------------------------------------------------

    def _progress_record(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best_val_loss": self.best_val_loss,
            "best_step": self.best_step,
            **self._watch.record,
            "validated_at": self._validated_at,
            "validations_since_best": self._stale,
            "learning_rate_factor": self._rate_factor,
            "rollbacks": self.rollbacks,
            "average": None if self.average is None else self.average.record,
            "text_sha256": self.corpus.sha256,
        }

    def save(self, which: str) -> None:
        """Write a checkpoint; "last" also holds what resuming needs.

        Raises DivergingError, and leaves the old one, where a weight is no longer a finite number.
        """
        self.read_losses()
        if not math.isfinite(self.model.ops.global_norm(self.model.parameters.flat)):
            raise DivergingError(f"the weights are no longer finite numbers at step {self.step}")
        record = self._progress_record()
        card = model_card(self.config, self.corpus, self.model.num_parameters, record)
        training = None
        if which == "last":
            to_numpy = self.model.ops.to_numpy
            training = checkpoint.TrainingState(
                optimizer={name: to_numpy(array) for name, array in self._buffers().items()},
                carried={"state.h": to_numpy(self.state.h), "state.c": to_numpy(self.state.c)},
                progress=record,
            )
            write_text(self.directory / "README.md", run_readme(self.directory, card))
        target = self.directory / "checkpoints" / which
        checkpoint.save(target, self.model, self.corpus.tokenizer, card, training)
        if which == "last":
            self._saved_at = self.step

    def _save_unless_saved(self) -> None:
        """The last checkpoint, unless the validation before has just written it."""
        if self._saved_at != self.step:
            self.save("last")

    def _buffers(self) -> dict[str, Array]:
        """What changes the weights, flat, by name: the optimizer's buffers and the average."""
        return self.optimizer.arrays | ({} if self.average is None else self.average.arrays)

    def restore(self) -> None:
        """Take up the last checkpoint; the model's weights are already those of it.

        Raises CheckpointError where it is damaged, DataError where the text has changed since.
        """
        last = self.directory / "checkpoints" / "last"
        saved = checkpoint.load_training(last, self.model, self._buffers())
        record = saved.progress
        asarray, to_numpy = self.model.ops.asarray, self.model.ops.to_numpy
        try:
            self.step, self.tokens = int(record["step"]), int(record["tokens"])
            self.seconds = float(record["seconds"])
            best = record["best_val_loss"]
            self.best_val_loss = None if best is None else float(best)
            self.best_step = int(record["best_step"])
            self._watch.restore(record)
            self._validated_at = int(record["validated_at"])
            self._stale, self.rollbacks = int(record["validations_since_best"]), int(record["rollbacks"])
            self._rate_factor = float(record["learning_rate_factor"])
            if self.average is not None:
                self.average.restore(record["average"])
            text = record["text_sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{last / 'training.json'} is damaged: {error!r}") from None
        if self.config.model != self.model.config:
            raise CheckpointError(f"{last} is of another model than config.toml describes")
        if text != self.corpus.sha256:
            raise DataError(f"{self.corpus.name} has changed since the run was started: it cannot go on")
        if saved.carried["state.h"].shape != to_numpy(self.state.h).shape:
            raise CheckpointError(f"{last}: the carried state is of another batch size than config.toml's")
        for name, array in self._buffers().items():
            array[...] = asarray(saved.optimizer[name])
        self.state = State(asarray(saved.carried["state.h"]), asarray(saved.carried["state.c"]))
