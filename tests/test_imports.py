"""What importing costs, and the names that the package promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import charlstm

SLOW = [
    "numba",
    "llvmlite",
    "cupy",
    "torch",
    "matplotlib",
    "rich",
    "cyclopts",
    "scipy",
    "sklearn",
    "pandas",
    "IPython",
    "tokenizers",
    "pooch",
    "requests",
    "fastapi",
    "uvicorn",
    "prometheus_client",
]


def modules_after(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_charlstm_is_light() -> None:
    loaded = modules_after("import charlstm; charlstm.Config; charlstm.UsageError")
    assert not loaded & {*SLOW, "numpy"}


def test_the_numpy_backend_loads_neither_numba_nor_cupy() -> None:
    code = "import charlstm; charlstm.LanguageModel(5, 4, 1, backend='numpy'); charlstm.load; charlstm.train"
    assert not modules_after(code) & (set(SLOW) - {"rich"})


def test_the_numba_backend_does_not_load_cupy() -> None:
    loaded = modules_after("import charlstm; charlstm.LanguageModel(5, 4, 1, backend='numba')")
    assert "numba" in loaded
    assert "cupy" not in loaded


def test_the_command_line_does_not_load_what_only_serving_needs() -> None:
    assert not modules_after("import charlstm.cli") & {"fastapi", "uvicorn", "pydantic", "prometheus_client"}


@pytest.mark.parametrize("name", charlstm.__all__)
def test_public_names(name: str) -> None:
    value = getattr(charlstm, name)
    assert name.startswith("__") or value.__doc__


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        charlstm.Transformer  # noqa: B018
    assert set(charlstm.__all__) == set(dir(charlstm))
