"""Fixtures that the whole suite shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import charlstm
from charlstm.backends import Ops, get_ops, unavailable

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_ops(name: str) -> Ops:
    """A backend by name, "array-api-strict" included; skips where it cannot run."""
    if name == "array-api-strict":
        return Ops(pytest.importorskip("array_api_strict"))
    reason = unavailable(name)
    if reason:
        pytest.skip(reason)
    return get_ops(name)


@pytest.fixture(
    scope="session",
    params=["numpy", "numba", "array-api-strict", pytest.param("cupy", marks=pytest.mark.gpu)],
)
def ops(request: pytest.FixtureRequest) -> Ops:
    """Each backend that can run here, and the default ops on a namespace that allows nothing extra."""
    return make_ops(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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
