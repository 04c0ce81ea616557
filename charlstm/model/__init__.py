"""The network: one parameter buffer, the input product, the stack of CIFG layers, the head."""

from .network import CIFGModel, Gradients, LanguageModel, SequenceClassifier
from .parameters import ParameterBuffer, parameter_shapes

__all__ = [
    "CIFGModel", "Gradients", "LanguageModel", "ParameterBuffer", "SequenceClassifier", "parameter_shapes",
]  # fmt: skip
