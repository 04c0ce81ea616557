"""The command line: `charlstm train`, `generate`, `evaluate`, `compare`, `inspect`, `export`, `serve`, `backends`.

Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 usage, 3 data or
vocabulary, 4 diverged, 5 backend not available, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from cyclopts import App, CycloptsError, UnusedCliTokensError
from rich.console import Console

from .. import __version__
from ..errors import CharLSTMError
from .options import COMMAND

HELP = """Train and sample CIFG-LSTM language models on NumPy, Numba or CuPy.

```
charlstm train                    # learn the embedded corpus, one minute
charlstm train --data my.txt      # learn your own text
charlstm generate runs/my-1 --prompt "Once"
charlstm serve runs/my-1          # a page and an API
charlstm backends --check         # does this machine compute rightly?
```
"""

HYPHENED = ("--data", "--text", "--prompt-file", "--max-time")
COMMANDS = {  # each lies in the module of its name, and begins its own help so
    "train": "Train a language model.",
    "generate": "Generate text from a trained model.",
    "evaluate": "Measure how well a trained model predicts a text.",
    "compare": "Measure several runs on one text, and set side by side what they reach, what they cost and how "
    "they differ.",
    "inspect": "Look inside a trained model while it reads: one HTML page, coloured by surprise or by any cell.",
    "export": "Write a trained model for other programs, or for other people.",
    "serve": "Serve trained models: a page to write with, and an API in OpenAI's format of completions.",
    "backends": "Show what each backend can use on this machine, and check that it computes rightly.",
}


def _app(arguments: Sequence[str]) -> App:
    """The commands; the module of one is imported when it is asked for."""
    app = App(
        name="charlstm",
        help=HELP,
        version=__version__,
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    for command, text in COMMANDS.items():  # a text would take the place of the command's own help
        app.command(f"{__name__}.{command}:{command}", help=None if command in arguments else text)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    COMMAND.set(shlex.join(["charlstm", *arguments]))
    if isinstance(sys.stdout, TextIOWrapper):  # whatever the locale: text comes out as it went in
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:  # what takes long is said to people, not to files
        logging.basicConfig(format="%(message)s", handlers=[_ToStderr()])
        logging.getLogger("charlstm").setLevel(logging.INFO)
    try:
        status = _app(arguments)(
            _with_values(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
            error_console=console,
        )
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except CycloptsError as error:
        return _fail(_one_line(error), 2)
    except CharLSTMError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # the reader of a pipe has seen enough; Python must not try to flush the rest at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)
    except MemoryError as error:
        where = "GPU memory" if _of_cupy(error) else "memory"
        return _fail(f"out of {where}: try a smaller --hidden-size, --batch-size or --seq-len", 1)
    except Exception as error:
        if not _of_cupy(error):
            raise
        words = " ".join(str(error).split())
        return _fail(f"the GPU has failed ({words}): charlstm backends --check tests it", 1)


def _of_cupy(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")


class _ToStderr(logging.Handler):
    """Writes to whatever stderr is at the time: that of a live display while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _with_values(arguments: Sequence[str]) -> list[str]:
    """With `--data -` and `--max-time -5s` as one word: a hyphen, alone or before a digit, begins a value there."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in HYPHENED and re.fullmatch(r"-(\d.*)?", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _one_line(error: CycloptsError) -> str:
    cause = error.__cause__
    text = str(cause) if isinstance(cause, CharLSTMError) else str(error)
    if isinstance(error, UnusedCliTokensError):
        text = (
            f"what is {shlex.join(error.unused_tokens or [])} for? Options go by name, such as --data my.txt"
        )
    return " ".join(text.split()) + " (--help lists the options)"


def _fail(message: str, status: int) -> int:
    with suppress(OSError):  # nobody listens any more
        print(f"charlstm: {message}", file=sys.stderr)
    return status
