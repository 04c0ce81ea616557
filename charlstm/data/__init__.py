"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .corpus import Corpus, fit_to, read_corpus, read_text
from .tokenizer import CharacterTokenizer, OnUnknown, name_characters

__all__ = [
    "Batch", "CharacterTokenizer", "Corpus", "OnUnknown", "StreamBatches", "fit_to", "name_characters",
    "read_corpus", "read_text",
]  # fmt: skip
