"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .characters import CharacterTokenizer
from .corpus import EMBEDDED, Corpus, fit_to, read_text
from .tokenizer import Decoder, Tokenizer, load_tokenizer, make_tokenizer, name_tokens, tokenizer_class

__all__ = [
    "EMBEDDED",
    "Batch", "CharacterTokenizer", "Corpus", "Decoder", "StreamBatches", "Tokenizer", "fit_to",
    "load_tokenizer", "make_tokenizer", "name_tokens", "read_text", "tokenizer_class",
]  # fmt: skip
