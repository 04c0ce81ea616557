"""`charlstm generate`: prompts, several samples, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import charlstm_command

import charlstm
from charlstm.cli import run as cli


@pytest.fixture
def generate(small_run: charlstm.Run, capsys: pytest.CaptureFixture[str]) -> Any:
    def generated(*options: object) -> str:
        command = ["generate", str(small_run.directory), "--backend", "numpy", *map(str, options)]
        assert cli(command) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return generated


def test_prompts_from_files_and_stdin(generate: Any, tmp_path: Path, small_run: charlstm.Run) -> None:
    prompt = "The coffee is hot.\n" * 500
    (tmp_path / "prompt.txt").write_text(prompt)
    expected = small_run.generate(prompt, length=20) + "\n"
    assert generate("--prompt-file", tmp_path / "prompt.txt", "--length", 20) == expected
    command = ("generate", small_run.directory, "--backend", "numpy", "--length", 20, "--prompt-file", "-")
    assert charlstm_command(*command, input=prompt).stdout == expected


def test_samples_have_seeds_in_turn(generate: Any, small_run: charlstm.Run) -> None:
    texts = [small_run.generate("The ", length=30, seed=seed) + "\n" for seed in (4, 5, 6)]
    assert generate("--prompt", "The ", "--length", 30, "--seed", 4, "--samples", 3) == "".join(texts)


def test_json_tells_every_token(generate: Any, small_run: charlstm.Run) -> None:
    options = (
        "--prompt",
        "The ",
        "--length",
        12,
        "--samples",
        2,
        "--alternatives",
        2,
        "--temperature",
        "1:0",
    )
    content = json.loads(generate(*options, "--json"))
    completions = small_run.complete(["The "] * 2, length=12, alternatives=2, temperature="1:0")
    assert content["prompt"] == "The "
    for sample, done in zip(content["samples"], completions, strict=True):
        assert (sample["text"], sample["seed"], sample["finish_reason"]) == (done.text, done.seed, "length")
        assert "".join(token["text"] for token in sample["tokens"]) == done.text
        for told, token in zip(sample["tokens"], done.tokens, strict=True):
            assert (told["id"], told["log_probability"], told["entropy"]) == token[:1] + token[2:4]
            best = told["alternatives"][0]
            assert (best["id"], best["log_probability"]) == token.alternatives[0]
            assert small_run.tokenizer.decode([best["id"]]) == best["text"]


def test_options_given_several_times(generate: Any) -> None:
    plain = generate("--length", 80)
    assert "e" in plain
    cut = generate("--length", 80, "--stop", "zzz", "--stop", plain[20:24])
    assert cut == plain[: plain.find(plain[20:24])] + "\n"
    biased = generate("--length", 80, "--logit-bias", "e=-inf", "--logit-bias", "a=-inf")
    assert not set("ea") & set(biased)
    assert generate("--length", 80, "--temperature", "0,0") == generate("--length", 80, "--temperature", 0)


def test_texts_are_made_safe_for_a_terminal(
    small_run: charlstm.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    command = ["generate", str(small_run.directory), "--backend", "numpy", "--on-unknown", "skip"]
    assert cli([*command, "--prompt", "\x1b[31mThe", "--length", "5"]) == 0
    assert capsys.readouterr().out.startswith("\N{REPLACEMENT CHARACTER}[31mThe")
