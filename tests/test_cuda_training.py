"""Training on the emulated GPU: captured steps, numbers that stay on the device, checkpoints that move."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cuda_emulator
import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose

import charlstm
from charlstm import ModelConfig, TrainingConfig
from charlstm.backends import Ops
from charlstm.backends.capture import MOST_GRAPHS, Captured, _Graph
from charlstm.cifg import State
from charlstm.model import CIFGModel
from charlstm.training.learner import Learner

V, T, B = 11, 7, 5
EVERYTHING: dict[str, Any] = {
    "dropout": 0.2, "input_dropout": 0.1, "output_dropout": 0.3, "embedding_dropout": 0.1, "weight_drop": 0.2,
    "tied_embeddings": True,
}  # fmt: skip


def learned(
    ops: Ops, steps: int, config: TrainingConfig, seq_len: int = T, **options: Any
) -> tuple[Any, ...]:
    """Weights, last state, losses and norms after some steps; the losses are read at the end only."""
    model = CIFGModel(V, ModelConfig(9, 2, 6, dtype="float64", **options), backend=ops)
    learner, rng = Learner(model, config), np.random.default_rng(3)
    state: State | None = model.zero_state(B)
    found, waited = [], 0
    for step in range(steps):
        if step == 2:  # from now on the step is captured
            waited = cuda_emulator.waits
        tokens = rng.integers(0, V, (2, seq_len, B))
        gradients = learner.gradients(step, tokens[0], tokens[1], state)
        learner.learn(step, gradients, step / steps)
        state = gradients.state
        found.append((gradients.loss, gradients.norm))
    assert cuda_emulator.waits == waited, "a step waited for the device"
    assert state is not None
    numbers = [(float(loss), float(norm)) for loss, norm in found]
    return ops.to_numpy(model.parameters.flat), ops.to_numpy(state.h), np.array(numbers), learner


@pytest.mark.parametrize(
    ("training", "options"),
    [
        ({}, {}),
        ({"averaging": "ema", "clip_norm": 0.05, "optimizer": "adamw", "weight_decay": 0.1}, EVERYTHING),
        ({"activation_regularization": 2.0, "temporal_activation_regularization": 1.0, "optimizer": "sgd",
          "label_smoothing": 0.1}, {"variational": True, "dropout": 0.3}),
    ],
)  # fmt: skip
def test_captured_steps_are_the_references(training: dict[str, Any], options: dict[str, Any]) -> None:
    config = TrainingConfig(**training)
    ours, expected = (learned(make_ops(name), 5, config, **options) for name in ("cupy-emulated", "numpy"))
    for one, other in zip(ours[:3], expected[:3], strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-11)
    graphs = list(ours[3]._run._graphs.values())
    assert len(graphs) == 1
    assert isinstance(graphs[0], _Graph)


def test_clipping_on_the_device(rng: np.random.Generator) -> None:
    ops = make_ops("cupy-emulated")
    norms = (0.0, 0.5, 2.0, 8.0)
    found = [float(ops.clipping(ops.asarray(np.float64(norm)), 2.0)) for norm in norms]
    assert found == [ops.clipping(norm, 2.0) for norm in norms] == [1, 1, 1, 0.25]
    assert np.isnan(float(ops.clipping(ops.asarray(np.float64(np.nan)), 2.0)))


def test_a_function_that_cannot_be_captured_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    ops = make_ops("cupy-emulated")
    run = ops.captured(lambda x: (x + float(ops.xp.sum(x)),))  # waits for the device
    x = ops.asarray(np.ones(3))
    with caplog.at_level(logging.WARNING):
        found = [ops.to_numpy(run(x)[0]) for _ in range(4)]
    assert all(np.array_equal(one, [4, 4, 4]) for one in found)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph, kernels are launched one by one: cudaErrorStreamCaptureUnsupported: "
        "operation not permitted when stream is capturing"
    ]


def test_only_shapes_that_come_again_are_captured() -> None:
    ops = make_ops("cupy-emulated")
    run = ops.captured(lambda x, y: (2 * x, None if y is None else x + y))
    assert isinstance(run, Captured)
    for _ in range(3):
        for n in range(1, MOST_GRAPHS + 3):
            x = ops.asarray(np.arange(float(n)))
            double, both = run(x, None)
            assert both is None
            assert np.array_equal(ops.to_numpy(double), 2 * np.arange(n))
            _, both = run(x, x)
            assert np.array_equal(ops.to_numpy(both), 2 * np.arange(n))
    assert len(run._graphs) == MOST_GRAPHS


def test_a_run_on_the_gpu_is_a_run_on_the_cpu(tmp_path: Path, small_config: charlstm.Config) -> None:
    """The same curves, and a checkpoint of each that the other takes up."""
    ops = make_ops("cupy-emulated")
    config = replace(
        small_config,
        model=replace(small_config.model, hidden_size=8, dropout=0.2),
        data=charlstm.DataConfig(batch_size=8, seq_len=5, max_val_tokens=500),
        training=replace(small_config.training, max_steps=14, eval_every=7, sample_threshold=2.0),
    )
    runs = [
        charlstm.train("coffee", config, out=tmp_path / name, backend=backend, quiet=True)  # type: ignore[arg-type]
        for name, backend in (("gpu", ops), ("cpu", "numpy"))
    ]
    logs = [(run.directory / "metrics.jsonl").read_text().splitlines() for run in runs]
    assert len(logs[0]) == len(logs[1]) > 3
    ours, theirs = (run.model.ops.to_numpy(run.model.parameters.flat) for run in runs)
    assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    for name, backend in (("gpu", "numpy"), ("cpu", ops)):
        longer = replace(config.training, max_steps=17)
        charlstm.resume(tmp_path / name, longer, backend=backend, quiet=True)  # type: ignore[arg-type]
    loaded = [charlstm.load(tmp_path / name, backend="numpy", which="last") for name in ("gpu", "cpu")]
    assert_allclose(*(run.model.parameters.flat for run in loaded), rtol=0, atol=1e-9)


def test_divergence_is_found_when_losses_are_read(tmp_path: Path, small_config: charlstm.Config) -> None:
    config = replace(
        small_config,
        model=replace(small_config.model, hidden_size=8),
        data=charlstm.DataConfig(batch_size=4, seq_len=3),
        training=replace(
            small_config.training, learning_rate=1e200, optimizer="sgd", max_rollbacks=1, max_steps=12
        ),
    )
    with pytest.raises(charlstm.DivergedError, match="no longer"):
        charlstm.train("coffee", config, out=tmp_path / "run", backend=make_ops("cupy-emulated"), quiet=True)  # type: ignore[arg-type]
