"""CIFG-LSTM language models on a swappable array backend: NumPy, Numba or CuPy.

    import charlstm

    run = charlstm.train("my.txt")
    print(run.generate("Once", length=200))

Nothing heavy is imported before it is used: neither Numba nor CuPy belongs to `import charlstm`.
"""

from __future__ import annotations

import os.path
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends import Ops, get_ops
    from .checkpoint import load_model
    from .cifg import State
    from .comparison import Comparison, compare
    from .config import Config, DataConfig, ModelConfig, TrainingConfig
    from .data import (
        ASCIITokenizer,
        BPETokenizer,
        ByteTokenizer,
        CharacterTokenizer,
        Corpus,
        PretokenizedTokenizer,
        Tokenizer,
        WordTokenizer,
        load_tokenizer,
        make_tokenizer,
    )
    from .errors import (
        BackendError,
        CharLSTMError,
        CheckpointError,
        DataError,
        DeviceError,
        DivergedError,
        UsageError,
    )
    from .estimator import CIFGClassifier, CIFGRegressor
    from .evaluation import DetailedEvaluation, Evaluation, EvaluationConfig
    from .generation import Completion
    from .model import CIFGModel, LanguageModel, Penalties, SequenceClassifier, SequenceRegressor
    from .pretrained import save_model
    from .run import Run, load
    from .sampling import SamplingConfig
    from .training import resume, train

_WHERE = {
    "backends": ("Ops", "get_ops"),
    "checkpoint": ("load_model",),
    "cifg": ("State",),
    "comparison": ("Comparison", "compare"),
    "config": ("Config", "DataConfig", "ModelConfig", "TrainingConfig"),
    "data": (
        "ASCIITokenizer", "BPETokenizer", "ByteTokenizer", "CharacterTokenizer", "Corpus",
        "PretokenizedTokenizer", "Tokenizer", "WordTokenizer", "load_tokenizer", "make_tokenizer",
    ),
    "errors": (
        "BackendError", "CharLSTMError", "CheckpointError", "DataError", "DeviceError", "DivergedError", "UsageError",
    ),
    "estimator": ("CIFGClassifier", "CIFGRegressor"),
    "evaluation": ("DetailedEvaluation", "Evaluation", "EvaluationConfig"),
    "generation": ("Completion",),
    "model": ("CIFGModel", "LanguageModel", "Penalties", "SequenceClassifier", "SequenceRegressor"),
    "pretrained": ("save_model",),
    "run": ("Run", "load"),
    "sampling": ("SamplingConfig",),
    "training": ("resume", "train"),
}  # fmt: skip
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

_here = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_here, "kernels")):
    # imported from a checkout, where the folder of charlstm.kernels lies beside that of charlstm
    __path__.append(os.path.dirname(_here))

__version__ = "0.1.0"
__all__ = [
    "ASCIITokenizer", "BPETokenizer", "BackendError", "ByteTokenizer", "CIFGClassifier", "CIFGModel",
    "CIFGRegressor", "CharLSTMError", "CharacterTokenizer", "CheckpointError", "Comparison", "Completion",
    "Config", "Corpus", "DataConfig", "DataError", "DetailedEvaluation", "DeviceError", "DivergedError",
    "Evaluation", "EvaluationConfig", "LanguageModel", "ModelConfig", "Ops", "Penalties", "PretokenizedTokenizer",
    "Run", "SamplingConfig", "SequenceClassifier", "SequenceRegressor", "State", "Tokenizer", "TrainingConfig",
    "UsageError", "WordTokenizer", "__version__", "compare", "get_ops", "load", "load_model",
    "load_tokenizer", "make_tokenizer", "resume", "save_model", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
