"""Training that starts from the weights of another run: its vocabulary, its sizes, a new text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import DataConfig, ModelConfig
from ..data import Corpus, Tokenizer, tokenizer_of
from ..errors import DataError, UsageError
from ..model import CIFGModel
from ..run import Run

SHAPE = ("hidden_size", "num_layers", "embedding_size", "tied_embeddings", "dtype")  # of the weights


def model_config(start: Run, config: ModelConfig, asked: Mapping[str, Any]) -> ModelConfig:
    """The run's sizes, with what `config` drops; UsageError where other sizes were asked for."""
    saved = start.model.config
    _only_the_runs(start, saved, {name: asked[name] for name in SHAPE if name in asked})
    return replace(config, **{name: getattr(saved, name) for name in SHAPE})


def data_config(start: Run, config: DataConfig, asked: Mapping[str, Any], extend_vocab: bool) -> DataConfig:
    """The options with the run's kind of tokenizer; UsageError where another one, or another vocabulary
    that is not an extension, was asked for."""
    for name in ("vocab_size", "min_count"):
        if name in asked and not extend_vocab:
            raise UsageError(
                f"{name} goes with extend_vocab: without it the vocabulary is that of {start.directory}"
            )
    saved = replace(config, tokenizer=start.tokenizer.kind, normalize=start.tokenizer.normalize)
    of_tokenizer = ("tokenizer", "normalize")
    _only_the_runs(start, saved, {name: asked[name] for name in of_tokenizer if name in asked})
    return saved


def _only_the_runs(start: Run, saved: Any, asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        if value != getattr(saved, name):
            raise UsageError(
                f"{name} is {getattr(saved, name)} in {start.directory}, whose weights this starts "
                f"from, and cannot be {value}"
            )


def corpus_for(start: Run, data: Corpus | DataConfig, extend_vocab: bool) -> Corpus:
    """The text in the run's vocabulary, new characters or words numbered after the known ones.

    Raises DataError where there are new ones and `extend_vocab` is False, unless they are skipped
    or replaced; and for a fixed vocabulary that cannot be extended.
    """
    known = start.tokenizer
    if extend_vocab:
        known.extended(())
    if isinstance(data, Corpus):
        return _tokenized_alike(start, data, extend_vocab)
    unknown_matter = known.policy(data.on_unknown) == "error" and known.extensible
    if not extend_vocab and not unknown_matter:
        return Corpus.load(data, known)
    new = _new(known, tokenizer_of(data))
    if new and not extend_vocab:
        raise _unknown(start, data.data, new)
    return Corpus.load(data, known.extended(new))


def _tokenized_alike(start: Run, corpus: Corpus, extend_vocab: bool) -> Corpus:
    known, tokenizer = start.tokenizer, corpus.tokenizer
    if tokenizer.hash == known.hash:
        return corpus
    if known.extensible and type(tokenizer) is type(known):
        new = _new(known, tokenizer)
        if new and not extend_vocab:
            raise _unknown(start, corpus.name, new)
        if tokenizer.hash == known.extended(new).hash:
            return corpus
    raise DataError(
        f"{corpus.name} was tokenized with another vocabulary than that of {start.directory}: "
        f"make the corpus with tokenizer=charlstm.load({str(start.directory)!r}).tokenizer"
    )


def _new(known: Tokenizer, tokenizer: Tokenizer) -> list[str]:
    """The tokens that are not known, in their order."""
    vocabulary = set(known.vocabulary)
    return [s for s in tokenizer.vocabulary if s not in vocabulary]


def _unknown(start: Run, name: str, new: list[str]) -> DataError:
    shown = ", ".join(map(repr, new[:5])) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
    return DataError(
        f"{name} has {start.tokenizer.unit}s that {start.directory} does not know: {shown} "
        f"(--extend-vocab learns them)"
    )


def take_weights(model: CIFGModel, start: Run) -> None:
    """Copy the run's weights; those of new tokens stay as they are."""
    for name, array in start.model.parameters.items():
        known = tuple(slice(size) for size in array.shape)
        model.parameters[name][known] = array
