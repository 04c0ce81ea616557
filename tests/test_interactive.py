"""Writing in turns with a model, answers read from a pipe."""

from __future__ import annotations

import builtins
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import charlstm
from charlstm import LanguageModel, Run
from charlstm.cli.interactive import HELP, interact
from charlstm.data import ByteTokenizer, Tokenizer, WordTokenizer
from charlstm.errors import DataError, DivergedError, UsageError


class Session:
    """What comes of a number of answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(
        self, run: Run, answers: str, *arguments: object, **keywords: object
    ) -> tuple[str, list[str]]:
        """The text on stdout, and what was said on stderr: the help, then after the start and each answer."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
        interact(run, *arguments, **keywords)  # type: ignore[arg-type]
        out, err = self._capsys.readouterr()
        assert err.startswith(HELP)
        assert out.endswith("\n")
        return out.removesuffix("\n"), re.split(r"\n(?=\n)|\n(?=temperature)", err[len(HELP) :])


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Session:
    return Session(monkeypatch, capsys)


def untrained(tokenizer: Tokenizer) -> Run:
    return Run(Path("none"), LanguageModel(len(tokenizer), hidden_size=6, backend="numpy"), tokenizer)


def offered(said: str) -> list[tuple[float, str]]:
    return [(float(p), name) for p, name in re.findall(r"^ +\d+ +([\d.]+)%  (.+)$", said, re.MULTILINE)]


def test_choices_are_the_most_probable_tokens(small_run: charlstm.Run, session: Session) -> None:
    text, said = session(small_run, "2\n", "Coffee", choices=4)
    ids = small_run.tokenizer.encode("Coffee")[:, np.newaxis]
    posterior = np.asarray(small_run.model.posterior(ids)[0])[-1, 0]
    best = np.argsort(-posterior)[:4]
    expected = [(100 * posterior[k], repr(small_run.tokenizer.decode([k]))) for k in best]
    assert [name for _, name in offered(said[0])] == [name for _, name in expected]
    np.testing.assert_allclose([p for p, _ in offered(said[0])], [p for p, _ in expected], atol=0.051)
    assert text == "Coffee" + small_run.tokenizer.decode(best[1:2])


def test_enter_goes_on_as_generate_does(small_run: charlstm.Run, session: Session) -> None:
    sampling = charlstm.SamplingConfig(temperature=0.7, seed=3)
    text, _ = session(small_run, "\n\n", "Coffee", sampling, tokens=15)
    assert text == small_run.generate("Coffee", length=30, temperature=0.7, seed=3)


def test_inserted_text_is_read_like_a_prompt(small_run: charlstm.Run, session: Session) -> None:
    whole, said_at_once = session(small_run, "", "The coffee is good\n and hot.")
    parts, said = session(small_run, "coffee\n is good\n:n\n:i  and\n hot.\n", "The ")
    assert parts == whole
    assert offered(said[-1]) == offered(said_at_once[-1])


def test_undo_is_exact(small_run: charlstm.Run, session: Session) -> None:
    _, said = session(small_run, "\n1\n:u\n:u\n and\n:u\n", "Coffee")
    start, drawn, _, back, at_start, _, at_start_again = said
    assert back.rstrip() == drawn.rstrip()
    assert at_start.rstrip() == at_start_again.rstrip() == start.rstrip()


def test_temperature(small_run: charlstm.Run, session: Session) -> None:
    text, said = session(small_run, ":t 0\n\n:t 0.5\n", "Coffee", tokens=30)
    assert text == small_run.generate("Coffee", length=30, temperature=0)
    assert "temperature 0.5" in said[-1]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("6", "choices go from 1 to 5"),
        ("0", "choices go from 1 to 5"),
        ("9" * 5000, "choices go from 1 to 5"),
        (":t warm", "number"),
        (":t nan", "finite"),
        (":t -1", "temperature"),
        (":u", "nothing to undo"),
        (":what", "no command"),
        (":i", "nothing in it"),
        ("日本", "not in the vocabulary"),
    ],
)
def test_a_wrong_answer_changes_nothing(
    small_run: charlstm.Run, session: Session, answer: str, complaint: str
) -> None:
    text, said = session(small_run, f"{answer}\n", "Coffee")
    assert text == "Coffee"
    assert complaint in "".join(said)
    assert len("".join(said).splitlines()[-1]) < 200


def test_unknown_characters_may_be_skipped(small_run: charlstm.Run, session: Session) -> None:
    text, said = session(small_run, " is日\n", "Coffee", on_unknown="skip")
    assert text == "Coffee is"
    assert "skipped" in "".join(said)


def test_nothing_is_read_after_the_end(small_run: charlstm.Run, session: Session) -> None:
    assert session(small_run, ":q\n1\n1\n", "Coffee")[0] == "Coffee"
    assert session(small_run, "", "")[0] == ""
    assert session(small_run, ":h\n")[1][-1].endswith(HELP)


def test_only_the_end_of_a_long_text_is_shown(small_run: charlstm.Run, session: Session) -> None:
    text, said = session(small_run, "", "Coffee is good. " * 100)
    assert len(text) == 1600
    assert len(said[0]) < 900
    assert said[0].lstrip().startswith("...")


def test_bytes_of_a_character(session: Session) -> None:
    run = untrained(ByteTokenizer())
    bias = np.full(256, -9.0)
    bias[[0xC3, 0xA9]] = 2.0, 1.0
    run.model.parameters["head.weight"][...] = 0
    run.model.parameters["head.bias"][...] = bias
    text, said = session(run, "1\n2\n:u\n2\n2\n", "a", choices=2)
    assert [name for _, name in offered(said[0])] == ["'<C3>'", "'<A9>'"]
    assert [name for _, name in offered(said[1])] == ["'<C3>'", "'é'"]
    assert text == "aé\ufffd"


def test_words(session: Session) -> None:
    text, said = session(untrained(WordTokenizer(["<unk>", "<eos>", "tea"])), "tea\n:n\ntea\nTea\n", "tea")
    assert text == "tea tea\ntea tea"
    assert {name for _, name in offered(said[0])} == {"' <unk>'", r"'\n'", "' tea'"}


def test_an_interrupted_text_is_kept(
    small_run: charlstm.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([" is"])

    def interrupted(prompt: str) -> str:
        for answer in answers:
            return answer
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interact(small_run, "Coffee")
    assert capsys.readouterr().out == "Coffee is\n"


def test_what_cannot_be_used(
    small_run: charlstm.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        interact(small_run, choices=0)
    with pytest.raises(DataError, match="not in the vocabulary"):
        interact(small_run, "日")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(DataError, match="UTF-8"):
        interact(small_run, "Coffee")
    broken = untrained(ByteTokenizer())
    broken.model.parameters["head.bias"][...] = np.nan
    with pytest.raises(DivergedError):
        interact(broken)
