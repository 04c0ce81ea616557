"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_emulator import emulated_ops

import charlstm
from charlstm.backends import Ops, get_ops, unavailable
from charlstm.backends.numba_ops import NumbaOps
from charlstm.data import coffee

# a model for tests of the command line
TINY = ["--hidden-size", "12", "--batch-size", "4", "--seq-len", "16", "--backend", "numpy"]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# on the emulated GPU these take many seconds, and show little that smaller ones do not
SLOW_WHEN_EMULATED = ("shared out over threads", "test_gradients[cupy-emulated-AWD", "worth a thread", "257")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cupy-emulated" in item.nodeid and any(part in item.nodeid for part in SLOW_WHEN_EMULATED):
            item.add_marker("slow")


def make_ops(name: str) -> Ops:
    """A backend by name, "array-api-strict" included; skips where it cannot run."""
    if name == "array-api-strict":
        return Ops(pytest.importorskip("array_api_strict"))
    if name == "cupy-emulated":
        return emulated_ops()
    if name == "numba-generic":
        return NumbaOps(threads=2)
    reason = unavailable(name)
    if reason:
        pytest.skip(reason)
    return get_ops(name, threads=2 if name == "numba" else None)


@pytest.fixture(
    scope="session",
    params=[
        "numpy",
        "numba",
        "numba-generic",
        "array-api-strict",
        "cupy-emulated",
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
)
def ops(request: pytest.FixtureRequest) -> Ops:
    """Each backend that can run here, and the default ops on a namespace that allows nothing extra."""
    return make_ops(request.param)


@pytest.fixture(params=["cupy-emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> str:
    """The name of the CuPy backend for `make_ops`: on the emulated device, and on a real one."""
    return str(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of downloads and encoded texts, in place of the user's."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["CHARLSTM_CACHE"] = str(path)
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tinyshakespeare() -> Path:
    path = SHARED / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"the tinyshakespeare corpus is not at {path}")
    return path


@pytest.fixture(scope="session")
def wikitext2() -> Path:
    path = SHARED / "wikitext-2"
    if not path.is_dir():
        pytest.skip(f"WikiText-2 is not at {path}")
    return path


@pytest.fixture(scope="session")
def small_config() -> charlstm.Config:
    return charlstm.Config(
        charlstm.ModelConfig(hidden_size=24, num_layers=2, dtype="float64"),
        charlstm.DataConfig(batch_size=8, seq_len=20),
        charlstm.TrainingConfig(max_steps=60, eval_every=20, sample_every=30, sample_threshold=0.0),
    )


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small_config: charlstm.Config) -> charlstm.Run:
    """A run of a few steps, for tests that only read it."""
    out = tmp_path_factory.mktemp("runs") / "small"
    return charlstm.train("coffee", small_config, out=out, backend="numpy", quiet=True)


@pytest.fixture(scope="session")
def bytes_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A model of bytes, which writes parts of characters, and whatever a regular expression makes it write."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text("é😀ü" * 600, encoding="utf-8")
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(tokenizer="bytes", batch_size=4, seq_len=16),
        charlstm.TrainingConfig(max_steps=3),
    )
    return charlstm.train(folder / "text.txt", config, out=folder / "run", backend="numpy", quiet=True)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(coffee.text(3000))
    return path


def charlstm_command(*arguments: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charlstm", *map(str, arguments)]
    if "input" not in keywords:
        keywords["stdin"] = subprocess.DEVNULL
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, capture_output=True, text=True, timeout=120, **keywords
    )


def assert_fails(done: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """The status, nothing on stdout, no traceback, and a last line that says all of `parts`."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("charlstm: ")
    for part in parts:
        assert part in last
