"""The classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels

from ..backends import MatmulPrecision
from ..errors import UsageError
from ..model import SequenceClassifier
from .base import CIFGEstimator
from .fitting import Targets


class CIFGClassifier(ClassifierMixin, CIFGEstimator):  # type: ignore[misc]
    """A stack of CIFG-LSTM layers that classifies sequences of feature vectors, or each of their steps.

    It keeps scikit-learn's conventions and works in pipelines and searches. X is one of

    - (n, D): one vector for each sample, a sequence of one step; with `n_steps` its features are read as
      that many steps, one after another, of D / n_steps features each
    - (n, T, D): sequences; with a `mask` (n, T) of bool only the steps that are True, in order
    - a list of n arrays (T_i, D): sequences of different lengths

    The network computes in X's own precision: float32 is the faster, everything but float32 becomes float64.

    hidden_size, num_layers   units of a layer, layers on top of each other
    dropout       share of units dropped between layers while training; does nothing with one layer
    emit          "last": one class for each sequence, at its own last step, y (n,). "every": one for each
                  time step, y (n, T) or a list of (T_i,)
    n_steps       see above
    optimizer     adam, adamw, sgd, adagrad or rmsprop
    learning_rate, schedule   step size, and what it does over max_iter epochs: cosine and exponential fall to a
                  hundredth, one-cycle rises first, step halves it every 1,000 steps, constant
    weight_decay, clip_norm   as in `TrainingConfig`
    batch_size    sequences in a training step, all where there are fewer
    max_iter      epochs at most
    tol, n_iter_no_change     training ends where the loss, or the validation score, has not got better by
                  more than tol for so many epochs
    early_stopping, validation_fraction   hold out this share of the sequences, stratified where each has a
                  class, and keep the weights with which their score was best
    class_weight  what the classes count for: a mapping, or "balanced"; None: all the same
    warm_start    fit goes on with the weights of the last fit, with a new optimizer
    random_state  of the weights, the order of the sequences, dropout and what is held out
    backend, threads, matmul_precision   as everywhere in charlstm
    verbose       tell of each epoch on stderr

    Fitted: `classes_`, `n_features_in_` (D as X has it), `model_` (a `SequenceClassifier`), `n_iter_`,
    `loss_`, `loss_curve_` (mean loss in nats, epoch by epoch), `best_loss_`, and with early stopping
    `validation_scores_` and `best_validation_score_`. Errors are ValueErrors (`UsageError`); DivergedError
    where the loss is no longer a number.
    """

    _kind = SequenceClassifier

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
        class_weight: Mapping[Any, float] | str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        backend: str = "auto",
        threads: int | None = None,
        matmul_precision: MatmulPrecision = "highest",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden_size, num_layers, dropout=dropout, emit=emit, n_steps=n_steps, optimizer=optimizer,
            learning_rate=learning_rate, schedule=schedule, weight_decay=weight_decay, clip_norm=clip_norm,
            batch_size=batch_size, max_iter=max_iter, tol=tol, n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping, validation_fraction=validation_fraction, warm_start=warm_start,
            random_state=random_state, backend=backend, threads=threads, matmul_precision=matmul_precision,
            verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    # ---- fitting ------------------------------------------------------------------------

    def fit(
        self, X: Any, y: Any, sample_weight: Any | None = None, mask: Any | None = None
    ) -> CIFGClassifier:
        """Learn the classes y of X.

        sample_weight  (n,), or with emit="every" of each step as y; sequences of weight 0 are left out
        mask           (n, T) of bool: which steps of an X (n, T, D) count
        """
        fitted: CIFGClassifier = self._fit(X, y, sample_weight, mask)
        return fitted

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any | None = None,
        sample_weight: Any | None = None,
        mask: Any | None = None,
    ) -> CIFGClassifier:
        """One epoch over X and y, at a constant learning rate; the optimizer goes on from call to call.

        classes  all classes there will be; the first call needs them, unless its y holds them all
        """
        if self.class_weight == "balanced":
            raise UsageError(
                "class_weight='balanced' needs all data at once: give partial_fit weights by class"
            )
        fitted: CIFGClassifier = self._partial_fit(X, y, sample_weight, mask, classes)
        return fitted

    def _values(self, y: Any, dtype: Any, first: bool, classes: Any | None) -> np.ndarray:
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        if first:
            self.classes_ = unique_labels(labels if classes is None else classes)
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise UsageError(f"classes={classes!r} are not those of the first call, {self.classes_!r}")
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise UsageError(f"y holds classes that are not among those so far: {unknown!r}")
        numbers: np.ndarray = np.searchsorted(self.classes_, labels)
        return numbers

    def _class_weights(self, values: np.ndarray) -> np.ndarray | float:
        if self.class_weight is None:
            return 1.0
        return np.asarray(compute_sample_weight(self.class_weight, self.classes_[values]))

    def _output_size(self) -> int:
        return len(self.classes_)

    def _validation_score(self, outputs: np.ndarray, targets: Targets) -> float:
        return float(accuracy_score(targets.values, outputs.argmax(axis=1), sample_weight=targets.weights))

    # ---- predicting ---------------------------------------------------------------------

    def predict(self, X: Any, mask: Any | None = None) -> Any:
        """The most probable class of each sequence, (n,).

        With emit="every" that of each step: (n, T), or a list of (T_i,) where X is a list or has a mask.
        """
        outputs, data = self._outputs(X, mask)
        return self._told(self.classes_[outputs.argmax(axis=1)], data)

    def predict_log_proba(self, X: Any, mask: Any | None = None) -> Any:
        """The logarithm of the posterior, in the form of `predict_proba`."""
        outputs, data = self._outputs(X, mask)
        return self._told(log_softmax(outputs, axis=1), data)

    def predict_proba(self, X: Any, mask: Any | None = None) -> Any:
        """The posterior of the classes in the order of `classes_`: (n, classes).

        With emit="every" that of each step: (n, T, classes), or a list of (T_i, classes) where X is a
        list or has a mask.
        """
        outputs, data = self._outputs(X, mask)
        return self._told(np.exp(log_softmax(outputs, axis=1)), data)

    def score(self, X: Any, y: Any, sample_weight: Any | None = None, mask: Any | None = None) -> float:
        """The accuracy: the share of sequences, or with emit="every" of steps, whose class is right."""
        outputs, data = self._outputs(X, mask)
        y, weights = self._flat(data, y, sample_weight, mask)
        return float(accuracy_score(y, self.classes_[outputs.argmax(axis=1)], sample_weight=weights))
