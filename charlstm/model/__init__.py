"""The network: one parameter buffer, the input product, the stack of CIFG layers, the head."""

from .arguments import StepInputs
from .network import CIFGModel, Gradients, LanguageModel
from .parameters import ParameterBuffer, Shapes, parameter_shapes
from .posterior import log_posterior, most_probable
from .regularization import NO_PENALTIES, Penalties
from .sequences import SequenceClassifier, SequenceRegressor

__all__ = [
    "NO_PENALTIES", "CIFGModel", "Gradients", "LanguageModel", "ParameterBuffer", "Penalties",
    "SequenceClassifier", "SequenceRegressor", "Shapes", "StepInputs", "log_posterior",
    "most_probable", "parameter_shapes",
]  # fmt: skip
