"""Large texts: encoded once into a file of the cache, mapped into memory, made again where damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import charlstm
from charlstm import Corpus, DataConfig, DataError
from charlstm.data import CharacterTokenizer, encoded, sources

TEXT = "".join(f"line {n} of a text that is large for its age\n" for n in range(300))


@pytest.fixture(autouse=True)
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What counts as large, in a cache of its own."""
    monkeypatch.setattr(encoded, "IN_MEMORY", 5000)
    monkeypatch.setattr(sources, "CHUNK", 1000)
    monkeypatch.setenv("CHARLSTM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were read from, each time that one was beyond its first chunk."""
    read: list[str] = []
    chunks = sources.TextFiles.chunks

    def counted(self: sources.TextFiles) -> Iterable[str]:
        for number, chunk in enumerate(chunks(self)):
            if number == 1:
                read.append(self.name)
            yield chunk

    monkeypatch.setattr(sources.TextFiles, "chunks", counted)
    return read


def mapped(corpus: Corpus) -> bool:
    array = corpus.train
    while isinstance(array.base, np.ndarray):
        array = array.base
        if isinstance(array, np.memmap):
            return True
    return False


def entry(cache: Path) -> Path:
    (found,) = (cache / "encoded").iterdir()
    return found


def test_a_large_text_is_encoded_once(large: Path, readings: list[str], small_limits: Path) -> None:
    corpus, expected = Corpus.load(DataConfig(str(large))), Corpus.from_text(TEXT)
    assert mapped(corpus)
    assert not mapped(expected)
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(corpus, part), getattr(expected, part))
    assert corpus.train.dtype == np.uint8
    assert corpus.sha256 == expected.sha256
    assert corpus.tokenizer.hash == expected.tokenizer.hash
    with pytest.raises(ValueError, match="read-only"):
        corpus.train[0] = 1
    assert len(readings) == 2  # for the vocabulary, and for the tokens
    again = Corpus.load(DataConfig(str(large), val_fraction=0.3, batch_size=2))
    assert len(readings) == 2
    assert len(again.val) == pytest.approx(0.3 * len(TEXT), abs=1)
    # with the tokenizer given, as on resuming, whatever is to be done with what is unknown
    Corpus.load(DataConfig(str(large)), corpus.tokenizer, "skip")
    assert len(readings) == 2
    assert sorted(p.name for p in entry(small_limits).iterdir()) == ["text.json", "tokens.bin"]


def test_small_texts_leave_nothing_behind(tmp_path: Path, small_limits: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text(TEXT[:4000])
    assert not mapped(Corpus.load(DataConfig(str(path))))
    assert not small_limits.exists()


def test_wider_tokens(tmp_path: Path) -> None:
    path = tmp_path / "wide.txt"
    text = "".join(map(chr, range(0x4E00, 0x5000))) * 10
    path.write_text(text)
    corpus = Corpus.load(DataConfig(str(path)))
    assert mapped(corpus)
    assert corpus.train.dtype == np.uint16
    assert corpus.tokenizer.decode(np.concatenate((corpus.train, corpus.val))) == text


def test_another_text_encoding_or_tokenizer_is_encoded_anew(large: Path, readings: list[str]) -> None:
    Corpus.load(DataConfig(str(large)))
    assert len(readings) == 2
    Corpus.load(DataConfig(str(large), encoding="latin-1"))
    assert len(readings) == 4
    Corpus.load(DataConfig(str(large)), CharacterTokenizer(sorted({*TEXT, "z"})))
    assert len(readings) == 5
    large.write_text(TEXT.replace("age", "Age"))
    assert "A" in Corpus.load(DataConfig(str(large))).tokenizer.vocabulary
    assert len(readings) == 7


def test_unknown_characters_are_counted(large: Path, readings: list[str]) -> None:
    tokenizer = CharacterTokenizer(sorted(set(TEXT) - {"x"}))
    with pytest.raises(DataError, match="not in the vocabulary: 'x'"):
        Corpus.load(DataConfig(str(large)), tokenizer)
    for _ in range(2):
        corpus = Corpus.load(DataConfig(str(large)), tokenizer, "skip")
        assert corpus.unknown == {"x": 300}
        assert len(corpus.train) + len(corpus.val) == len(TEXT) - 300
    assert len(readings) == 1
    replaced = Corpus.load(DataConfig(str(large)), tokenizer, "replace")
    assert len(replaced.train) + len(replaced.val) == len(TEXT)


def test_words_that_are_unknown_anyway_can_still_be_skipped(large: Path) -> None:
    config = DataConfig(str(large), tokenizer="words", min_count=2)  # numbers above 9 occur once
    tokenizer = Corpus.load(config).tokenizer
    lengths = {policy: len(Corpus.load(config, tokenizer, policy).train) for policy in ("error", "skip")}  # type: ignore[arg-type]
    assert lengths["skip"] < lengths["error"]


def cut_off(folder: Path) -> None:
    with open(folder / "tokens.bin", "r+b") as file:
        file.truncate(100)


def edited(name: str, value: object) -> object:
    def edit(folder: Path) -> None:
        record = json.loads((folder / "text.json").read_text())
        (folder / "text.json").write_text(json.dumps(record | {name: value}))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        edited("key", "another"),
        edited("dtype", "uint16"),
        edited("tokenizer_hash", "another"),
        lambda folder: (folder / "text.json").write_text("{"),
        lambda folder: (folder / "text.json").write_text("[]"),
        lambda folder: (folder / "text.json").unlink(),
        lambda folder: (folder / "tokens.bin").unlink(),
        lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    ],
)
def test_a_damaged_file_is_made_again(
    large: Path, small_limits: Path, readings: list[str], caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    expected = np.array(Corpus.load(DataConfig(str(large))).train)
    damage(entry(small_limits))  # type: ignore[operator]
    assert np.array_equal(Corpus.load(DataConfig(str(large))).train, expected)
    assert "is damaged and made again" in caplog.text
    assert len(readings) == 3
    Corpus.load(DataConfig(str(large)))
    assert len(readings) == 3


def test_a_damaged_tokenizer_is_made_again(
    large: Path, small_limits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Corpus.load(DataConfig(str(large))).tokenizer.hash
    (path,) = (small_limits / "tokenizers").iterdir()
    path.write_text(path.read_text()[:50])
    assert Corpus.load(DataConfig(str(large))).tokenizer.hash == expected
    assert "is damaged and made again" in caplog.text


def test_a_cache_that_cannot_be_made(
    large: Path, small_limits: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_limits.write_text("a file where the folder should be")
    corpus = Corpus.load(DataConfig(str(large)))
    assert not mapped(corpus)
    assert np.array_equal(corpus.train, Corpus.from_text(TEXT).train)
    assert "it is held in memory instead (CHARLSTM_CACHE=FOLDER names another)" in caplog.text


def test_a_disk_that_fills_up(
    large: Path, small_limits: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    corpus = Corpus.load(DataConfig(str(large)))
    assert not mapped(corpus)
    assert corpus.sha256 == Corpus.from_text(TEXT).sha256
    assert "No space left on device" in caplog.text
    assert list((small_limits / "encoded").iterdir()) == []


def test_text_that_ends_badly_leaves_nothing_in_the_cache(large: Path, small_limits: Path) -> None:
    large.write_bytes(TEXT.encode() + b"\xff")
    with pytest.raises(DataError, match="not utf-8"):
        Corpus.load(DataConfig(str(large)), CharacterTokenizer(sorted(set(TEXT))))
    assert list((small_limits / "encoded").iterdir()) == []


def test_what_killed_encoders_left_is_swept(large: Path, small_limits: Path) -> None:
    folders = [small_limits / "encoded" / f".partial-{name}" for name in ("old", "new")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "tokens.bin").write_bytes(b"x")
    old = time.time() - 7200
    for path in (folders[0] / "tokens.bin", folders[0]):
        os.utime(path, (old, old))
    Corpus.load(DataConfig(str(large)))
    assert [folder.exists() for folder in folders] == [False, True]


def test_stdin_is_known_by_its_content(tmp_path: Path, readings: list[str]) -> None:
    """Its copy lies elsewhere each time."""
    for name in "ab":
        path = tmp_path / name / sources.KEPT_STDIN
        path.parent.mkdir()
        path.write_text(TEXT)
        assert mapped(Corpus.load(DataConfig(str(path))))
    assert len(readings) == 2


def test_a_mapped_text_trains_as_one_in_memory(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = charlstm.Config(
        charlstm.ModelConfig(8, 1), DataConfig(test_fraction=0.2), charlstm.TrainingConfig(max_steps=6)
    )
    charlstm.train(large, config, out=tmp_path / "mapped", backend="numpy", quiet=True)
    with caplog.at_level(logging.INFO, "charlstm"):
        limits = charlstm.TrainingConfig(max_steps=9)
        first = charlstm.resume(tmp_path / "mapped", limits, quiet=True)
    assert "is encoded" not in caplog.text
    monkeypatch.setattr(encoded, "IN_MEMORY", 1 << 20)
    charlstm.train(large, config, out=tmp_path / "memory", backend="numpy", quiet=True)
    second = charlstm.resume(tmp_path / "memory", limits, quiet=True)
    for split in ("train", "val", "test", "all"):
        assert first.evaluate(split=split).to_dict() == second.evaluate(split=split).to_dict()  # type: ignore[arg-type]
