"""The regressor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array

from ..errors import UsageError
from ..model import SequenceRegressor
from .base import CIFGEstimator
from .fitting import Targets


class CIFGRegressor(RegressorMixin, CIFGEstimator):  # type: ignore[misc]
    """A stack of CIFG-LSTM layers that gives real numbers for sequences, or for each of their steps.

    X and the parameters are those of `CIFGClassifier`, but for class_weight. y is (n,), or (n, V) for V
    numbers; with emit="every" (n, T), (n, T, V), or a list of (T_i,) or (T_i, V). The loss is half the mean
    square of the errors, the score R². y should be about as large as 1: scale it, for example with
    scikit-learn's `TransformedTargetRegressor`.
    """

    _kind = SequenceRegressor

    def fit(self, X: Any, y: Any, sample_weight: Any | None = None, mask: Any | None = None) -> CIFGRegressor:
        """Learn the numbers y of X; sample_weight and mask as in `CIFGClassifier.fit`."""
        fitted: CIFGRegressor = self._fit(X, y, sample_weight, mask)
        return fitted

    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any | None = None, mask: Any | None = None
    ) -> CIFGRegressor:
        """One epoch over X and y, at a constant learning rate; the optimizer goes on from call to call."""
        fitted: CIFGRegressor = self._partial_fit(X, y, sample_weight, mask, None)
        return fitted

    def _values(self, y: Any, dtype: Any, first: bool, classes: Any | None) -> np.ndarray:
        values: np.ndarray = check_array(y, ensure_2d=False, dtype=dtype, input_name="y")
        if first:
            self._shape_of_one = values.shape[1:]
        elif values.shape[1:] != self._shape_of_one:
            raise UsageError(f"a target was {self._shape_of_one} before, and is {values.shape[1:]} now")
        return values.reshape(len(values), -1)

    def _class_weights(self, values: np.ndarray) -> np.ndarray | float:
        return 1.0

    def _output_size(self) -> int:
        return math.prod(self._shape_of_one)

    def _validation_score(self, outputs: np.ndarray, targets: Targets) -> float:
        return float(r2_score(targets.values, outputs, sample_weight=targets.weights))

    def predict(self, X: Any, mask: Any | None = None) -> Any:
        """The numbers of each sequence, (n,) or (n, V), as y was.

        With emit="every" those of each step: (n, T) or (n, T, V), or a list of (T_i,) or (T_i, V) where X
        is a list or has a mask.
        """
        outputs, data = self._outputs(X, mask)
        return self._told(outputs.reshape(len(outputs), *self._shape_of_one), data)

    def score(self, X: Any, y: Any, sample_weight: Any | None = None, mask: Any | None = None) -> float:
        """R² of the predictions; with emit="every" of those of all steps."""
        outputs, data = self._outputs(X, mask)
        y, weights = self._flat(data, y, sample_weight, mask)
        return float(r2_score(y, outputs, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
