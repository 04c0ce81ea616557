"""Training that starts from the weights of another run: its vocabulary, its sizes, a new text."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import replace

from ..config import DataConfig, ModelConfig
from ..data import CharacterTokenizer, Corpus, name_characters
from ..errors import DataError, UsageError
from ..model import CIFGModel
from ..run import Run


def model_config(start: Run, asked: ModelConfig) -> ModelConfig:
    """The run's sizes; dropout is that asked for, unless it is the default.

    Raises UsageError where other sizes were asked for.
    """
    saved, default = start.model.config, ModelConfig()
    for field in dataclasses.fields(ModelConfig):
        value = getattr(asked, field.name)
        if field.name != "dropout" and value not in (
            getattr(default, field.name),
            getattr(saved, field.name),
        ):
            raise UsageError(
                f"{field.name} is {getattr(saved, field.name)} in {start.directory}, whose weights this starts "
                f"from, and cannot be {value}"
            )
    return replace(saved, dropout=asked.dropout) if asked.dropout != default.dropout else saved


def corpus_for(start: Run, data: Corpus | DataConfig, extend_vocab: bool) -> Corpus:
    """The text in the run's vocabulary, new characters numbered after the known ones.

    Raises DataError where there are new characters and `extend_vocab` is False.
    """
    if isinstance(data, Corpus):
        if data.tokenizer.vocabulary[: len(start.tokenizer)] != start.tokenizer.vocabulary:
            raise DataError(
                f"{data.name} was tokenized with another vocabulary than that of {start.directory}: "
                f"make the corpus with tokenizer=charlstm.load({str(start.directory)!r}).tokenizer"
            )
        corpus = data
    else:
        corpus = Corpus.load(data, start.tokenizer, "skip")
        if corpus.unknown and extend_vocab:
            vocabulary = [*start.tokenizer.vocabulary, *sorted(corpus.unknown)]
            corpus = Corpus.load(data, CharacterTokenizer(vocabulary))
    new = len(corpus.tokenizer) - len(start.tokenizer)
    if corpus.unknown or (new and not extend_vocab):
        counts = corpus.unknown or Counter(corpus.tokenizer.vocabulary[-new:])
        raise DataError(
            f"{corpus.name} has characters that {start.directory} does not know: {name_characters(counts)} "
            f"(--extend-vocab learns them)"
        )
    return corpus


def take_weights(model: CIFGModel, start: Run) -> None:
    """Copy the run's weights; those of new characters stay as they are."""
    for name, array in start.model.parameters.items():
        known = tuple(slice(size) for size in array.shape)
        model.parameters[name][known] = array
