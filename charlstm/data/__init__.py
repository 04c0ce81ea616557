"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .bpe import BPETokenizer
from .byte_level import ByteTokenizer
from .characters import ASCIITokenizer, CharacterTokenizer
from .corpus import EMBEDDED, Corpus, fit_to, read_text
from .tokenizer import Decoder, Tokenizer, load_tokenizer, make_tokenizer, name_tokens, tokenizer_class
from .words import PretokenizedTokenizer, WordTokenizer

__all__ = [
    "EMBEDDED",
    "ASCIITokenizer", "BPETokenizer", "Batch", "ByteTokenizer", "CharacterTokenizer", "Corpus", "Decoder",
    "PretokenizedTokenizer", "StreamBatches", "Tokenizer", "WordTokenizer", "fit_to",
    "load_tokenizer", "make_tokenizer", "name_tokens", "read_text", "tokenizer_class",
]  # fmt: skip
