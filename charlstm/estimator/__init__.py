"""The network as a scikit-learn estimator: a classifier and a regressor of sequences of feature vectors."""

from __future__ import annotations

from ..errors import UsageError

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise UsageError('the estimators need scikit-learn: pip install "charlstm[sklearn]"') from error

from .classifier import CIFGClassifier
from .regressor import CIFGRegressor

__all__ = ["CIFGClassifier", "CIFGRegressor"]
