"""How well a model predicts a text."""

from .detailed import DetailedEvaluation, joined, measure
from .reading import Evaluation, evaluate
from .segments import Segments

__all__ = ["DetailedEvaluation", "Evaluation", "Segments", "evaluate", "joined", "measure"]
