"""Finding texts and reading them in chunks: files, directories, globs, .gz, stdin, and what is no text."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from conftest import TINY, assert_fails, charlstm_command
from hypothesis import given, settings
from hypothesis import strategies as st

import charlstm
from charlstm import Corpus, DataConfig, DataError
from charlstm.data import sources
from charlstm.data.sources import TextFile, TextFiles, open_text

LINES = "first line\nsecond one\r\nthe third é 😀\n"


def whole(data: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    return "".join(open_text(str(data), encoding, errors)["train"].chunks())


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- chunks ---------------------------------------------------------------------------------


@given(st.text("aé😀\n\r", max_size=60), st.integers(1, 9), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
@settings(max_examples=100, deadline=None)
def test_chunks_joined_are_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunked.txt"
    path.write_bytes(text.encode(encoding))
    source = TextFiles("x", [TextFile.at(path)], encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", size)
        chunks = list(source.chunks())
        assert list(source.chunks()) == chunks
    assert "".join(chunks) == text
    assert all(chunks)


def test_chunks_end_after_line_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.txt", "ab\ncdefgh\n" * 50 + "tail")
    monkeypatch.setattr(sources, "CHUNK", 64)
    chunks = list(open_text(str(path))["train"].chunks())
    assert len(chunks) > 5
    assert all(chunk.endswith("\n") for chunk in chunks[:-1])
    assert chunks[-1].endswith("tail")


def test_a_byte_order_mark_is_left_out_of_every_file(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.txt", "\ufeffx\ufeff\n")
    assert whole(tmp_path / "*.txt") == "x\ufeff\nx\ufeff\n"
    assert whole(tmp_path / "*.txt", errors="surrogateescape") == "\ufeffx\ufeff\n" * 2


def test_errors_name_the_byte_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.txt", b"\xc3\xa9" * 50 + b"\xff" + b"abc\n" * 20)
    monkeypatch.setattr(sources, "CHUNK", 7)  # cuts characters in two
    with pytest.raises(DataError, match=r"byte 100: invalid start byte.*--encoding latin-1"):
        whole(path)
    write(path, b"\xc3\xa9" * 50 + b"\xc3")
    with pytest.raises(DataError, match="byte 100: unexpected end"):
        whole(path)
    write(path, b"abc\n" * 20 + b"\0")
    with pytest.raises(DataError, match="NUL"):
        whole(path)
    assert whole(path, errors="surrogateescape").endswith("\0")


def test_any_bytes_with_surrogateescape(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3
    path = write(tmp_path / "x.bin", content)
    assert whole(path, errors="surrogateescape").encode("utf-8", "surrogateescape") == content


# ---- finding --------------------------------------------------------------------------------


def test_directories(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "d" / "b.txt", "b\n")
    write(tmp_path / "d" / "a.txt", "a\n")
    write(tmp_path / "d" / "a-folder" / "c.txt", "c\n")
    write(tmp_path / "d" / "z.txt.gz", gzip.compress(b"z\n"))
    write(tmp_path / "d" / ".hidden", "h\n")
    write(tmp_path / "d" / ".git" / "x.txt", "x\n")
    write(tmp_path / "d" / "image.png", b"\x89PNG\0\xff")
    with caplog.at_level(logging.WARNING):
        assert whole(tmp_path / "d") == "c\na\nb\nz\n"
    assert "left out, since it is no utf-8 text: image.png" in caplog.text
    assert open_text(str(tmp_path / "d"))["train"].name == "d"


def test_globs(tmp_path: Path) -> None:
    for name in ("2.txt", "1.txt", "3.md", "deep/4.txt"):
        write(tmp_path / name, name + "\n")
    (tmp_path / "folder.txt").mkdir()
    assert whole(tmp_path / "*.txt") == "1.txt\n2.txt\n"
    assert whole(tmp_path / "[23].*") == "2.txt\n3.md\n"
    assert whole(tmp_path / "**" / "*.txt") == "1.txt\n2.txt\ndeep/4.txt\n"
    assert open_text(str(tmp_path / "*.txt"))["train"].name == tmp_path.name
    write(tmp_path / "really [1].txt", "a file of that name\n")
    assert whole(tmp_path / "really [1].txt") == "a file of that name\n"


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("train-00.txt", "val.txt", "test_00.txt"),
        ("train/x.txt", "dev/x.txt", "test/x.txt"),
        ("TRAIN.txt", "validation.txt", "Test.txt"),
    ],
)
def test_directories_with_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in (*names, "README.md", "training.txt"):
        write(tmp_path / "d" / name, f"{name} of many words\n")
    corpus = Corpus.load(DataConfig(str(tmp_path / "d"), val_fraction=0.5, test_fraction=0.4))
    for part, name in zip((corpus.train, corpus.val, corpus.test), names, strict=True):
        assert corpus.tokenizer.decode(part) == f"{name} of many words\n"
    assert corpus.whole is None


def test_a_directory_of_training_text_alone_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "train-1.txt", "a" * 50 + "b" * 50)
    write(tmp_path / "notes.txt", "c" * 100)
    corpus = Corpus.load(DataConfig(str(tmp_path)))
    assert (len(corpus.train), len(corpus.val)) == (180, 20)


def test_parts_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "abc" * 100)
    write(tmp_path / "v.txt", "cab" * 5)
    write(tmp_path / "t.txt", "dd\n" * 4)
    config = DataConfig(str(tmp_path / "a.txt"), val_data=str(tmp_path / "v.txt"), val_fraction=0.5)
    corpus = Corpus.load(config)
    assert (len(corpus.train), len(corpus.val), len(corpus.test)) == (300, 15, 0)
    config = DataConfig(str(tmp_path / "a.txt"), test_data=str(tmp_path / "t.txt"), val_fraction=0.5)
    other = Corpus.load(config)
    assert (len(other.train), len(other.val), len(other.test)) == (150, 150, 12)
    assert other.tokenizer.decode(other.test) == "dd\n" * 4
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "a.txt", tmp_path / "t.txt")]
    assert other.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda d: d.mkdir(), "holds no text: there is no file in it"),
        (lambda d: write(d / ".x", "x"), "holds no text: there is no file in it"),
        (lambda d: [write(d / n, b"\0\xff") for n in "ab"], "none of its 2 files is utf-8 text"),
        (lambda d: write(d / "x.txt", ""), "is empty"),
        (lambda d: write(d, ""), "is empty"),
        (lambda d: write(d, "abc"), "too short"),
        (lambda d: write(d, "\ufeff"), "is empty"),
        (lambda d: os.mkfifo(d), "no regular file: pipe the text in, with --data -"),
        (lambda d: d.symlink_to(d.parent / "nowhere"), "no such file"),
    ],
)
def test_what_holds_no_text(tmp_path: Path, make: object, problem: str) -> None:
    make(tmp_path / "d")  # type: ignore[operator]
    with pytest.raises(DataError, match=problem):
        Corpus.load(DataConfig(str(tmp_path / "d")))


def test_globs_and_addresses_that_match_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches"):
        whole(tmp_path / "*.txt")
    with pytest.raises(DataError, match="address on the web that cannot be read"):
        whole("ftp://example.org/x.txt")


# ---- .gz ------------------------------------------------------------------------------------


def test_gzip(tmp_path: Path) -> None:
    content = gzip.compress(LINES.encode()) + gzip.compress(b"a second member\n")
    path = write(tmp_path / "x.txt.gz", content)
    assert whole(path) == LINES + "a second member\n"
    assert open_text(str(path))["train"].name == "x.txt"
    for damaged in (
        content[:-4],
        content[:20],
        content[:30] + b"xxxx" + content[34:],
        b"no gzip",
        b"\x1f\x8b",
    ):
        write(path, damaged)
        with pytest.raises(DataError, match=r"damaged or cut off|cannot be read"):
            whole(path)


def test_a_bomb_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 64 KB that is 64 MB when decompressed: memory stays at a few chunks."""
    path = tmp_path / "bomb.txt.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(b"ab" * (1 << 19))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(sources, "CHUNK", 1 << 20)
    tracemalloc.start()
    try:
        assert sum(map(len, open_text(str(path))["train"].chunks())) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# ---- files that change ----------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.txt", LINES * 10)
    monkeypatch.setattr(sources, "CHUNK", 16)
    chunks = open_text(str(path))["train"].chunks()
    next(chunks)
    with path.open("a") as file:
        file.write("more")
    with pytest.raises(DataError, match="changed while it was read"):
        list(chunks)
    chunks = open_text(str(path))["train"].chunks()
    next(chunks)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        list(chunks)


def test_a_file_that_changes_between_two_readings(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", LINES)
    source = open_text(str(path))["train"]
    list(source.chunks())
    write(path, LINES + LINES)
    with pytest.raises(DataError, match="changed while it was read"):
        list(source.chunks())


# ---- stdin ----------------------------------------------------------------------------------


class Stdin(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\xef\xbb\xbf" + (LINES * 20).encode()
    monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO(content)))
    corpus = Corpus.load(DataConfig("-"))
    assert corpus.name == "stdin.txt"
    assert corpus.sha256 == Corpus.from_text(LINES * 20).sha256
    monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO(b"")))
    with pytest.raises(DataError, match=r"stdin\.txt is empty"):
        Corpus.load(DataConfig("-"))


def test_a_run_from_stdin_keeps_the_text(tmp_path: Path, text: Path) -> None:
    """So that it can be resumed and evaluated, from another folder and after a move as well."""
    run, content = tmp_path / "run", text.read_text()
    train = ("train", "--data", "-", "--max-steps", 2, "--out", run, *TINY)
    assert charlstm_command(*train, input=content).returncode == 0
    assert (run / "stdin.txt").read_text() == content
    moved = run.rename(tmp_path / "moved")
    done = charlstm_command("train", "--resume", moved, "--max-steps", 4)
    assert done.returncode == 0, done.stderr
    figures = charlstm.load(moved, "numpy").evaluate(split="all")
    assert figures.tokens == len(content) - 1
    (moved / "stdin.txt").write_text(content + "more")
    assert_fails(charlstm_command("train", "--resume", moved, "--max-steps", 6), 3, "has changed since")
    (moved / "stdin.txt").unlink()
    assert_fails(charlstm_command("evaluate", moved), 3, "no such file")
    done = charlstm_command("evaluate", moved, "--data", "-", "--split", "all", input=content)
    assert f"{figures.loss:.4f}" in done.stdout


def test_stdin_that_is_no_text(tmp_path: Path) -> None:
    done = charlstm_command("train", "--data=-", "--out", tmp_path / "run", *TINY, input="")
    assert_fails(done, 3, "stdin.txt is empty")
    done = charlstm_command("train", "--data", "-", "--out", tmp_path / "run", *TINY, input="aaaaaa")
    assert_fails(done, 3, "stdin.txt holds no character but 'a'")
    assert_fails(charlstm_command("train", "--val-data=-"), 2, "only data can be -")
    assert not (tmp_path / "run").exists()


# ---- odd input trains or is refused ---------------------------------------------------------

ODD = {
    "multilingual": "Ελληνικά, русский, עברית, العربية, हिन्दी, 中文, 日本語, 한국어. " * 8,
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇪🇺 e\u0301 " * 12,
    "one line": "a single line without an end of any kind, as some exports write them" * 3,
    "fifty characters": "Fifty characters are little to learn anything from",
    "control characters": "a\x01b\x7f\x0c\u2028c\r" * 20,
}


@pytest.mark.parametrize("name", list(ODD))
@pytest.mark.parametrize("options", [{}, {"split": "windows"}, {"batches": "windows", "val_fraction": 0.0}])
def test_odd_texts_train(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    path = write(tmp_path / "x.txt", ODD[name])
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        DataConfig(**options),  # type: ignore[arg-type]
        charlstm.TrainingConfig(max_steps=3),
    )
    run = charlstm.train(path, config, out=tmp_path / "run", backend="numpy", quiet=True)
    assert run.evaluate(split="train").loss < 6
    limits = charlstm.TrainingConfig(max_steps=5)
    resumed = charlstm.resume(tmp_path / "run", limits, quiet=True)
    assert set(resumed.generate(length=20)) <= set(ODD[name])


def test_lone_surrogates_and_nul_in_a_string(tmp_path: Path) -> None:
    """What no file of text can hold, a string can."""
    text = "a\ud800b\0c\udfff" * 30
    config = charlstm.Config(charlstm.ModelConfig(8, 1), training=charlstm.TrainingConfig(max_steps=2))
    run = charlstm.train(Corpus.from_text(text), config, out=tmp_path / "run", backend="numpy", quiet=True)
    assert set(run.generate(length=50)) <= set(text)
    write(tmp_path / "x.txt", text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match="not utf-8 text"):
        Corpus.load(DataConfig(str(tmp_path / "x.txt")))
    any_bytes = Corpus.load(DataConfig(str(tmp_path / "x.txt"), tokenizer="bytes"))
    assert bytes(any_bytes.whole) == (tmp_path / "x.txt").read_bytes()  # type: ignore[arg-type]


def test_globs_and_directories_on_the_command_line(tmp_path: Path, text: Path) -> None:
    write(tmp_path / "d" / "1.txt", text.read_text())
    write(tmp_path / "d" / "2.txt", text.read_text())
    for n, data in enumerate((tmp_path / "d" / "*.txt", tmp_path / "d", "d/*.txt")):
        run = tmp_path / f"run{n}"
        arguments = ("train", "--data", data, "--max-steps", 2, "--out", run, *TINY)
        done = charlstm_command(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert charlstm.load(run, "numpy").evaluate(split="all").tokens == 2 * len(text.read_text()) - 1
    write(tmp_path / "d" / "3.txt", "new")
    assert_fails(charlstm_command("evaluate", tmp_path / "run0"), 3, "has changed since")
