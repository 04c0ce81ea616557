"""What classifier and regressor have in common: reading X, fitting, predicting."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..backends import MatmulPrecision
from ..config import ModelConfig, TrainingConfig
from ..errors import UsageError
from ..model import CIFGModel, SequenceClassifier, SequenceRegressor
from .fitting import Fitter, Targets
from .sequences import Sequences, is_ragged, rows_and_lengths

CONSTANT = "constant"


class CIFGEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of the estimators; the parameters are described there."""

    _kind: ClassVar[type[SequenceClassifier] | type[SequenceRegressor]]

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        emit: str = "last",
        n_steps: int | None = None,
        optimizer: str = "adam",
        learning_rate: float = 0.01,
        schedule: str = "cosine",
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        batch_size: int = 200,
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: Any = None,
        backend: str = "auto",
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
        verbose: bool = False,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.emit = emit
        self.n_steps = n_steps
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.backend = backend
        self.threads = threads
        self.matmul_precision = matmul_precision
        self.verbose = verbose

    @property
    def model_(self) -> CIFGModel:
        """The fitted network."""
        if "_fitter" not in vars(self):
            raise AttributeError(f"this {type(self).__name__} is not fitted: it has no model_")
        fitter: Fitter = self._fitter
        return fitter.model

    # ---- what the subclasses know -------------------------------------------------------

    @abstractmethod
    def _values(self, y: np.ndarray, dtype: Any, first: bool, classes: Any | None) -> np.ndarray:
        """Targets (n,) or (N,), checked, as the network wants them; sets `classes_` where `first`."""

    @abstractmethod
    def _class_weights(self, values: np.ndarray) -> np.ndarray | float:
        """What each target counts for beside the sample weights."""

    @abstractmethod
    def _output_size(self) -> int: ...

    @abstractmethod
    def _validation_score(self, outputs: np.ndarray, targets: Targets) -> float: ...

    # ---- reading ------------------------------------------------------------------------

    def _sequences(self, X: Any, mask: Any | None, reset: bool) -> Sequences:
        """X as sequences of finite float32 or float64; `reset` sets `n_features_in_`, else checks it."""
        lengths, as_list = None, False
        if mask is not None or is_ragged(X) or _dimensions(X) == 3:
            if self.n_steps is not None:
                raise UsageError("n_steps cuts vectors (n, D) into steps; these sequences are already")
            X, lengths, as_list = rows_and_lengths(X, mask)
        rows = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), order="C")
        if lengths is None and self.n_steps is not None:
            n, D = rows.shape
            if self.n_steps < 1 or D % self.n_steps:
                raise UsageError(f"n_steps={self.n_steps} does not divide the {D} features of X")
            rows, lengths = rows.reshape(n * self.n_steps, -1), np.full(n, self.n_steps)
        return Sequences(rows, np.ones(len(rows), np.int64) if lengths is None else lengths, as_list)

    def _targets(
        self,
        data: Sequences,
        y: Any,
        sample_weight: Any | None,
        mask: Any | None,
        first: bool,
        classes: Any | None,
    ) -> Targets:
        """What is to be learned, checked."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        y, weights = self._flat(data, y, sample_weight, mask)
        values = self._values(y, data.rows.dtype, first, classes)
        every = self.emit == "every"
        if not every:
            check_consistent_length(data.lengths, values)
        weights = np.ones(len(values)) if weights is None else weights
        return Targets(values, weights * self._class_weights(values), every)

    def _flat(
        self, data: Sequences, y: Any, sample_weight: Any | None, mask: Any | None
    ) -> tuple[Any, np.ndarray | None]:
        """Targets and their weights of each sequence, or in one row those of each step."""
        if self.emit == "every":
            y = data.per_step(y if mask is None else _left(y, mask), "y")
        return y, None if sample_weight is None else self._sample_weights(data, sample_weight, mask)

    def _sample_weights(self, data: Sequences, weights: Any, mask: Any | None) -> np.ndarray:
        """Of each sequence (n,), or where each step is told of each step (N,)."""
        if self.emit == "every":
            if np.ndim(next(iter(weights))) == 0:  # of each sequence
                weights = np.repeat(np.asarray(weights), data.lengths)
            else:
                weights = data.per_step(weights if mask is None else _left(weights, mask), "sample_weight")
        checked = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        expected = (len(data.rows) if self.emit == "every" else len(data),)
        if checked.shape != expected:
            raise ValueError(f"sample_weight must be {expected}, not {checked.shape}")
        if checked.min() < 0:
            raise ValueError("sample weights must not be negative")
        return np.asarray(checked)

    # ---- fitting ------------------------------------------------------------------------

    def _configs(
        self, dtype: np.dtype[Any], seed: int, incremental: bool
    ) -> tuple[ModelConfig, TrainingConfig]:
        """The parameters as the rest of charlstm knows them; raises UsageError for what cannot be."""
        if self.schedule == "plateau":
            raise UsageError("schedule='plateau' is of runs with validations: choose another one")
        for name in ("batch_size", "max_iter", "n_iter_no_change"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        schedule: Any = CONSTANT if incremental else self.schedule
        plain = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params(deep=False).items()
        }
        model = ModelConfig(plain["hidden_size"], plain["num_layers"], None, plain["dropout"], dtype.name)  # type: ignore[arg-type]
        training = TrainingConfig(
            optimizer=plain["optimizer"],
            learning_rate=plain["learning_rate"],
            schedule=schedule,
            weight_decay=plain["weight_decay"],
            clip_norm=plain["clip_norm"],
            warmup_steps=0,
            seed=seed,
        )
        return model, training

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, mask: Any, classes: Any, incremental: bool
    ) -> tuple[Sequences, Targets, int]:
        """What is to be learned, and a seed; `_fitter` is ready for it."""
        first = "_fitter" not in vars(self) or not (self.warm_start or incremental)
        data = self._sequences(X, mask, reset=first)
        targets = self._targets(data, y, sample_weight, mask, first, classes)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        model, training = self._configs(data.rows.dtype, seed, incremental)
        sizes = data.rows.shape[1], self._output_size()
        if first:
            computing = self.backend, self.threads, self.matmul_precision
            self._fitter = Fitter(self._kind, sizes, model, self.emit, computing, seed)
            self.loss_curve_: list[float] = []
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        else:
            model = dataclasses.replace(model, dtype=self.model_.config.dtype)
            if not self._fitter.fits(sizes, model, self.emit):
                raise UsageError(
                    "X, y and the parameters do not fit the network so far: fit without warm_start to begin anew"
                )
        if first or not incremental:
            self._fitter.begin(training)
        return data, targets, seed

    def _fit(self, X: Any, y: Any, sample_weight: Any | None, mask: Any | None) -> Any:
        data, targets, seed = self._prepare(X, y, sample_weight, mask, None, incremental=False)
        held_out: tuple[Sequences, Targets] | None = None
        kept = targets.counting(data)
        if self.early_stopping:
            stratify = None if targets.every or self._kind is SequenceRegressor else targets.values[kept]
            kept, held = train_test_split(
                kept, test_size=self.validation_fraction, random_state=seed, stratify=stratify
            )
            held_out = data.take(held), targets.take(data, held)
        if len(kept) < len(data):
            data, targets = data.take(kept), targets.take(data, kept)
        self._train(data, targets, held_out)
        return self

    def _train(self, data: Sequences, targets: Targets, held_out: tuple[Sequences, Targets] | None) -> None:
        """Epoch after epoch, until the loss, or the validation score, gets no better."""
        best, best_weights, stale = np.inf, None, 0
        for epoch in range(self.max_iter):
            done, share = epoch / self.max_iter, 1 / self.max_iter
            loss = self._fitter.epoch(data, targets, self.batch_size, done, share)
            self.n_iter_ = epoch + 1
            self.loss_ = loss
            self.loss_curve_.append(loss)
            measure, told = loss, f"loss {loss:.6f}"
            if held_out is not None:
                score = self._validation_score(self._fitter.outputs(held_out[0]), held_out[1])
                self.validation_scores_ = [*(self.validation_scores_ or []), score]
                measure, told = -score, f"{told}, validation score {score:.4f}"
            if self.verbose:
                print(f"epoch {self.n_iter_}: {told}", file=sys.stderr)
            stale = 0 if measure < best - self.tol else stale + 1
            if measure < best:
                best = measure
                best_weights = None if held_out is None else self._fitter.weights()
            if stale >= self.n_iter_no_change:
                break
        else:
            if self.schedule == CONSTANT:
                warnings.warn(
                    f"the loss was still falling after max_iter={self.max_iter} epochs",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        self.best_loss_ = None if held_out is not None else best
        self.best_validation_score_ = None if held_out is None else -best
        if best_weights is not None:
            self._fitter.set_weights(best_weights)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, mask: Any, classes: Any | None) -> Any:
        """One epoch, at the learning rate as it stands."""
        if self.early_stopping:
            raise UsageError("partial_fit sees no whole data set to hold a part of it out: no early_stopping")
        data, targets, _ = self._prepare(X, y, sample_weight, mask, classes, incremental=True)
        kept = targets.counting(data)
        if len(kept) < len(data):
            data, targets = data.take(kept), targets.take(data, kept)
        self.loss_ = self._fitter.epoch(data, targets, self.batch_size)
        self.loss_curve_.append(self.loss_)
        self.best_loss_, self.best_validation_score_ = min(self.loss_curve_), None
        self.n_iter_ = 1
        return self

    # ---- predicting ---------------------------------------------------------------------

    def _outputs(self, X: Any, mask: Any | None) -> tuple[np.ndarray, Sequences]:
        """The network's outputs (n, V), or (N, V) of each step, and what they are of."""
        check_is_fitted(self)
        data = self._sequences(X, mask, reset=False)
        return self._fitter.outputs(data), data

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _told(self, rows: np.ndarray, data: Sequences) -> Any:
        """Rows of a network that emits at the last step as they are, others in the form of X."""
        return data.told(rows) if self.model_.emit == "every" else rows


def _dimensions(X: Any) -> int:
    """Of arrays and nested lists; 0 for what only scikit-learn knows how to read."""
    return np.ndim(X) if isinstance(X, (list, tuple)) else getattr(X, "ndim", 0)


def _left(values: Any, mask: Any) -> list[np.ndarray]:
    """What a mask (n, T) leaves of values (n, T, ...), sequence by sequence."""
    values, mask = np.asarray(values), np.asarray(mask)
    if values.shape[:2] != mask.shape:
        raise ValueError(
            f"what is given for each time step must be {mask.shape}, as the mask, not {values.shape}"
        )
    return [row[kept] for row, kept in zip(values, mask, strict=True)]
