"""Training that starts from the weights of another run: its vocabulary, its sizes, a new text."""

from __future__ import annotations

from dataclasses import replace

from ..config import DataConfig, ModelConfig
from ..data import CharacterTokenizer, Corpus
from ..errors import DataError, UsageError
from ..model import CIFGModel
from ..run import Run

SHAPE = ("hidden_size", "num_layers", "embedding_size", "tied_embeddings", "dtype")  # of the weights


def model_config(start: Run, asked: ModelConfig) -> ModelConfig:
    """The run's sizes, with the dropouts asked for; UsageError where other sizes were asked for.

    A size that is the default counts as not asked for.
    """
    saved, default = start.model.config, ModelConfig()
    for name in SHAPE:
        value, kept = getattr(asked, name), getattr(saved, name)
        if value not in (getattr(default, name), kept):
            raise UsageError(
                f"{name} is {kept} in {start.directory}, whose weights this starts from, and cannot be {value}"
            )
    return replace(asked, **{name: getattr(saved, name) for name in SHAPE})


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
