"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .corpus import EMBEDDED, Corpus, fit_to, read_text
from .lengths import RandomLengthBatches, batches_for
from .tokenizer import CharacterTokenizer, OnUnknown, name_characters

__all__ = [
    "EMBEDDED",
    "Batch", "CharacterTokenizer", "Corpus", "OnUnknown", "RandomLengthBatches", "StreamBatches",
    "batches_for", "fit_to", "name_characters", "read_text",
]  # fmt: skip
