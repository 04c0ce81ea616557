"""Training that starts from the weights of another run: its vocabulary, its sizes, a new text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import DataConfig, ModelConfig
from ..data import CharacterTokenizer, Corpus
from ..errors import DataError, UsageError
from ..model import CIFGModel
from ..run import Run


def model_config(start: Run, config: ModelConfig, asked: Mapping[str, Any]) -> ModelConfig:
    """The run's sizes, with the dropout of `config`; UsageError where other sizes were asked for."""
    saved = start.model.config
    for name, value in asked.items():
        if name != "dropout" and value != getattr(saved, name):
            raise UsageError(
                f"{name} is {getattr(saved, name)} in {start.directory}, whose weights this starts "
                f"from, and cannot be {value}"
            )
    return replace(saved, dropout=config.dropout)


def corpus_for(start: Run, data: Corpus | DataConfig, extend_vocab: bool) -> Corpus:
    """The text in the run's vocabulary, new characters numbered after the known ones.

    Raises DataError where there are new characters and `extend_vocab` is False.
    """
    known = start.tokenizer.vocabulary
    corpus = data if isinstance(data, Corpus) else Corpus.load(data)
    vocabulary = corpus.tokenizer.vocabulary
    new = [s for s in vocabulary if s not in known]
    if new and not extend_vocab:
        shown = ", ".join(map(repr, new[:5])) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
        raise DataError(
            f"{corpus.name} has characters that {start.directory} does not know: {shown} "
            f"(--extend-vocab learns them)"
        )
    if not isinstance(data, Corpus):
        return Corpus.load(data, CharacterTokenizer([*known, *new]))
    if vocabulary[: len(known)] != known:
        raise DataError(
            f"{corpus.name} was tokenized with another vocabulary than that of {start.directory}: "
            f"make the corpus with tokenizer=charlstm.load({str(start.directory)!r}).tokenizer"
        )
    return corpus


def take_weights(model: CIFGModel, start: Run) -> None:
    """Copy the run's weights; those of new characters stay as they are."""
    for name, array in start.model.parameters.items():
        known = tuple(slice(size) for size in array.shape)
        model.parameters[name][known] = array
