"""The site of the documentation: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]
# for the kernels that execute the notebooks: the checkout's charlstm, and small settings
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
os.environ["CHARLSTM_QUICK"] = "1"

from docstrings import to_rst  # noqa: E402

import charlstm  # noqa: E402

project, author, copyright = "charlstm", "the charlstm authors", "the charlstm authors"
release = version = charlstm.__version__
extensions = ["sphinx.ext.autodoc", "myst_nb"]
exclude_patterns = ["_build", "images"]

html_theme = "furo"
html_title = f"charlstm {release}"
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

default_role = "py:obj"  # `name` in a docstring is a link where there is something to link to
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
toc_object_entries_show_parents = "hide"

# what the modules that charlstm's names come from are about, in the order of the API's page; others follow
TITLES = {
    "training": "Training", "run": "Runs", "config": "Options", "model": "Networks", "data": "Texts and tokenizers",
    "evaluation": "Evaluation", "backends": "Backends", "cifg": "States", "errors": "Errors",
}  # fmt: skip
COPIES = {
    ROOT / "benchmarks" / "RESULTS.md": HERE / "project" / "results.md",
    ROOT / "CONTRIBUTING.md": HERE / "project" / "contributing.md",
    ROOT / "CHANGELOG.md": HERE / "project" / "changelog.md",
    **{path: HERE / "notebooks" / path.name for path in (ROOT / "notebooks").glob("*.ipynb")},
}
LINK = re.compile(r"(?<=\]\()([\w./-]+)")  # to a file, in Markdown


def _public_names() -> str:
    """Markdown for everything that `charlstm` gives, module by module."""
    lines = []
    order = [*TITLES, *sorted(charlstm._WHERE)]
    for module in sorted(charlstm._WHERE, key=order.index):
        lines += ["", f"## {TITLES.get(module, module.replace('_', ' ').capitalize())}", "", "```{eval-rst}"]
        for name in charlstm._WHERE[module]:
            value = getattr(charlstm, name)
            kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
            lines.append(f".. auto{kind}:: charlstm.{name}")
            if name == "Ops":  # it has a page of its own
                lines.append("   :no-members:")
                lines.append("   :no-index:")
        lines.append("```")
    return "\n".join(lines)


def _copy_documents() -> None:
    """Bring what lies outside of this folder into it, where Sphinx looks."""
    for folder in sorted({copy.parent for copy in COPIES.values()}):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for original, copy in COPIES.items():
        shutil.copy2(original, copy)  # with its time, by which Sphinx sees whether it has changed


def _read_source(app: Any, docname: str, source: list[str]) -> None:
    """Let links between documents of the repository lead to the pages that the site makes of them."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    original = {copy: original for original, copy in COPIES.items()}.get(page, page)
    places = {**COPIES, ROOT / "README.md": HERE / "index.md"}

    def relinked(match: re.Match[str]) -> str:
        target = (original.parent / match[1]).resolve()
        return os.path.relpath(places.get(target, target), page.parent)

    source[0] = LINK.sub(relinked, source[0])
    if docname == "reference/api":
        source[0] += _public_names()


def _process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def _skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what other libraries add to classes, and what Python says of a named tuple's fields: nothing."""
    foreign = callable(obj) and not str(getattr(obj, "__module__", "charlstm")).startswith("charlstm")
    return True if foreign or str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Any) -> None:
    _copy_documents()
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-skip-member", _skip_member)
