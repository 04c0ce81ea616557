"""`charlstm generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import OnUnknown, differing
from ..data import Tokenizer, read_text
from ..data.sources import spooled_stdin
from ..errors import UsageError
from ..generation import DRAWN_AT_ONCE, LENGTH_PENALTY, Completion, complete, generate_many
from ..run import Run, Which, load
from ..sampling import SamplingConfig
from ..wording import printable
from .interactive import CHOICES, interact
from .options import Backend, Json, Precision, Threads, Unknown, tell_unknown


def generate(
    run: Path,
    /,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    prompt_file: str | None = None,
    sampling: Annotated[SamplingConfig | None, Parameter(name="*", negative=())] = None,
    samples: int = 1,
    beams: int = 0,
    length_penalty: float = LENGTH_PENALTY,
    interactive: Annotated[bool, Parameter(negative="")] = False,
    choices: int = CHOICES,
    on_unknown: Unknown = "error",
    which: Which = "best",
    backend: Backend = "auto",
    threads: Threads = None,
    matmul_precision: Precision = "highest",
    json_output: Json = False,
    alternatives: int = 0,
) -> None:
    """Generate text from a trained model.

    ```
    charlstm generate runs/my-1 --prompt "ROMEO:" --length 500
    charlstm generate runs/my-1 --temperature 0.5 --seed 7 > poem.txt
    charlstm generate runs/my-1 --prompt-file letter.txt --top-p 0.9 --stop "The End"
    charlstm generate runs/my-1 --samples 4 --json --alternatives 5
    charlstm generate runs/my-1 --regex "[A-Z]+:" --length 20
    charlstm generate runs/my-1 --prompt "ROMEO:" --beams 8 --length 60
    charlstm generate runs/my-1 --interactive                # write together
    ```

    Prints the prompt and what follows it on stdout, and nothing else there.

    Parameters
    ----------
    run
        A run directory, or a model directory.
    prompt
        Text to go on from; without any, the text begins a line.
    prompt_file
        A file with the text to go on from, of any length; - for stdin.
    samples
        How many texts, drawn side by side: with the seed, the seed + 1 and so on.
    beams
        Search for the most probable text, with so many beginnings side by side, in place of drawing one; of the
        options above only --length, --stop and --regex go with it. Prints the best; --json all.
    length_penalty
        With --beams, how much longer texts are favoured: 0 compares probabilities.
    interactive
        Write in turns with the model: take one of the most probable tokens, type text, or let it go on. --length,
        --stop and --regex do not go with it.
    choices
        With --interactive, how many tokens to choose from.
    which
        Checkpoint to take.
    alternatives
        With --json, tell for each token so many of the most probable ones.
    """
    sampling = sampling if sampling is not None else SamplingConfig()
    if samples < 1 or alternatives < 0 or beams < 0:
        raise UsageError("--samples must be at least 1, --alternatives and --beams at least 0")
    if (samples > 1) + (beams > 0) + interactive > 1:
        raise UsageError("choose one of --samples, --beams and --interactive")
    if interactive and (json_output or prompt_file == "-"):
        raise UsageError("--interactive reads answers from stdin and prints text: leave --json or - out")
    drawn_as_json = json_output and not beams
    for option, given, effective in (
        ("--alternatives", alternatives > 0, drawn_as_json),
        ("--length-penalty", length_penalty != LENGTH_PENALTY, beams > 0),
        ("--choices", choices != CHOICES, interactive),
    ):
        if given and not effective:
            raise UsageError(f"{option} does nothing here: --help tells what it goes with")
    loaded = load(run, backend, which=which, threads=threads, matmul_precision=matmul_precision)
    start = _prompt(prompt, prompt_file, loaded.tokenizer)
    tell_unknown(loaded.tokenizer, loaded.tokenizer.unknown(start), on_unknown)
    if interactive:
        interact(loaded, start, sampling, on_unknown=on_unknown, choices=choices)
        return
    if beams:
        _search(loaded, start, sampling, beams, length_penalty, on_unknown, json_output)
        return
    prompts = [start] * samples
    if json_output:
        texts = complete(loaded.model, loaded.tokenizer, prompts, sampling, on_unknown, alternatives)
        print(json.dumps({"prompt": start, "samples": [_described(text, loaded) for text in texts]}))
        return
    pieces = generate_many(loaded.model, loaded.tokenizer, prompts, sampling, on_unknown)
    _print(start, _with_progress(pieces, sampling.length), sampling.seed, samples)


def _search(
    run: Run,
    prompt: str,
    sampling: SamplingConfig,
    beams: int,
    length_penalty: float,
    on_unknown: OnUnknown,
    as_json: bool,
) -> None:
    useless = set(differing(sampling)) - {"length", "stop", "regex"}
    if useless:
        raise UsageError(f"{min(useless)} does nothing with --beams: nothing is drawn")
    found = run.beam_search(
        prompt, beams=beams, length=sampling.length, length_penalty=length_penalty, stop=sampling.stop,
        regex=sampling.regex, on_unknown=on_unknown,
    )  # fmt: skip
    if as_json:
        print(json.dumps({"prompt": prompt, "beams": [each._asdict() for each in found]}))
        return
    text = prompt + found[0].text + "\n"
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def _prompt(prompt: str | None, file: str | None, tokenizer: Tokenizer) -> str:
    if file is None:
        return prompt or ""
    if prompt is not None:
        raise UsageError("give --prompt or --prompt-file, not both")
    with spooled_stdin() if file == "-" else nullcontext(file) as place:
        return read_text(Path(place), errors=tokenizer.decoding_errors)


def _print(prompt: str, pieces: Iterator[list[str]], seed: int, samples: int) -> None:
    """Print the first text as it comes, the others after it."""
    terminal = sys.stdout.isatty()
    further: list[list[str]] = []

    def show(text: str) -> None:
        sys.stdout.write(printable(text) if terminal else text)
        if terminal:
            sys.stdout.flush()

    show(prompt)
    for first, *rest in pieces:
        for character in first if terminal else [first]:
            show(character)
        further.append(rest)
    show("\n")
    for k, parts in enumerate(zip(*further, strict=True), 1):
        if sys.stderr.isatty():
            sys.stdout.flush()
            print(f"--- sample {k + 1} of {samples}, seed {seed + k}", file=sys.stderr)
        show(prompt + "".join(parts) + "\n")


def _with_progress(pieces: Iterator[list[str]], length: int) -> Iterator[list[str]]:
    """The pieces; where they go to a file, a terminal sees how far they have got."""
    console = Console(stderr=True)
    if sys.stdout.isatty() or not console.is_terminal:
        yield from pieces
        return
    columns = BarColumn(bar_width=20), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=length)
        for piece in pieces:
            progress.advance(task, DRAWN_AT_ONCE)
            yield piece


def _described(text: Completion, run: Run) -> dict[str, Any]:
    """A text as JSON tells it."""
    return {
        "text": text.text,
        "seed": text.seed,
        "finish_reason": text.finish_reason,
        "tokens": [
            {
                "id": token.id,
                "text": token.text,
                "log_probability": token.log_probability,
                "entropy": token.entropy,
                "alternatives": [
                    {"id": other, "text": run.tokenizer.name_of(other), "log_probability": value}
                    for other, value in token.alternatives
                ],
            }
            for token in text.tokens
        ],
    }
