"""How fast text becomes tokens, on one core: MB of UTF-8 a second in `extra_info`.

    CHARLSTM_TINYSHAKESPEARE=tinyshakespeare.txt pytest benchmarks/test_data_speed.py --benchmark-only

Characters are measured on 100 MB, the text repeated, and on as much text in several scripts; beside them
the loop in Python that most programs for character models have, on 5 MB. The other kinds read 10 MB.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from charlstm import CharacterTokenizer, DataConfig, make_tokenizer

CORPUS = "CHARLSTM_TINYSHAKESPEARE"
MIXED = "Съешь ещё этих мягких булок. 天地玄黃 宇宙洪荒 Über naïve 😀 and plain English words as well.\n"
MB = 1_000_000


def text_of(script: str, size: int) -> str:
    if script == "mixed":
        return MIXED * (size // len(MIXED.encode()))
    if CORPUS not in os.environ:
        pytest.skip(f"{CORPUS} does not name the text")
    with open(os.environ[CORPUS], encoding="utf-8", newline="") as file:
        text = file.read()
    return text * (size // len(text)) + text[: size % len(text)]


def record(benchmark: Any, text: str) -> None:
    megabytes = len(text.encode()) / MB
    benchmark.extra_info["MB_per_second"] = round(megabytes / benchmark.stats.stats.median, 1)


@pytest.mark.parametrize("script", ["ascii", "mixed"])
def test_vocabulary_of_characters(benchmark: Any, script: str) -> None:
    text = text_of(script, 100 * MB)
    benchmark.pedantic(CharacterTokenizer.from_text, (text,), rounds=5, warmup_rounds=1)
    record(benchmark, text)


@pytest.mark.parametrize("script", ["ascii", "mixed"])
def test_encode_characters(benchmark: Any, script: str) -> None:
    text = text_of(script, 100 * MB)
    tokenizer = CharacterTokenizer.from_text(text)
    benchmark.pedantic(tokenizer.encode, (text,), rounds=5, warmup_rounds=1)
    record(benchmark, text)


@pytest.mark.parametrize("script", ["ascii", "mixed"])
def test_encode_characters_by_a_loop(benchmark: Any, script: str) -> None:
    text = text_of(script, 5 * MB)
    of = {s: k for k, s in enumerate(sorted(set(text)))}
    benchmark.pedantic(lambda: [of[s] for s in text], rounds=5, warmup_rounds=1)
    record(benchmark, text)


@pytest.mark.parametrize("kind", ["bytes", "words", "pretokenized", "bpe"])
def test_encode(benchmark: Any, kind: Any) -> None:
    text = text_of("ascii", 10 * MB)
    tokenizer = make_tokenizer(DataConfig(tokenizer=kind), [text[:MB]])
    benchmark.pedantic(tokenizer.encode, (text,), rounds=3, warmup_rounds=1)
    record(benchmark, text)
