"""Text: corpora, tokenizers, and the batches that training reads."""

from .batches import Batch, StreamBatches
from .characters import CharacterTokenizer
from .corpus import Corpus
from .overlap import covered_share, repeated_share
from .parts import Part, batches_of, describe, fit_to, limited, overlap, part_of
from .sources import KEPT_STDIN, STDIN, names, read_text, spooled_stdin
from .tokenizer import Decoder, Tokenizer, load_tokenizer, make_tokenizer, name_tokens, tokenizer_class
from .windows import WindowBatches, Windows

__all__ = [
    "KEPT_STDIN", "STDIN",
    "Batch", "CharacterTokenizer", "Corpus", "Decoder", "Part", "StreamBatches", "Tokenizer",
    "WindowBatches", "Windows", "batches_of", "covered_share", "describe", "fit_to", "limited",
    "load_tokenizer", "make_tokenizer", "name_tokens", "names", "overlap", "part_of", "read_text",
    "repeated_share", "spooled_stdin", "tokenizer_class",
]  # fmt: skip
