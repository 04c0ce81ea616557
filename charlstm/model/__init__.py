"""The network: one parameter buffer, the input product, the stack of CIFG layers, the head."""

from .network import CIFGModel, Gradients, LanguageModel, SequenceClassifier
from .parameters import ParameterBuffer, Shapes, parameter_shapes

__all__ = [
    "CIFGModel", "Gradients", "LanguageModel", "ParameterBuffer", "SequenceClassifier", "Shapes",
    "parameter_shapes",
]  # fmt: skip
