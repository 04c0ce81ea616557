"""`charlstm generate`: prompts, several samples, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_fails, charlstm_command

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
    (tmp_path / "marked.txt").write_text("\ufeff" + prompt)
    assert generate("--prompt-file", tmp_path / "marked.txt", "--length", 20) == expected
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


def test_beams(generate: Any, small_run: charlstm.Run) -> None:
    best, *others = small_run.beam_search("The ", beams=3, length=12)
    assert generate("--prompt", "The ", "--length", 12, "--beams", 3) == f"The {best.text}\n"
    content = json.loads(generate("--prompt", "The ", "--length", 12, "--beams", 3, "--json"))
    assert [row["text"] for row in content["beams"]] == [best.text, *(each.text for each in others)]
    assert content["beams"][0]["log_probability"] == best.log_probability
    greedy = small_run.generate("The ", length=12, temperature=0)
    assert generate("--prompt", "The ", "--length", 12, "--beams", 1) == greedy + "\n"


def test_only_text_that_matches(generate: Any, small_run: charlstm.Run) -> None:
    for seed in range(5):
        text = generate("--regex", r"[A-Z][a-z]+( [a-z]{2,5}){2}\.", "--length", 30, "--seed", seed)
        assert re.fullmatch(r"[A-Z][a-z]+( [a-z]{2,5}){2}\.", text[:-1])
    (done,) = small_run.complete(["The "], regex="x|xy*", length=40)
    assert done.finish_reason in ("match", "length")
    assert re.fullmatch("x|xy*", done.text)
    (short,) = small_run.complete(["The "], regex="ab", length=2, temperature=0)
    assert (short.text, short.finish_reason) == ("ab", "length")
    (over,) = small_run.complete(["The "], regex="ab", length=50)
    assert (over.text, over.finish_reason) == ("ab", "match")


def test_a_match_ends_as_often_as_the_model_would_leave_it(small_run: charlstm.Run) -> None:
    """Of many texts that match [a-z]*, so many are empty as the model begins with something else."""
    posterior, _ = small_run.model.posterior(small_run.tokenizer.encode("The")[:, np.newaxis])
    row = small_run.model.ops.to_numpy(posterior)[-1, 0]
    letters = [k for k, symbol in enumerate(small_run.tokenizer.vocabulary) if "a" <= symbol <= "z"]
    expected = 1 - row[letters].sum()
    texts = small_run.complete(["The"] * 600, regex="[a-z]*", length=3, temperature=1.0)
    share = sum(not done.text for done in texts) / 600
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 600)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--alternatives", "5"), "--alternatives does nothing here"),
        (("--alternatives", "5", "--json", "--beams", "2"), "--alternatives does nothing here"),
        (("--length-penalty", "nan"), "--length-penalty does nothing here"),
        (("--choices", "0"), "--choices does nothing here"),
        (("--interactive", "--json"), "--interactive reads answers"),
        (("--interactive", "--prompt-file", "-"), "--interactive reads answers"),
        (("--interactive", "--stop", "e"), "stop does nothing"),
        (("--interactive", "--regex", "e"), "regex does nothing"),
        (("--interactive", "--length", "7"), "length does nothing"),
    ],
)
def test_options_that_would_do_nothing(
    small_run: charlstm.Run, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str
) -> None:
    assert cli(["generate", str(small_run.directory), "--backend", "numpy", *options]) == 2
    assert told in capsys.readouterr().err


def test_ways_to_write_that_exclude_each_other(small_run: charlstm.Run) -> None:
    command = ("generate", small_run.directory, "--backend", "numpy")
    assert_fails(charlstm_command(*command, "--beams", 2, "--samples", 2), 2, "choose one of")
    assert_fails(charlstm_command(*command, "--beams", 2, "--top-k", 2), 2, "top_k does nothing with --beams")
    assert_fails(charlstm_command(*command, "--regex", "é+"), 2, "matches no text")
    assert_fails(charlstm_command(*command, "--regex", "a{9}", "--length", 8), 2, "takes 9 tokens or more")
    assert_fails(charlstm_command(*command, "--regex", "(a"), 2, "(a")


def test_writing_together(small_run: charlstm.Run) -> None:
    command = ("generate", small_run.directory, "--backend", "numpy", "--interactive", "--prompt", "The")
    done = charlstm_command(*command, "--min-p", 0.1, input=" coff\n1\n\n:u\n:q\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The coff")
    assert len(done.stdout) == len("The coff") + 2
