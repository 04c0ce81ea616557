"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .bpe import BPETokenizer
from .byte_level import ByteTokenizer
from .characters import ASCIITokenizer, CharacterTokenizer
from .corpus import Corpus, tokenizer_of
from .leakage import covered_share, repeated_share
from .lengths import RandomLengthBatches
from .parts import Part, batches_of, describe, fit_to, limited, overlap, part_of, predicted
from .sources import KEPT_STDIN, STDIN, names, read_beginning, read_text, spooled_stdin
from .tokenizer import Decoder, Tokenizer, load_tokenizer, make_tokenizer, name_tokens, tokenizer_class
from .windows import WindowBatches, Windows
from .words import PretokenizedTokenizer, WordTokenizer

__all__ = [
    "KEPT_STDIN", "STDIN",
    "ASCIITokenizer", "BPETokenizer", "Batch", "ByteTokenizer", "CharacterTokenizer", "Corpus", "Decoder",
    "Part", "PretokenizedTokenizer", "RandomLengthBatches", "StreamBatches", "Tokenizer",
    "WindowBatches", "Windows", "WordTokenizer", "batches_of", "covered_share", "describe", "fit_to", "limited",
    "load_tokenizer", "make_tokenizer", "name_tokens", "names", "overlap", "part_of", "predicted", "read_beginning",
    "read_text", "repeated_share", "spooled_stdin", "tokenizer_class", "tokenizer_of",
]  # fmt: skip
