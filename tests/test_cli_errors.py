"""Bad input and faults on the command line: the exit status, one clear line, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, assert_fails, charlstm_command

import charlstm


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ("no such file", "coffee")),
        ("café".encode("utf-16"), ("not utf-8 text", "--encoding utf-16")),
        (b"", ("is empty",)),
        (b"a", ("no character but 'a'",)),
        (b"aaaaaaaaaaaaaaaa", ("no character but 'a'",)),
        (b"abc", ("too short",)),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe\xfd", ("not utf-8 text", "--encoding latin-1")),
        ("caf\xe9 au lait".encode("latin-1"), ("byte 3", "--encoding")),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, content: bytes | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    done = charlstm_command("train", "--data", path, "--out", tmp_path / "run", *TINY)
    assert_fails(done, 3, *parts)
    assert not (tmp_path / "run").exists()


def test_other_encodings_and_short_texts_train(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(("caf\xe9 au lait " * 3).encode("latin-1"))
    done = charlstm_command(
        "train", "--data", path, "--encoding", "latin-1", "--out", tmp_path / "run", "--max-steps", 2, *TINY
    )
    assert done.returncode == 0, done.stderr
    assert "batch size" in done.stderr
    assert "é" in charlstm_command("generate", tmp_path / "run", "--prompt", "café", "--length", 3).stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--hidden-size", 0], ("hidden_size", "greater than 0")),
        (["--batch-size", -3], ("batch_size", "greater than 0")),
        (["--seq-len", 0], ("seq_len",)),
        (["--num-layers", 0], ("num_layers",)),
        (["--learning-rate", "nan"], ("learning_rate",)),
        (["--learning-rate", "inf"], ("learning_rate", "finite")),
        (["--epochs", "inf"], ("epochs", "finite")),
        (["--data", ""], ("data must name",)),
        (["--dropout", 1.5], ("dropout",)),
        (["--val-fraction", 1], ("val_fraction",)),
        (["--max-time", "soon"], ("16s, 5m or 2h",)),
        (["--max-steps", 0], ("max_steps",)),
        (["--threads", 0], ("threads",)),
        (["--hidden-size", "many"], ("--hidden-size",)),
        (["--backend", "abacus"], ("abacus",)),
        (["--hiden-size", 4], ("--hiden-size", "--hidden-size")),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, arguments: list[object], parts: tuple[str, ...]) -> None:
    assert_fails(charlstm_command("train", "--out", tmp_path / "run", *arguments), 2, *parts)
    assert not (tmp_path / "run").exists()


def test_a_backend_that_cannot_run(tmp_path: Path) -> None:
    from charlstm.backends import unavailable

    if unavailable("cupy") is None:
        pytest.skip("the cupy backend can run here")
    done = charlstm_command("train", "--backend", "cupy", "--out", tmp_path / "run")
    assert_fails(done, 5, "the cupy backend cannot run here")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise ModuleNotFoundError(name='numba')", "Numba is not installed (pip install numba)"),
        (
            "raise ImportError('Numba needs NumPy 2.3 or less')",
            "Numba cannot be imported: Numba needs NumPy 2.3",
        ),
    ],
)
def test_a_backend_whose_library_is_missing_or_broken(tmp_path: Path, fault: str, words: str) -> None:
    """The same environment with a numba and a cupy that cannot be imported."""
    (tmp_path / "numba.py").write_text(fault)
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('No module named cupy', name='cupy')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = charlstm_command("train", "--backend", "numba", "--out", tmp_path / "run", env=environment)
    assert_fails(done, 5, words)
    rows = json.loads(charlstm_command("backends", "--json", env=environment).stdout)["backends"]
    assert [row["available"] for row in rows] == [True, False, False]
    assert rows[2]["reason"].startswith("CuPy is not installed")
    table = charlstm_command("backends", env={**environment, "COLUMNS": "200"}).stdout
    assert 'pip install "charlstm[cuda12]"' in table
    auto = charlstm_command(
        "train", "--max-steps", 1, "--out", tmp_path / "auto", *TINY[:-2], env=environment
    )
    assert "numpy on" in auto.stderr


def test_sizes_beyond_any_memory(tmp_path: Path) -> None:
    done = charlstm_command("train", "--hidden-size", 10**10, "--out", tmp_path / "run")
    assert_fails(done, 1, "out of memory", "--hidden-size")
    assert not (tmp_path / "run").exists()


def test_text_that_the_locale_cannot_show(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("é😀" * 300, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    train = ("train", "--data", path, "--out", tmp_path / "run", "--max-steps", 2, *TINY)
    done = charlstm_command(*train, env=environment, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip()) == {"é", "😀"}


def test_a_reader_of_the_progress_that_leaves(tmp_path: Path, text: Path) -> None:
    """Training goes on in silence and saves."""
    run = tmp_path / "run"
    command = f"{sys.executable} -m charlstm train --data {text} --out {run} --max-steps 400 --eval-every 10"
    subprocess.run(f"{command} {' '.join(TINY)} 2>&1 | head -1", shell=True, timeout=120, capture_output=True)
    assert json.loads((run / "checkpoints" / "last" / "training.json").read_text())["step"] == 400


def test_pages_take_the_place_of_pages_only(small_run: charlstm.Run, tmp_path: Path, text: Path) -> None:
    """A text that was to be read is not lost to a slip."""
    before = text.read_bytes()
    for command in (["inspect", small_run.directory], ["compare", small_run.directory]):
        assert_fails(charlstm_command(*command, "--output", text), 2, "is no page of charlstm")
        assert text.read_bytes() == before
        page = tmp_path / "new folder" / f"{command[0]}.html"
        for _ in range(2):
            assert charlstm_command(*command, "--output", page).returncode == 0
        assert page.read_text().startswith("<!doctype html>")


def test_words_that_are_no_option(small_run: charlstm.Run, text: Path) -> None:
    assert_fails(charlstm_command("train", text), 2, f"what is {text} for?", "--data")
    assert_fails(charlstm_command("train", "--max-time", "-5s"), 2, "a duration reads", "'-5s'")
    assert_fails(charlstm_command("train", "--data", "nothing.txt"), 3, "known by name: coffee")
    done = charlstm_command("generate", small_run.directory, "--prompt-file", "nothing.txt")
    assert_fails(done, 3, "no such file: nothing.txt")
    assert "coffee" not in done.stderr


def test_output_directories(tmp_path: Path, text: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    train = ("train", "--data", text, "--max-steps", 2, *TINY)
    assert_fails(charlstm_command(*train, "--out", taken), 2, "exists already: choose another --out")
    assert_fails(charlstm_command(*train, "--out", text), 2, "exists already")
    assert_fails(charlstm_command(*train, "--out", text / "below"), 1, "cannot be made")
    assert_fails(charlstm_command(*train, "--out", "/proc/charlstm"), 1, "cannot be made")
    assert sorted(p.name for p in taken.iterdir()) == ["thesis.txt"]
    taken.joinpath("thesis.txt").unlink()
    assert charlstm_command(*train, "--out", taken).returncode == 0  # empty: may be used
    assert_fails(charlstm_command(*train, "--out", taken), 2, "exists already", f"--resume {taken}")


def test_a_disk_that_fills_up_while_training(tmp_path: Path, text: Path) -> None:
    """A limit on file size stands for the disk: files may grow to 5 KB, no further."""
    run = tmp_path / "run"
    train = ("train", "--data", text, "--out", run, "--max-steps", 20, "--eval-every", 10, *TINY)
    assert charlstm_command(*train).returncode == 0
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    limit = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (5000, -1))\n"
        "from charlstm.cli import main\nmain(sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        limit,
        "train",
        "--resume",
        str(run),
        "--max-steps",
        "40",
        "--backend",
        "numpy",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert_fails(done, 1, "cannot be written: File too large")
    for path, content in before.items():
        if "checkpoints" in path.parts:
            assert path.read_bytes() == content
    assert charlstm_command("train", "--resume", run, "--max-steps", 40, "--backend", "numpy").returncode == 0


def test_unknown_characters_in_a_prompt(small_run: charlstm.Run) -> None:
    generate = ("generate", small_run.directory, "--length", 5, "--prompt", "Thé 😀")
    assert_fails(charlstm_command(*generate), 3, "'é' (U+00E9) once", "'😀' (U+1F600) once", "--on-unknown")
    for choice, told in (("skip", "skipped"), ("replace", "replaced by '?'")):
        done = charlstm_command(*generate, "--on-unknown", choice)
        assert done.returncode == 0
        assert done.stdout.startswith("Thé 😀")
        assert told in done.stderr
    assert_fails(charlstm_command(*generate, "--on-unknown", "guess"), 2, "guess")


@pytest.mark.parametrize("option", [("--temperature", "-1"), ("--length", "-5"), ("--temperature", "inf")])
def test_sampling_that_cannot_be(small_run: charlstm.Run, option: tuple[str, str]) -> None:
    assert_fails(charlstm_command("generate", small_run.directory, *option), 2, option[0].lstrip("-"))


def test_prompts_that_cannot_be(small_run: charlstm.Run, tmp_path: Path) -> None:
    command = ("generate", small_run.directory, "--backend", "numpy", "--prompt-file")
    assert_fails(charlstm_command(*command, tmp_path / "none.txt"), 3, "no such file", "none.txt")
    (tmp_path / "latin.txt").write_bytes("Thé".encode("latin-1"))
    assert_fails(charlstm_command(*command, tmp_path / "latin.txt"), 3, "latin.txt", "utf-8", "byte 2")
    assert_fails(charlstm_command(*command, "-", "--prompt", "The"), 2, "--prompt or --prompt-file")


@pytest.mark.parametrize("damage", ["truncated", "nan", "tokenizer", "gone"])
def test_damaged_checkpoints(tmp_path: Path, small_run: charlstm.Run, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run.directory, run)
    best = run / "checkpoints" / "best"
    if damage == "truncated":
        (best / "model.safetensors").write_bytes((best / "model.safetensors").read_bytes()[:500])
    elif damage == "nan":
        content = bytearray((best / "model.safetensors").read_bytes())
        content[-8:] = b"\xff" * 8
        (best / "model.safetensors").write_bytes(content)
    elif damage == "tokenizer":
        other = charlstm.CharacterTokenizer(reversed(small_run.tokenizer.vocabulary))
        (best / "tokenizer.json").write_text(other.to_json())
    else:
        shutil.rmtree(run / "checkpoints" / "best")
        shutil.rmtree(run / "checkpoints" / "last")
    part = {
        "truncated": "cannot be read as safetensors",
        "nan": "NaN",
        "tokenizer": "tokenizer.json is not the one",
    }
    for command in ("generate", "evaluate"):
        assert_fails(charlstm_command(command, run), 1, part.get(damage, "no model directory"))
    assert_fails(charlstm_command("generate", tmp_path / "nowhere"), 1, "no run directory")


def test_divergence(tmp_path: Path, text: Path) -> None:
    done = charlstm_command(
        "train", "--data", text, "--out", tmp_path / "run", "--learning-rate", "1e39",
        "--max-steps", 50, "--eval-every", 1, "--warmup-steps", 0, *TINY,
    )  # fmt: skip
    assert_fails(done, 4, "no longer a finite number", "--learning-rate below 1.25e+38")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_tell_how_to_go_on(tmp_path: Path, text: Path, number: int, status: int) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "charlstm",
        "train",
        "--data",
        str(text),
        "--out",
        str(run),
        "--max-time",
        "5m",
    ]
    command += [*TINY, "--eval-every", "10", "--quiet", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "last").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    result = json.loads(stdout)
    assert not result["finished"]
    assert "Traceback" not in stderr
    assert f"charlstm train --resume {run}" in stderr
    stopped = json.loads((run / "checkpoints" / "last" / "training.json").read_text())["step"]
    assert f"stopped at step {stopped:,}" in stderr
    done = charlstm_command(
        "train", "--resume", run, "--max-steps", stopped + 5, "--backend", "numpy", "--json"
    )
    assert json.loads(done.stdout)["step"] == stopped + 5


def test_a_run_stopped_before_its_first_validation_can_be_sampled(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run with spaces"
    command = [sys.executable, "-m", "charlstm", "train", "--data", str(text), "--out", str(run), *TINY]
    process = subprocess.Popen([*command, "--eval-every", "1000000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"charlstm train --resume '{run}'" in stderr
    assert charlstm_command("generate", run, "--length", 5).returncode == 0


def test_resuming_keeps_the_backend(tmp_path: Path, text: Path) -> None:
    train = ("train", "--data", text, "--out", tmp_path / "run", "--max-steps", 2, *TINY, "--threads", 1)
    assert "numpy on 1 threads" in charlstm_command(*train).stderr
    assert (
        "numpy on 1 threads"
        in charlstm_command("train", "--resume", tmp_path / "run", "--max-steps", 4).stderr
    )


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("checkpoints/last/training.json", '{"step": "abc"}', ("training.json is damaged",)),
        ("metrics.jsonl", "garbage\n", ("metrics.jsonl is damaged",)),
        ("config.toml", "model = 3\n", ("a table of options is expected",)),
        ("config.toml", "hidden_size = 12 -> hidden_size = 13", ("another model than config.toml",)),
        ("config.toml", "batch_size = 4 -> batch_size = 5", ("another batch size",)),
        ("config.toml", "batch_size = 4 -> batch_size = 400", ("too few for batches of 400 x 16",)),
        ("env.json", "[]", ("env.json",)),
    ],
)
def test_resuming_from_damaged_runs(
    tmp_path: Path, text: Path, name: str, content: str, parts: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    charlstm_command("train", "--data", text, "--out", run, "--max-steps", 2, *TINY)
    if "->" in content:
        before, after = content.split(" -> ")
        content = (run / name).read_text().replace(before, after)
    (run / name).write_text(content)
    done = charlstm_command("train", "--resume", run, "--max-steps", 4)
    assert_fails(done, {"a table": 2, "too few": 3}.get(parts[0][:7], 1), *parts)


def test_the_printed_command_goes_on(tmp_path: Path, text: Path) -> None:
    done = charlstm_command("train", "--data", text, "--out", tmp_path / "run", "--epochs", 2, *TINY)
    advice = next(line for line in done.stderr.splitlines() if "--resume" in line)
    assert advice.split()[1:] == ["train", "--resume", str(tmp_path / "run"), "--epochs", "4"]
    assert charlstm_command(*advice.split()[1:]).returncode == 0


def test_evaluate_reads_in_the_encoding_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(("caf\xe9 au lait " * 30).encode("latin-1"))
    train = (
        "train",
        "--data",
        path,
        "--encoding",
        "latin-1",
        "--out",
        tmp_path / "run",
        "--max-steps",
        2,
        *TINY,
    )
    assert charlstm_command(*train).returncode == 0
    assert charlstm_command("evaluate", tmp_path / "run", "--data", path).returncode == 0
    path.write_text("café du nord " * 30, encoding="utf-8")
    evaluate = ("evaluate", tmp_path / "run", "--data", path, "--encoding", "utf-8")
    assert_fails(charlstm_command(*evaluate), 3, "'d'", "'n'")
    done = charlstm_command(*evaluate, "--on-unknown", "skip")
    assert done.returncode == 0
    assert "'d' (U+0064) 60 times" in done.stderr


def test_an_option_that_is_wrong_is_not_a_damaged_checkpoint(small_run: charlstm.Run) -> None:
    assert_fails(charlstm_command("generate", small_run.directory, "--threads", 0), 2, "at least 1")


def test_a_second_interrupt_stops_at_once(tmp_path: Path, text: Path) -> None:
    program = (
        "import os, signal, sys, time\nfrom charlstm.training.trainer import Trainer\n"
        "step = Trainer.train_step\n"
        "def slow(self, *arguments):\n"
        "    step(self, *arguments)\n"
        "    if self.step == 3:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.1)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "Trainer.train_step = slow\n"
        "from charlstm.cli import main\nmain(sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "train",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "run"),
        *TINY,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert_fails(done, 130, "interrupted")


def test_a_reader_that_closes_the_pipe(small_run: charlstm.Run) -> None:
    command = f"{sys.executable} -m charlstm generate {small_run.directory} --length 100000 --temperature 1"
    done = subprocess.run(
        f"{command} | head -c 10", shell=True, capture_output=True, text=True, timeout=120, check=True
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


def test_resuming_takes_no_new_model(small_run: charlstm.Run) -> None:
    done = charlstm_command("train", "--resume", small_run.directory, "--hidden-size", 7)
    assert_fails(done, 2, "hidden_size belongs to the run, where it is 24: it cannot become 7")
    assert_fails(charlstm_command("train", "--resume", small_run.directory), 2, "has reached its limits")
    assert_fails(charlstm_command("train", "--resume", small_run.directory / "nowhere"), 1, "no checkpoint")
