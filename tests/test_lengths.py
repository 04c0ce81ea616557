"""Steps of random length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import charlstm
from charlstm import Config, TrainingConfig
from charlstm.backends.pool import MemoryPool
from charlstm.data import RandomLengthBatches
from charlstm.training import Reporter, prepare

TOKENS = np.arange(40_001) % 251


def test_every_token_once_an_epoch_cut_at_other_places() -> None:
    batches = RandomLengthBatches(TOKENS, 4, 40, seed=0)
    streams = TOKENS[:-1].reshape(4, -1)
    step, cuts = 0, []
    for _ in range(3):
        parts = [batches[step]]
        step += 1
        assert parts[0].fresh
        while not batches[step].fresh:
            parts.append(batches[step])
            step += 1
        assert np.array_equal(np.concatenate([batch.x for batch in parts]).T, streams)
        assert np.array_equal(np.concatenate([batch.y for batch in parts]).T, TOKENS[1:].reshape(4, -1))
        cuts.append([len(batch.x) for batch in parts])
    assert cuts[0] != cuts[1] != cuts[2]
    assert len(cuts[0]) == batches.steps_per_epoch


def test_lengths_are_those_of_awd_lstm() -> None:
    """Normal around 80 in nineteen of twenty steps, around 40 in the others, with deviation 5."""
    batches = RandomLengthBatches(np.zeros(3_200_001, np.uint8), 2, 80, seed=1)
    lengths = np.array([len(batches[step].x) for step in range(batches.steps_per_epoch - 1)])
    usual, short = lengths[lengths > 60], lengths[lengths <= 60]
    assert len(lengths) == pytest.approx(1_600_000 / 78, rel=0.01)
    assert len(short) / len(lengths) == pytest.approx(0.05, abs=0.01)
    for part, mean in ((usual, 80), (short, 40)):
        assert part.mean() == pytest.approx(mean, abs=0.5)
        assert part.std() == pytest.approx(5, abs=0.3)


def test_a_steps_tokens_depend_on_seed_and_number_alone() -> None:
    forwards, anywhere = (RandomLengthBatches(TOKENS, 4, 40, seed=5) for _ in range(2))
    expected = [forwards[step] for step in range(900)]
    for step in (899, 3, 500, 0, 251):
        assert np.array_equal(anywhere[step].x, expected[step].x)
        assert anywhere[step].fresh == expected[step].fresh
    other = RandomLengthBatches(TOKENS, 4, 40, seed=6)
    assert [len(other[step].x) for step in range(20)] != [len(batch.x) for batch in expected[:20]]


@pytest.mark.parametrize(("tokens", "batch_size", "seq_len"), [(2, 1, 1), (10, 3, 3), (60, 5, 11)])
def test_tiny_texts(tokens: int, batch_size: int, seq_len: int) -> None:
    batches = RandomLengthBatches(np.arange(tokens), batch_size, seq_len, seed=0)
    for step in range(20):
        assert 1 <= len(batches[step].x) <= (tokens - 1) // batch_size


def test_the_learning_rate_follows_the_length(tmp_path: Path, small_config: Config) -> None:
    training = TrainingConfig(random_seq_len=True, schedule="constant", warmup_steps=0, max_steps=1)
    trainer = prepare(
        "coffee", replace(small_config, training=training), tmp_path / "run", "numpy", None, Reporter()
    )
    tokens = 0
    for step in range(5):
        trainer.train_step(0.0)
        batch = trainer.batches[step]
        tokens += batch.x.size
        assert trainer._rate == pytest.approx(training.learning_rate * len(batch.x) / 20)
    assert trainer.tokens == tokens


def test_steps_of_many_lengths_share_their_memory() -> None:
    pool = MemoryPool()
    for length in (96, 100, 104, 97, 103):
        array = pool.empty((length, 64, 768), np.float32)
        del array
    assert sum(len(blocks) for blocks in pool._free.values()) <= 2
    whole = charlstm.get_ops("numpy").empty((97, 64, 768), np.float32)
    assert whole.shape == (97, 64, 768)
    assert whole.flags.c_contiguous
