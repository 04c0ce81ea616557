"""The command line as a user meets it: real processes, exit statuses, one clear line for each error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from conftest import TINY, assert_fails, charlstm_command, make_ops

import charlstm
from charlstm.backends import rounded_precisions
from charlstm.cli import COMMANDS
from charlstm.data import coffee
from charlstm.verification import AGREEMENT_ERROR, CASES


def test_train_generate_evaluate(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "run"
    done = charlstm_command(
        "train", "--data", text, "--out", out, "--max-steps", 40, "--eval-every", 20, *TINY
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 301  # the sample, and nothing else
    for part in (
        "characters train",
        "step     20",
        "val",
        "tokens/s",
        "left",
        "charlstm generate",
        "--resume",
    ):
        assert part in done.stderr

    command = ("generate", out, "--prompt", "The ", "--length", 50, "--seed", 5)
    first, second = charlstm_command(*command), charlstm_command(*command)
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert first.stdout.startswith("The ")
    assert len(first.stdout) == 4 + 50 + 1
    assert first.stderr == ""
    coldest = charlstm_command(*command, "--top-k", 1).stdout
    assert coldest == charlstm_command(*command, "--temperature", 0).stdout != first.stdout
    assert charlstm_command(*command, "--top-p", 0.5).stdout != first.stdout
    as_json = json.loads(charlstm_command(*command, "--json").stdout)
    assert as_json["prompt"] == "The "
    assert [(row["text"], row["seed"]) for row in as_json["samples"]] == [(first.stdout[4:-1], 5)]

    done = charlstm_command("evaluate", out, "--split", "val", "--json")
    figures = json.loads(done.stdout)
    assert {"loss", "perplexity", "bits_per_char", "mean_max_posterior", "tokens"} < set(figures)
    assert figures["loss"] == pytest.approx(charlstm.load(out, "numpy").evaluate().loss, rel=1e-5)
    table = charlstm_command("evaluate", out, "--data", text, "--split", "all").stdout
    assert "nats per token" in table
    assert f"{len(text.read_text()) - 1:,}" in table


def test_train_json(tmp_path: Path, text: Path) -> None:
    done = charlstm_command(
        "train", "--data", text, "--out", tmp_path / "run", "--max-steps", 5, "--json", "--quiet", *TINY
    )
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert result["step"] == 5
    assert result["tokens"] == 5 * 64
    assert result["entropy"] is None
    assert len(result["sample"]) == 300


def test_addresses_are_not_files(tmp_path: Path) -> None:
    done = charlstm_command("train", "--data", "ftp://example.com/a.txt", "--out", tmp_path / "run")
    assert_fails(done, 3, "address on the web", "download")


def test_a_prompt_may_begin_with_a_dash(small_run: charlstm.Run) -> None:
    done = charlstm_command(
        "generate", small_run.directory, "--prompt", "- The", "--length", 5, "--on-unknown", "skip"
    )
    assert done.stdout.startswith("- The"), done.stderr


def test_the_embedded_corpus_and_its_floor(tmp_path: Path) -> None:
    done = charlstm_command("train", "--max-steps", 3, *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"above {coffee.entropy_per_character():.4f}, the entropy" in done.stderr
    assert (tmp_path / "runs" / "coffee-1" / "samples" / "best.txt").read_text() == done.stdout[:-1]
    assert (tmp_path / "runs" / "coffee-1" / "config.toml").is_file()
    charlstm_command("train", "--max-steps", 3, *TINY, cwd=tmp_path)
    assert (tmp_path / "runs" / "coffee-2").is_dir()


def test_backends() -> None:
    table = charlstm_command("backends")
    assert table.returncode == 0
    for name in ("numpy", "numba", "cupy"):
        assert name in table.stdout
    content = json.loads(charlstm_command("backends", "--json").stdout)
    rows = {row["backend"]: row for row in content["backends"]}
    assert rows["numpy"]["available"]
    assert rows["numpy"]["threads"] >= 1
    assert rows["numpy"]["blas"]["library"]
    assert rows["cupy"]["available"] or rows["cupy"]["reason"]


def test_the_limit_that_ended_a_run_is_the_one_that_is_raised(tmp_path: Path, text: Path) -> None:
    options = [
        "train",
        "--data",
        text,
        *TINY,
        "--max-steps",
        100000,
        "--max-time",
        "1s",
        "--out",
        tmp_path / "run",
    ]
    done = charlstm_command(*options)
    assert done.returncode == 0, done.stderr
    assert "--max-steps 100000 --max-time 1m\n" in done.stdout + done.stderr


def test_all_of_another_text_is_measured(small_run: charlstm.Run, tmp_path: Path) -> None:
    """The heading says of what, and nothing is said by words where there are none."""
    (tmp_path / "dots.txt").write_text("." * 40)
    done = charlstm_command("evaluate", small_run.directory, "--data", tmp_path / "dots.txt")
    assert "all of dots.txt: 39 tokens" in done.stdout
    assert "word perplexity" not in done.stdout


def test_backends_check() -> None:
    make_ops("numba")
    done = charlstm_command("backends", "--check", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["passed"]
    checks = [row for row in content["checks"] if row["backend"] == "numba"]
    rounded = rounded_precisions("numba")
    assert len(checks) == 1 + len(CASES) + len(AGREEMENT_ERROR) + 2 + len(rounded)
    assert all(0 <= row["error"] <= row["allowed"] for row in checks)
    exact = [row for row in checks if "products in" not in row["check"]]
    assert max(row["allowed"] for row in exact) == AGREEMENT_ERROR["float32"]


def test_the_list_of_commands_says_what_each_says_itself() -> None:
    for command, text in COMMANDS.items():
        function = getattr(import_module(f"charlstm.cli.{command}"), command)
        first = " ".join(function.__doc__.split("\n\n")[0].split())
        assert first == text


def test_a_command_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, charlstm.cli as c; c.run(['--help']); print([m for m in sys.modules if 'charlstm.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Train a language model." in done.stdout
    assert "numba" not in done.stdout.splitlines()[-1]
    assert "charlstm.run" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_shows_examples_before_options(command: tuple[str, ...]) -> None:
    done = charlstm_command(*command, "--help", env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    example = f"charlstm {command[0] if command else 'train'} "
    lines = done.stdout.splitlines()
    shown = next(k for k, line in enumerate(lines) if line.strip().startswith(example.strip()))
    options = next(k for k, line in enumerate(lines) if "Parameters" in line or "Commands" in line)
    assert shown < options


def test_the_learning_rate_finder(tmp_path: Path) -> None:
    done = charlstm_command("train", *TINY, "--find-lr", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"--learning-rate [\d.e-]+\n", done.stdout)
    assert "the curve is" in done.stderr
    done = charlstm_command("train", *TINY, "--find-lr", "--out", tmp_path / "json", "--json")
    assert set(json.loads(done.stdout)) == {"run", "rates", "losses", "suggestion"}
    assert_fails(charlstm_command("train", "--resume", tmp_path / "run", "--find-lr"), 2, "--resume goes on")


def test_a_dry_run_tells_what_training_would_take_and_writes_nothing(tmp_path: Path, text: Path) -> None:
    options = ["train", "--data", text, *TINY, "--max-steps", 1000, "--dry-run", "--out", tmp_path / "run"]
    done = charlstm_command(*options)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["model"]["hidden_size"] == 12  # the rest are comments
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("#")]
    shown = {line[1]: line[2] for line in lines}
    assert re.fullmatch(r"[\d.,]+ ms, [\d,]+ tokens/s", shown["step"])
    assert re.fullmatch(r"[\d.]+ (s|minutes): 1,000 steps, 3 validations", shown["training"])
    assert re.fullmatch(r"\d+ MB, this process at its peak", shown["memory"])
    assert not (tmp_path / "run").exists()
    found = json.loads(charlstm_command(*options, "--json").stdout)
    assert (found["steps"], found["validations"]) == (1000, 3)
    assert found["seconds"] == pytest.approx(1000 * found["step_seconds"] + 3 * found["validation_seconds"])
    assert found["config"]["training"]["max_steps"] == 1000


def test_a_dry_runs_memory_is_its_own(text: Path) -> None:
    """Not that of the process which started it, and all of its own."""
    ballast = bytearray(b"x") * 500_000_000
    options = ["train", "--data", text, *TINY[2:], "--dry-run", "--json", "--hidden-size"]
    small, large = (json.loads(charlstm_command(*options, size).stdout) for size in (12, 512))
    assert 10e6 < small["peak_memory"] < len(ballast)
    weights = 4 * large["parameters"]  # bytes; there are gradients and Adam's two means as well
    assert large["peak_memory"] > small["peak_memory"] + 4 * weights


def test_a_dry_run_under_a_limit_of_time(text: Path) -> None:
    options = ["train", "--data", text, *TINY, "--dry-run", "--json", "--max-time", "20m"]
    found = json.loads(charlstm_command(*options).stdout)
    assert found["seconds"] == pytest.approx(1200, rel=0.05)


def test_any_bytes_train(tmp_path: Path) -> None:
    """What comes out is no UTF-8, and is shown all the same."""
    file = tmp_path / "any.bin"
    file.write_bytes(bytes(range(256)) * 8)
    out = tmp_path / "run"
    options = ("--tokenizer", "bytes", "--max-steps", 5, "--out", out, *TINY)
    done = charlstm_command("train", "--data", file, *options)
    assert done.returncode == 0, done.stderr
    assert "1,843 bytes train, 205 validate, 256 distinct" in done.stderr
    assert "nats per byte" in done.stderr
    assert "\ufffd" in done.stdout
    done = charlstm_command("generate", out, "--prompt", "naïve", "--length", 100)
    assert done.stdout.startswith("naïve")
    assert done.stderr == ""
    done = charlstm_command("evaluate", out, "--json")
    assert json.loads(done.stdout)["tokens"] == 204
    assert_fails(charlstm_command("train", "--data", file, *TINY), 3, "is not utf-8 text")


def test_words_train(tmp_path: Path, text: Path) -> None:
    text.write_text(text.read_text() + "Zebra unique\n")
    out = tmp_path / "run"
    options = ("--tokenizer", "words", "--normalize", "NFC", "--max-steps", 5, "--out", out, *TINY)
    done = charlstm_command("train", "--data", text, *options)
    assert done.returncode == 0, done.stderr
    assert "NFC changed nothing" in done.stderr
    assert re.search(
        r"replaced by '<unk>' .*, not in the vocabulary: .*words train.*nats per word", done.stderr, re.S
    )
    done = charlstm_command("generate", out, "--prompt", "The Xyzzy", "--length", 30)
    assert done.stdout.startswith("The Xyzzy")
    assert done.stderr == "replaced by '<unk>' once, not in the vocabulary: 'xyzzy' once\n"
    words = done.stdout.removeprefix("The Xyzzy").split()
    assert set(words) <= set(charlstm.load(out, "numpy").tokenizer.vocabulary)
    figures = json.loads(charlstm_command("evaluate", out, "--json").stdout)
    assert 0.5 < figures["bits_per_char"] < figures["loss"]
    assert_fails(
        charlstm_command("train", "--data", text, *options[:2], "--min-count", 9999), 3, "--min-count"
    )


def test_a_dry_run_of_a_training_that_diverges(text: Path) -> None:
    options = ("--optimizer", "sgd", "--learning-rate", 1e30, "--warmup-steps", 0, "--clip-norm", 1e30)
    done = charlstm_command("train", "--data", text, *TINY, *options, "--dry-run")
    assert_fails(done, 4, "try a smaller --learning-rate")
