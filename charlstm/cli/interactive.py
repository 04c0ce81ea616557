"""Writing a text in turns with a model: `charlstm generate RUN --interactive`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..cifg import State
from ..config import OnUnknown, differing
from ..data import Decoder
from ..errors import DataError, UsageError
from ..generation import Batch, Stream
from ..generation.reading import read
from ..model import log_posterior, most_probable
from ..run import Run
from ..sampling import SamplingConfig
from ..wording import printable
from .options import tell_unknown

CHOICES = 5  # tokens to choose from, unless told otherwise
SHOWN = 600  # characters of the text so far that are shown
HELP = """\
Enter       let the model go on        a number   take that choice
some text   insert it, spaces included :i TEXT    insert what looks like a number or a command
:n          insert a line end          :t 0.7     set the temperature
:u          take back what came last   :q         quit (or Ctrl-D), and print the text
:h          this help
"""


class _Place(NamedTuple):
    """Where the writing stands after some action."""

    added: str  # by this action
    recent: np.ndarray  # the last tokens, as many as samplers look back
    logits: np.ndarray  # (V,): of the next token
    state: State
    decoder: Decoder


def interact(
    run: Run,
    prompt: str = "",
    sampling: SamplingConfig | None = None,
    *,
    on_unknown: OnUnknown = "error",
    choices: int = CHOICES,
    tokens: int = 20,
) -> None:
    """Write a text in turns with a person, who answers line by line on stdin; see HELP.

    Before each answer the end of the text so far goes to stderr, and the `choices` most probable next
    tokens with their probabilities, those of the model at temperature 1. An empty line lets the model go
    on with `tokens` tokens, drawn as `sampling` says, which has no length, stop or regex of its own. The end of the
    input or :q ends the writing, and the text, prompt included, goes to stdout; so it does after Ctrl-C.

    Raises UsageError for choices or tokens below 1, and for these options; DataError for a prompt as `generate` does,
    DivergedError where logits are not finite.
    """
    if choices < 1 or tokens < 1:
        raise UsageError(f"choices and tokens must be at least 1, not {choices} and {tokens}")
    sampling = sampling if sampling is not None else SamplingConfig()
    useless = differing(sampling).keys() & {"length", "stop", "regex"}
    if useless:
        raise UsageError(f"{min(useless)} does nothing where a text is written in turns")
    writing = _Writing(run, prompt, sampling, on_unknown, choices, tokens)
    _say(HELP)
    try:
        _say(writing.shown())
        for line in _answers():
            if line in (":q", ":quit"):
                break
            try:
                answer = writing.answer(line)
            except (DataError, UsageError) as error:
                answer = f"{error}\n"
            _say(answer)
    finally:
        text = writing.text()
        sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")


class _Writing:
    """The text, and every place to go back to; a place holds its own state, so that going back is exact."""

    def __init__(
        self,
        run: Run,
        prompt: str,
        sampling: SamplingConfig,
        on_unknown: OnUnknown,
        choices: int,
        tokens: int,
    ) -> None:
        self._model, self._tokenizer = run.model, run.tokenizer
        self._sampling, self._on_unknown = sampling, on_unknown
        self._choices, self._tokens = choices, tokens
        self._rng = np.random.default_rng(sampling.seed)
        ids = self._tokenizer.encode(prompt, on_unknown)
        if not len(ids):
            ids = np.array([self._tokenizer.start_token])
        logits, state = self._read(ids, self._model.zero_state(1))
        self._places = [_Place(prompt, self._last(ids), logits, state, self._tokenizer.decoder(prompt))]

    def text(self) -> str:
        """All of it."""
        return self._written() + self._places[-1].decoder.copy().finish()

    def _written(self) -> str:
        return "".join(place.added for place in self._places)

    def _last(self, ids: np.ndarray) -> np.ndarray:
        return ids[max(0, len(ids) - self._sampling.repetition_window) :]

    def shown(self) -> str:
        """The end of the text, and the numbered choices."""
        text = self._written()
        end = text[-SHOWN:]
        lines = ["", ("..." if len(end) < len(text) else "") + printable(end)]
        for number, (token, probability) in enumerate(self._most_probable(), 1):
            lines.append(f"{number:>3}  {probability:6.1%}  {self._name(token)}")
        return "\n".join(lines) + "\n"

    def answer(self, line: str) -> str:
        """Do what a line asks for; what to say then. Raises DataError or UsageError where it cannot be done."""
        command, _, argument = line.partition(" ")
        match command:
            case "" if not line:
                self._go_on()
            case ":n":
                self._insert("\n")
            case ":i":
                self._insert(argument)
            case ":t":
                return self._set_temperature(argument)
            case ":u":
                if len(self._places) == 1:
                    raise UsageError("nothing to undo")
                self._places.pop()
            case ":h" | ":help" | ":?":
                return HELP
            case _ if line.startswith(":"):
                raise UsageError(f"{printable(command)} is no command (:h lists them; :i inserts any text)")
            case _ if line.isdecimal():
                self._take(line)
            case _:
                self._insert(line)
        return self.shown()

    def _take(self, line: str) -> None:
        choices = {str(number): token for number, (token, _) in enumerate(self._most_probable(), 1)}
        if line not in choices:
            raise UsageError(f"choices go from 1 to {len(choices)} (:i inserts a number as text)")
        self._add(np.array([choices[line]]))

    def _insert(self, text: str) -> None:
        tell_unknown(self._tokenizer, self._tokenizer.unknown(text), self._on_unknown)
        ids = self._tokenizer.encode(text, self._on_unknown)
        if not len(ids):
            raise DataError("there is nothing in it that the model knows")
        self._add(ids)

    def _go_on(self) -> None:
        place = self._places[-1]
        sampling = replace(self._sampling, length=self._tokens)
        stream = Stream(self._tokenizer, "", sampling, alternatives=0)
        stream.prompt_ids = place.recent  # what was read: text does not always give its tokens back
        stream.rng = self._rng  # goes on from turn to turn, and after an undo: something else is to come
        batch = Batch(self._model)
        logits = self._model.ops.asarray(place.logits[np.newaxis])
        batch.add([stream], [(logits, place.state)])
        while batch.streams:
            batch.advance()
        if not stream.tokens:
            raise UsageError("nothing may follow here")
        self._add(np.array([token.id for token in stream.tokens]))

    def _set_temperature(self, argument: str) -> str:
        try:
            temperature = float(argument)
        except ValueError:
            raise UsageError(f"a temperature is a number, such as :t 0.7, not {argument!r}") from None
        if not np.isfinite(temperature):
            raise UsageError(f"a temperature is finite, not {temperature}")
        self._sampling = replace(self._sampling, temperature=temperature)
        return f"temperature {temperature:g}\n"

    def _add(self, ids: np.ndarray) -> None:
        self._place(ids, *self._read(ids, self._places[-1].state))

    def _place(self, ids: np.ndarray, logits: np.ndarray, state: State) -> None:
        before = self._places[-1]
        decoder, recent = before.decoder.copy(), self._last(np.concatenate((before.recent, ids)))
        self._places.append(_Place(decoder.feed(ids), recent, logits, state, decoder))

    def _read(self, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """The logits (V,) and the state after tokens (N,)."""
        logits, state = read(self._model, ids, state)
        return self._model.ops.to_numpy(logits)[0], state

    def _most_probable(self) -> list[tuple[int, float]]:
        """Tokens and their probabilities, the most probable first."""
        logarithms = log_posterior(self._places[-1].logits[np.newaxis])
        best = most_probable(logarithms, self._choices)[0]
        return [(int(token), float(np.exp(logarithms[0, token]))) for token in best]

    def _name(self, token: int) -> str:
        """What a token adds to the text, quoted; its bytes, where these are no whole character yet."""
        text = self._places[-1].decoder.copy().feed([token])
        if not text or "\ufffd" in text:
            text = self._tokenizer.name_of(token)
        return printable(repr(text))


def _answers() -> Iterator[str]:
    """The lines of stdin, without their ends; with a line editor where a person sits at a terminal."""
    editing = sys.stdin.isatty() and sys.stdout.isatty()
    if editing:
        import readline  # noqa: F401  # input() takes it up
    while True:
        try:
            if editing:
                yield input("> ")
                continue
            if sys.stdin.isatty():
                _say("> ")
            line = sys.stdin.readline()
        except EOFError:
            return
        except UnicodeDecodeError:
            raise DataError("what comes on stdin is not text in UTF-8") from None
        if not line:
            return
        yield line.removesuffix("\n").removesuffix("\r")


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
