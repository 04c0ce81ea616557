"""benchmarks/gpu.py at tiny sizes, on the emulated GPU and beside PyTorch on the CPU: what it records."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_ops

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with tiny sizes."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("gpu")
    for name, value in {
        "TRAINED": {"M": script.Shape(6, 2, 3, 4)}, "LAYERS": [(5, 3)], "STEPS": 4, "STREAMS": (1, 3), "DRAWN": 3,
        "LARGE": 8,
    }.items():  # fmt: skip
        monkeypatch.setattr(script, name, value)
    return script


def emulated(precision: str) -> Any:
    ops = make_ops("cupy-emulated")
    ops.matmul_precision = precision  # type: ignore[assignment]
    return ops


def test_what_is_recorded(gpu: Any) -> None:
    told: list[Any] = []
    measuring = gpu.Measuring(emulated, None, "cuda", time.perf_counter() + 100, 0.0)
    record = json.loads(json.dumps(gpu.measured(measuring, None, told.append)))
    assert record["left_out"] == []
    assert [line["precision"] for line in record["training"]] == ["highest", "high", "medium"]
    assert all(line["tokens_per_second"] > 0 for line in record["training"])
    assert all(line["torch_seconds"] is None for line in record["training"])
    assert [line["streams"] for line in record["generation"]] == [1, 3]
    assert len(record["layers"]) == 6
    for floor in ("products", "bytes", "launches"):
        assert all(line[f"floor_of_{floor}"] > 0 for line in record["layers"])
    assert len(told) == 3 + 2 + 6
    assert record["device"] == "emulated"
    assert set(record["versions"]) == {"charlstm", "python", "numpy", "cupy"}


def test_pairs_with_pytorch(gpu: Any) -> None:
    torch = pytest.importorskip("torch")
    measuring = gpu.Measuring(lambda _: make_ops("numba"), torch, "cpu", time.perf_counter() + 100, 0.0)
    record = gpu.measured(measuring, None, print)
    compared = [line for line in record["training"] + record["layers"] if line["precision"] == "highest"]
    assert len(compared) == 3
    assert all(line["ratio"] > 0 for line in compared)
    assert "training M medium: it runs as highest" in record["left_out"]


def test_what_there_is_no_time_for_is_listed(gpu: Any) -> None:
    measuring = gpu.Measuring(emulated, None, "cuda", time.perf_counter() - 1, 0.0)
    record = gpu.measured(measuring, None, print)
    assert "training M highest: no time" in record["left_out"]
    assert all(line["seconds"] is None for line in record["training"])
