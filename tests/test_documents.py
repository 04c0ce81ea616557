"""Examples in docstrings and in Markdown run, and the site's reading of docstrings."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT, blocks

import charlstm
from charlstm.data import coffee

PACKAGE = ROOT / "charlstm"
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
# the documents whose Python runs as it stands, beside theory.md, which has tests of its own
DOCUMENTS = ("README.md", "docs/index.md")


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_in_docstrings(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    done = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0


def shortened(code: str) -> str:
    """Code with limits of time as numbers of steps, each higher than those before it, and small models."""
    steps = iter(range(2, 100, 2))
    code = re.sub(r'max_time="\w+"', lambda _: f"max_steps={next(steps)}", code)
    code = code.replace("charlstm.Config(", "charlstm.Config(SMALL, ")
    code = code.replace('charlstm.train("my.txt")', 'charlstm.train("my.txt", SHORT)')
    return re.sub(r"hidden_size=\d+", "hidden_size=8", code)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_in_documents(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.txt").write_text(coffee.text(3000) + "Once, Never.\n")
    tokens, targets = np.arange(20).reshape(2, 5, 2)
    names: dict[str, Any] = {"tokens": tokens, "targets": targets, "batches": [(tokens, targets)] * 2}
    names["SMALL"] = small = charlstm.ModelConfig(hidden_size=8)
    names["SHORT"] = charlstm.Config(small, training=charlstm.TrainingConfig(max_steps=2))
    found = blocks(document, "python")
    assert found
    for block in found:
        exec(compile(shortened(block), document, "exec"), names)


def test_docstrings_become_restructuredtext(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    from docstrings import to_rst  # type: ignore[import-not-found]

    docstring = """Of the cell
|c_t| is at most 1::

    c = 1
    *code* as it stands

x      what is read,
       of two * three `numbers`
emit   "every" or "last"

>>> 1 + 1
2
"""
    assert to_rst(docstring.split("\n")) == [
        "Of the cell", r"\|c\_t\| is at most 1:", "",
        "::", "", "    c = 1", "    *code* as it stands", "",
        "``x``", "    what is read,", r"    of two \* three `numbers`", "``emit``", '    "every" or "last"', "",
        ">>> 1 + 1", "2", "",
    ]  # fmt: skip
