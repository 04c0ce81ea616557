"""How well a model predicts a text."""

from .config import EvaluationConfig
from .detailed import measure
from .figures import DetailedEvaluation, figures_of, joined, resampling
from .reading import Evaluation, evaluate
from .segments import Segments

__all__ = [
    "DetailedEvaluation",
    "Evaluation",
    "EvaluationConfig",
    "Segments",
    "evaluate",
    "figures_of",
    "joined",
    "measure",
    "resampling",
]  # fmt: skip
