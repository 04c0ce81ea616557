"""The network: one parameter buffer, the input product, the stack of CIFG layers, the head."""

from .network import CIFGModel, Gradients, LanguageModel, SequenceClassifier
from .parameters import ParameterBuffer, Shapes, parameter_shapes
from .posterior import log_posterior, most_probable
from .regression import SequenceRegressor
from .regularization import NO_PENALTIES, Penalties

__all__ = [
    "NO_PENALTIES", "CIFGModel", "Gradients", "LanguageModel", "ParameterBuffer", "Penalties",
    "SequenceClassifier", "SequenceRegressor", "Shapes", "log_posterior",
    "most_probable", "parameter_shapes",
]  # fmt: skip
