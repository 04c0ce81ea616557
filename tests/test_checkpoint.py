"""Model directories: whole or not at all, refused when damaged, readable by every backend."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import charlstm
from charlstm import CharacterTokenizer, CheckpointError, checkpoint
from charlstm.backends import Ops
from charlstm.model import CIFGModel

TOKENIZER = CharacterTokenizer("abcdefg")
BUFFERS = ["optimizer.m", "optimizer.v"]


def small_model(seed: int = 0) -> CIFGModel:
    return CIFGModel(7, charlstm.ModelConfig(5, 2, 3, dtype="float64"), backend="numpy", seed=seed)


def training_state(model: CIFGModel, step: int) -> checkpoint.TrainingState:
    n = model.num_parameters
    carried = {"state.h": np.full((2, 4, 5), 0.1 * step), "state.c": np.full((2, 4, 5), 0.2 * step)}
    return checkpoint.TrainingState(
        {"optimizer.m": np.full(n, 1.0), "optimizer.v": np.full(n, 2.0)}, carried, {"step": step}
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "model", small_model(), TOKENIZER, "a card", training_state(small_model(), 3))
    return tmp_path / "model"


def test_round_trip_to_every_backend(saved: Path, ops: Ops) -> None:
    model, tokenizer = checkpoint.load(saved, ops)
    assert model.config == small_model().config
    assert tokenizer.vocabulary == TOKENIZER.vocabulary
    assert np.array_equal(ops.to_numpy(model.parameters.flat), small_model().parameters.flat)
    assert sorted(p.name for p in saved.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "training.json", "training.safetensors",
    ]  # fmt: skip
    state = checkpoint.load_training(saved, model, BUFFERS)
    assert state.progress == {"step": 3}
    assert np.array_equal(state.carried["state.c"], np.full((2, 4, 5), 0.2 * 3))


def test_arrays_that_are_not_contiguous_are_saved_as_they_are() -> None:
    array = np.arange(12.0).reshape(3, 4)
    unpacked = safetensors.numpy.load(checkpoint._packed({"a": array.T, "b": array[:, ::2]}))
    assert np.array_equal(unpacked["a"], array.T)
    assert np.array_equal(unpacked["b"], array[:, ::2])


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "tokenizer.json", "training.safetensors", "training.json"],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_damaged_files_are_refused(saved: Path, name: str, damage: str) -> None:
    path = saved / name
    content = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        path.write_bytes(b'{"model_type": "bert"}' if name.endswith("json") else b"\x80\x04PICKLE" * 100)
    if name.startswith("training"):
        model, _ = checkpoint.load(saved, "numpy")
        if name.endswith("json") and damage == "foreign":
            assert (
                "step" not in checkpoint.load_training(saved, model, BUFFERS).progress
            )  # the trainer refuses it
            return
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            checkpoint.load_training(saved, model, BUFFERS)
        return
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.load(saved, "numpy")


@pytest.mark.parametrize("cut", range(0, 2200, 200))
def test_weights_cut_anywhere_are_refused(saved: Path, cut: int) -> None:
    path = saved / "model.safetensors"
    assert path.stat().st_size > 2200
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.load(saved, "numpy")


def tampered(weights: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    bias = weights["head.bias"]
    yield "NaN or infinite", {**weights, "head.bias": np.full_like(bias, np.nan)}
    yield "NaN or infinite", {**weights, "head.bias": np.full_like(bias, np.inf)}
    yield "asks for float64", {**weights, "head.bias": bias.astype(np.float32)}
    yield r"asks for float64 \(7,\)", {**weights, "head.bias": bias[:-1]}
    yield "unexpected arrays: extra", {**weights, "extra": bias}
    yield "missing or unexpected arrays: head.bias", {k: v for k, v in weights.items() if k != "head.bias"}


@pytest.mark.parametrize("which", range(6))
def test_tampered_weights_are_refused(saved: Path, which: int) -> None:
    path = saved / "model.safetensors"
    problem, weights = list(tampered(safetensors.numpy.load_file(path)))[which]
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(CheckpointError, match=problem):
        checkpoint.load(saved, "numpy")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 6), ("hidden_size", "5"), ("hidden_size", -1), ("hidden_size", 10**9), ("num_layers", 1),
        ("embedding_size", None), ("output_size", 6), ("dtype", "float16"), ("format", 99), ("emit", "never"),
        ("emit", "last"),        ("num_layers", 10**9),
        ("tokenizer_hash", "0"), ("input_size", 3),
    ],
)  # fmt: skip
def test_tampered_config_is_refused(saved: Path, key: str, value: object) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError):
        checkpoint.load(saved, "numpy")


def test_another_models_tokenizer_is_refused(saved: Path) -> None:
    (saved / "tokenizer.json").write_text(CharacterTokenizer("gfedcba").to_json())
    with pytest.raises(CheckpointError, match="not the one that the weights were trained with"):
        checkpoint.load(saved, "numpy")


class Killed(BaseException):
    """Stands for the process's end: nothing catches it, nothing is cleaned up after it."""


def test_a_kill_between_any_two_steps_of_saving_loses_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small_model(0).parameters.flat, small_model(1).parameters.flat
    outcomes = []
    for stop_at in range(100):
        calls = 0

        def counted(function, stop_at=stop_at):  # type: ignore[no-untyped-def]
            def call(*args, **kwargs):  # type: ignore[no-untyped-def]
                nonlocal calls
                calls += 1
                if calls > stop_at:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (shutil, "rmtree")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                checkpoint.save(saved, small_model(1), TOKENIZER, "a card", training_state(small_model(), 4))
                finished = True
            except Killed:
                finished = False
        model, _ = checkpoint.load(saved, "numpy")
        is_new = np.array_equal(model.parameters.flat, new)
        assert is_new or np.array_equal(model.parameters.flat, old)
        assert checkpoint.load_training(saved, model, BUFFERS).progress["step"] == (4 if is_new else 3)
        outcomes.append(is_new)
        if finished:
            break
        checkpoint.save(saved, small_model(0), TOKENIZER, "a card", training_state(small_model(), 3))
        assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]  # leftovers are swept
    assert finished
    assert len(outcomes) > 8
    assert not outcomes[0]
    assert outcomes[-1]


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import TOKENIZER, small_model, training_state
from charlstm import CheckpointError, checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    checkpoint.save(Path(sys.argv[1]), small_model(1), TOKENIZER, "a card", training_state(small_model(), 4))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 300, 4000])
def test_a_full_disk_keeps_the_old_checkpoint(saved: Path, room: int) -> None:
    command = [sys.executable, "-c", FILL, str(saved), str(Path(__file__).parent), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    model, _ = checkpoint.load(saved, "numpy")
    assert np.array_equal(model.parameters.flat, small_model(0).parameters.flat)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_directories_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run directory"):
        charlstm.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="neither a run directory nor a model directory"):
        charlstm.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no model directory at"):
        charlstm.load(tmp_path)
