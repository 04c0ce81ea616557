"""Training on the emulated GPU: captured steps, numbers that stay on the device, checkpoints that move."""

from __future__ import annotations

import gc
import json
import logging
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import cuda_emulator
import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose

import charlstm
from charlstm import LanguageModel, ModelConfig, TrainingConfig
from charlstm.backends import Ops
from charlstm.backends.capture import IDLE, MOST_GRAPHS, Captured
from charlstm.cifg import State
from charlstm.model import CIFGModel
from charlstm.training.learner import Learner
from charlstm.training.trainer import Trainer

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
def test_captured_steps_are_the_references(
    cuda: str, training: dict[str, Any], options: dict[str, Any]
) -> None:
    config = TrainingConfig(**training)
    ours, expected = (learned(make_ops(name), 5, config, **options) for name in (cuda, "numpy"))
    for one, other in zip(ours[:3], expected[:3], strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-11)
    assert ours[3]._run.replayed


def test_clipping_on_the_device(cuda: str, rng: np.random.Generator) -> None:
    ops = make_ops(cuda)
    norms = (0.0, 0.5, 2.0, 8.0)
    found = [float(ops.clipping(ops.asarray(np.float64(norm)), 2.0)) for norm in norms]
    assert found == [ops.clipping(norm, 2.0) for norm in norms] == [1, 1, 1, 0.25]
    assert np.isnan(float(ops.clipping(ops.asarray(np.float64(np.nan)), 2.0)))


def test_a_function_that_cannot_be_captured_runs_as_it_is(
    cuda: str, caplog: pytest.LogCaptureFixture
) -> None:
    ops = make_ops(cuda)
    run = ops.captured(lambda x: (x + float(ops.xp.sum(x)),))  # waits for the device
    x = ops.asarray(np.ones(3))
    with caplog.at_level(logging.WARNING):
        found = [ops.to_numpy(run(x)[0]) for _ in range(4)]
    assert all(np.array_equal(one, [4, 4, 4]) for one in found)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph, kernels are launched one by one: cudaErrorStreamCaptureUnsupported: "
        "operation not permitted when stream is capturing"
    ]


def test_only_shapes_that_come_again_are_captured(cuda: str) -> None:
    ops = make_ops(cuda)
    run = ops.captured(lambda x, y: (2 * x, None if y is None else x + y))
    assert isinstance(run, Captured)
    replayed = []

    def call(n: int) -> None:
        x = ops.asarray(np.arange(float(n)))
        double, both = run(x, x if n % 2 else None)
        assert np.array_equal(ops.to_numpy(double), 2 * np.arange(n))
        assert both is None if n % 2 == 0 else np.array_equal(ops.to_numpy(both), 2 * np.arange(n))
        replayed.append(run.replayed)

    for n in range(1, MOST_GRAPHS + 1):
        call(n)
        call(n)
    assert replayed == [False, True] * MOST_GRAPHS
    replayed.clear()
    for n in [5, 5, *range(1, MOST_GRAPHS + 1)]:  # there is no place for a fifth
        call(n)
    assert replayed == [False, False, *[True] * MOST_GRAPHS]
    for _ in range(IDLE):
        call(1)
    replayed.clear()
    for n in (5, 5, 2, 1):  # the one that was not called for the longest time has made room
        call(n)
    assert replayed == [False, True, False, True]


def test_shapes_that_came_once_make_room(cuda: str) -> None:
    ops = make_ops(cuda)
    run = ops.captured(lambda x: (2 * x,))
    for n in (1, 2, 3, 4, 5, 6, 5):
        run(ops.asarray(np.arange(float(n))))
    assert run.replayed  # type: ignore[attr-defined]


def test_memory_that_graphs_hold_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    ops = make_ops("cupy-emulated")
    full = False

    def compute(x: Any) -> tuple[Any, ...]:
        if full and run._memory is not None:  # type: ignore[attr-defined]
            raise MemoryError
        return (2 * x,)

    run = ops.captured(compute)
    x, y = ops.asarray(np.ones(3)), ops.asarray(np.ones(4))
    for _ in range(3):
        run(x)
    full = True
    assert ops.to_numpy(run(y)[0]).tolist() == [2] * 4
    assert ops.to_numpy(run(x)[0]).tolist() == [2] * 3
    assert not run.replayed  # type: ignore[attr-defined]
    assert "no memory left beside what graphs hold" in caplog.text
    broken = ops.captured(lambda x: (_ for _ in ()).throw(MemoryError("none left")))
    with pytest.raises(MemoryError, match="none left"):
        broken(x)


@pytest.mark.parametrize("changes", [1, 10])
def test_a_pool_that_moves_while_a_graph_is_captured(
    changes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is captured again, and where that does not help, not at all."""
    sizes = iter([*range(2 * changes), *[99] * 10])
    monkeypatch.setattr(cuda_emulator.MemoryPool, "total_bytes", lambda self: next(sizes))
    ops = make_ops("cupy-emulated")
    run = ops.captured(lambda x: (2 * x,))
    for _ in range(3):
        assert ops.to_numpy(run(ops.asarray(np.ones(3)))[0]).tolist() == [2] * 3
    assert run.replayed == (changes == 1)  # type: ignore[attr-defined]
    assert ("has moved" in caplog.text) == (changes > 1)


def test_graphs_go_with_their_owners(cuda: str) -> None:
    """At once: nothing waits for Python's garbage collector with a device's memory."""
    ops = make_ops(cuda)
    model = CIFGModel(V, ModelConfig(9, 1, None), backend=ops)
    learner = Learner(model, TrainingConfig())
    weights = LanguageModel(V, 9, 1, backend=ops).step_weights()
    owners = [weakref.ref(learner._run), weakref.ref(weights.packed._run)]
    gc.disable()
    try:
        del learner, weights
        assert [owner() for owner in owners] == [None, None]
    finally:
        gc.enable()


def test_many_layers_are_captured(cuda: str) -> None:
    ops = make_ops(cuda)
    model = CIFGModel(V, ModelConfig(4, 10, None), backend=ops)
    learner, tokens = Learner(model, TrainingConfig()), np.zeros((2, 3), int)
    for step in range(3):
        learner.gradients(step, tokens, tokens, None)
    assert learner._run.replayed  # type: ignore[attr-defined]


def test_threads_have_streams_of_their_own(cuda: str) -> None:
    """A graph that one thread captures holds its own products, whatever others do meanwhile."""
    ops, inside, done = make_ops(cuda), threading.Event(), threading.Event()
    a, b = (ops.asarray(np.full((3, 3), value)) for value in (1.0, 2.0))

    def slow(x: Any) -> tuple[Any, ...]:
        if not inside.is_set() and run._memory is not None:  # type: ignore[attr-defined]
            inside.set()
            done.wait(10)
        return (ops.matmul(x, x), ops.global_norm(x))

    run = ops.captured(slow)
    found: list[Any] = []

    def other() -> None:
        inside.wait(10)
        assert ops._cublas is not None  # type: ignore[attr-defined]
        found.append(ops._cublas._handle())  # type: ignore[attr-defined]
        found.append(ops._number(b[0, 0]))
        done.set()

    thread = threading.Thread(target=other)
    ops.matmul(b, b)
    thread.start()
    for _ in range(3):
        product, norm = run(a)
    thread.join()
    assert run.replayed  # type: ignore[attr-defined]
    assert ops.to_numpy(product).tolist() == [[3.0] * 3] * 3
    assert float(norm) == 3
    assert found[0].value != ops._cublas._handle().value  # type: ignore[attr-defined]
    assert isinstance(found[1], float)


def test_a_run_on_the_gpu_is_a_run_on_the_cpu(
    cuda: str, tmp_path: Path, small_config: charlstm.Config
) -> None:
    """The same curves, and a checkpoint of each that the other takes up."""
    ops = make_ops(cuda)
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


def test_divergence_is_found_when_losses_are_read(
    cuda: str, tmp_path: Path, small_config: charlstm.Config
) -> None:
    config = replace(
        small_config,
        model=replace(small_config.model, hidden_size=8),
        data=charlstm.DataConfig(batch_size=4, seq_len=3),
        training=replace(
            small_config.training, learning_rate=1e200, optimizer="sgd", max_rollbacks=1, max_steps=12
        ),
    )
    with pytest.raises(charlstm.DivergedError, match="no longer"):
        charlstm.train("coffee", config, out=tmp_path / "run", backend=make_ops(cuda), quiet=True)  # type: ignore[arg-type]


def test_what_is_due_is_done_though_losses_are_read_late(
    tmp_path: Path, small_config: charlstm.Config
) -> None:
    """Where a loss jumps and is let be, the same lines and validations as without a device."""
    config = replace(
        small_config,
        model=ModelConfig(8, 1, None, 0.0, "float64"),
        data=charlstm.DataConfig(batch_size=4, seq_len=3, max_val_tokens=200),
        training=replace(
            small_config.training, learning_rate=300.0, optimizer="sgd", schedule="constant", max_rollbacks=0,
            max_steps=45, eval_every=10, sample_every=1000,
        ),
    )  # fmt: skip
    lines = []
    for name in ("cupy-emulated", "numpy"):
        out = tmp_path / name
        charlstm.train("coffee", config, out=out, backend=make_ops(name), quiet=True)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        lines.append([(row["step"], "val_loss" in row) for row in rows])
    assert lines[0] == lines[1]
    assert (40, True) in lines[0]


def test_a_sample_is_not_drawn_from_weights_that_are_no_numbers(
    tmp_path: Path, small_config: charlstm.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are read before, and training goes back."""
    step, spoiled = Trainer.train_step, []

    def spoil(self: Trainer, done: float) -> None:
        step(self, done)
        if self.step == 5 and not spoiled:
            spoiled.append(True)
            self.model.parameters.flat[...] = np.nan

    monkeypatch.setattr(Trainer, "train_step", spoil)
    training = replace(small_config.training, max_steps=20, eval_every=20, sample_every=7)
    config = replace(small_config, model=ModelConfig(8, 1, None), training=training)
    run = charlstm.train(
        "coffee", config, out=tmp_path / "run", backend=make_ops("cupy-emulated"), quiet=True
    )
    assert "rolled_back_from" in (run.directory / "metrics.jsonl").read_text()
