"""Windows: the order that is computed, what each step reads, splits that leak, and how much."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlstm
from charlstm import Config, Corpus, DataConfig, DataError, UsageError
from charlstm.backends import Ops
from charlstm.data import WindowBatches, Windows, batches_of, coffee, fit_to, limited, overlap, part_of
from charlstm.data.leakage import LENGTH, covered_share, repeated_share
from charlstm.data.windows import Permutation, count_windows, split_windows
from charlstm.evaluation import evaluate
from charlstm.model import LanguageModel

# ---- the order ------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 2**40))
@settings(deadline=None)
def test_each_number_has_one_place(n: int, seed: int) -> None:
    order = Permutation(n, seed)
    numbers = order(np.arange(n))
    assert np.array_equal(np.sort(numbers), np.arange(n))
    assert np.array_equal(order.inverse(numbers), np.arange(n))


def test_all_orders_occur_about_equally_often() -> None:
    counts = Counter(tuple(Permutation(4, seed)(np.arange(4))) for seed in range(4800))
    assert len(counts) == 24
    chi2 = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi2 < 49.7  # the 99.9th percentile of 23 degrees of freedom


def test_orders_look_random_and_differ() -> None:
    n = 10_000
    orders = [Permutation(n, 1, epoch)(np.arange(n)) for epoch in range(3)]
    for one in orders:
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.04
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.04
    assert np.mean(orders[0] == orders[1]) < 0.001


def test_orders_of_sizes_that_no_memory_holds() -> None:
    n = 10**11
    order = Permutation(n, 0)
    numbers = order(np.arange(1000) + 5 * 10**10)
    assert len(set(numbers.tolist())) == 1000
    assert 0.4 < numbers.mean() / n < 0.6
    assert np.array_equal(order.inverse(numbers), np.arange(1000) + 5 * 10**10)


def test_the_order_of_a_seed_stays() -> None:
    """Else runs that are resumed with a later version would read other windows."""
    assert Permutation(1000, 7)(np.arange(8)).tolist() == [915, 289, 309, 169, 461, 824, 592, 480]


# ---- windows and batches --------------------------------------------------------------------


@given(st.integers(2, 200), st.integers(1, 12), st.integers(1, 9))
@settings(deadline=None)
def test_windows_are_pieces_of_the_text(tokens: int, T: int, stride: int) -> None:
    expected = [list(range(k, k + T + 1)) for k in range(0, tokens - T, stride)]
    assert count_windows(tokens, T, stride) == len(expected)
    if not expected:
        with pytest.raises(DataError, match="too few for a window"):
            Windows(np.arange(tokens), T, stride)
        return
    windows = Windows(np.arange(tokens), T, stride)
    assert windows[np.arange(len(windows))].T.tolist() == expected


def test_each_window_once_an_epoch_in_another_order() -> None:
    windows = Windows(np.arange(50), 4)
    batches = WindowBatches(windows, 5, seed=3)
    assert batches.steps_per_epoch == 9  # of 46 windows
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(9 * epoch, 9 * epoch + 9):
            batch = batches[step]
            assert batch.x.shape == batch.y.shape == (4, 5)
            assert batch.x.dtype == np.int64
            assert batch.fresh
            assert np.array_equal(batch.x[1:], batch.y[:-1])
            assert np.array_equal(batch.y, batch.x + 1)
            seen += batch.x[0].tolist()
        assert len(set(seen)) == 45
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    # a step's windows depend on its number and the seed alone
    assert np.array_equal(WindowBatches(windows, 5, seed=3)[13].x, batches[13].x)
    assert not np.array_equal(WindowBatches(windows, 5, seed=4)[13].x, batches[13].x)


@given(st.integers(12, 150), st.integers(1, 5), st.integers(1, 4), st.floats(0.01, 0.99), st.integers(0, 99))
@settings(deadline=None)
def test_a_split_of_windows_takes_each_once(
    tokens: int, T: int, stride: int, fraction: float, seed: int
) -> None:
    train, val = split_windows(np.arange(tokens), T, stride, fraction, seed)
    assert val is not None
    starts = [part.starts(np.arange(len(part))).tolist() for part in (train, val)]
    assert sorted(starts[0] + starts[1]) == list(range(0, tokens - T, stride))
    assert abs(len(val) - fraction * (len(train) + len(val))) <= 1
    again = split_windows(np.arange(tokens), T, stride, fraction, seed)[0]
    assert again.starts(np.arange(len(train))).tolist() == starts[0]


def test_texts_too_short_for_windows() -> None:
    with pytest.raises(DataError, match="fewer than two windows"):
        split_windows(np.arange(5), 4, 1, 0.5, 0)
    with pytest.raises(DataError, match="too few for batches"):
        WindowBatches(Windows(np.arange(5), 4), 2, 0)


@given(
    st.integers(4, 200), st.integers(1, 80), st.integers(1, 80), st.integers(1, 50),
    st.sampled_from([("windows", 0.1), ("windows", 0.0), ("contiguous", 0.1)]),
)  # fmt: skip
@settings(deadline=None)
def test_batches_are_shrunk_until_windows_fit(
    tokens: int, B: int, T: int, stride: int, split: tuple[str, float]
) -> None:
    config = DataConfig(
        split=split[0],
        val_fraction=split[1],
        batches="windows",
        batch_size=B,
        seq_len=T,
        window_stride=stride,
    )  # type: ignore[arg-type]
    text = "".join(chr(97 + k % 7) for k in range(tokens))
    corpus = Corpus.from_text(text, val_fraction=0.0 if split[0] == "windows" else split[1])
    fitted = fit_to(len(corpus.train), config)
    assert 1 <= fitted.batch_size <= B
    assert 1 <= fitted.seq_len <= T
    if split == ("windows", 0.1) and tokens - 2 < stride:  # there is no second window
        with pytest.raises(DataError, match="fewer than two"):
            batches_of(corpus, Config(data=fitted))
        return
    assert batches_of(corpus, Config(data=fitted))[0].x.shape == (fitted.seq_len, fitted.batch_size)


def test_parts_of_a_corpus() -> None:
    text = "".join(chr(97 + k % 7) for k in range(1000))
    config = DataConfig(split="windows", val_fraction=0.2, seq_len=9)
    corpus = Corpus.from_text(text, val_fraction=0.0, test_fraction=0.1)
    train, val, test = (part_of(corpus, config, split) for split in ("train", "val", "test"))
    assert isinstance(train, Windows)
    assert isinstance(val, Windows)
    assert (len(train), len(val)) == (int(0.8 * 891), 891 - int(0.8 * 891))
    assert isinstance(test, np.ndarray)
    assert len(test) == 100
    assert len(limited(val, 100)) == 11  # type: ignore[arg-type]
    assert len(limited(test, 50)) == 51  # type: ignore[arg-type]
    assert limited(part_of(corpus, DataConfig(), "val"), 5) is None
    with pytest.raises(UsageError, match="validates already"):
        batches_of(Corpus.from_text(text), Config(data=config))


@given(st.integers(6, 400), st.floats(0, 0.98), st.floats(0, 0.98))
@settings(deadline=None)
def test_three_parts_keep_every_token_once(length: int, val: float, test: float) -> None:
    if val + test >= 1:
        with pytest.raises(UsageError, match="must leave something"):
            DataConfig(val_fraction=val, test_fraction=test)
        return
    text = "".join(chr(97 + k % 7) for k in range(length))
    corpus = Corpus.from_text(text, val_fraction=val, test_fraction=test)
    parts = (corpus.train, corpus.val, corpus.test)
    assert corpus.tokenizer.decode(np.concatenate(parts)) == text
    assert corpus.whole is not None
    assert corpus.tokenizer.decode(corpus.whole) == text
    for part, fraction in zip(parts, (1, val, test), strict=True):
        assert len(part) >= 2 if fraction else len(part) == 0
        if fraction != 1:
            assert abs(len(part) - fraction * length) <= 4


@pytest.mark.parametrize(
    ("fractions", "lengths"),
    [((0.1, 0.0), (900, 100, 0)), ((0.05, 0.05), (900, 50, 50)), ((0.15, 0.15), (700, 150, 150)),
     ((0.0, 0.0), (1000, 0, 0)), ((0.0, 0.1), (900, 0, 100))],
)  # fmt: skip
def test_customary_splits(fractions: tuple[float, float], lengths: tuple[int, int, int]) -> None:
    corpus = Corpus.from_text("ab" * 500, val_fraction=fractions[0], test_fraction=fractions[1])
    assert (len(corpus.train), len(corpus.val), len(corpus.test)) == lengths


# ---- leaks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "T", "stride", "fraction"),
    [(120, 7, 1, 0.2), (300, 9, 3, 0.5), (200, 5, 8, 0.4), (100, 20, 7, 0.9), (50, 3, 1, 0.98)],
)
def test_the_covered_share_is_what_counting_gives(tokens: int, T: int, stride: int, fraction: float) -> None:
    train, val = split_windows(np.arange(tokens), T, stride, fraction, 1)
    assert val is not None
    seen = set(train[np.arange(len(train))].ravel().tolist())
    validated = val[np.arange(len(val))].ravel().tolist()
    expected = sum(token in seen for token in validated) / len(validated)
    assert covered_share(train, val) == pytest.approx(expected, abs=1e-6)


def test_the_repeated_share_is_what_searching_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlstm.data.leakage._CHUNK", 1000)  # pieces also lie across chunks
    text = coffee.text(30_000)
    train, val = text[:25_000], text[25_000:27_031]
    pieces = [val[k : k + LENGTH] for k in range(len(val) - LENGTH + 1)]
    expected = sum(piece in train for piece in pieces) / len(pieces)
    assert 0.1 < expected < 0.9
    ids = (np.frombuffer(part.encode(), np.uint8) for part in (train, val))
    assert repeated_share(*ids) == pytest.approx(expected, abs=1e-9)


def test_shares_that_cannot_be_told() -> None:
    long, short = np.zeros(100, np.uint8), np.zeros(LENGTH - 1, np.uint8)
    assert repeated_share(long, short) is repeated_share(short, long) is None
    assert repeated_share(long, long) == 1.0
    assert overlap(Corpus.from_text("abcd" * 10), DataConfig()) == {}


# ---- evaluating and training ----------------------------------------------------------------


def test_windows_are_evaluated_from_zero_states(ops: Ops, rng: np.random.Generator) -> None:
    model = LanguageModel(9, 8, 2, backend=ops, dtype="float64")
    windows = Windows(rng.integers(0, 9, 400), 6, 2, Permutation(197, 5), 3)
    figures = evaluate(model, windows)
    losses = []
    for k in range(len(windows)):
        column = windows[np.array([k])]
        posterior, _ = model.posterior(column[:-1])
        p = np.asarray(ops.to_numpy(posterior))[:, 0]
        losses += (-np.log(p[np.arange(6), column[1:, 0]])).tolist()
    assert figures.tokens == 194 * 6 == len(losses)
    assert figures.loss == pytest.approx(math.fsum(losses) / len(losses), rel=1e-10)


CONFIGS = {
    "windows split": DataConfig(split="windows", batch_size=4, seq_len=10, test_fraction=0.1),
    "windows, 90/10": DataConfig(batches="windows", batch_size=4, seq_len=10, window_stride=10),
    "windows, nothing validates": DataConfig(batches="windows", val_fraction=0, batch_size=4, seq_len=10),
    "streams, nothing validates": DataConfig(val_fraction=0, batch_size=4, seq_len=10),
    "streams, 70/15/15": DataConfig(val_fraction=0.15, test_fraction=0.15, batch_size=4, seq_len=10),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_resumed_runs_are_the_same_bytes(tmp_path: Path, text: Path, name: str) -> None:
    """Over several epochs of the windows that are few."""

    def config(steps: int) -> charlstm.Config:
        training = charlstm.TrainingConfig(max_steps=steps, eval_every=10, schedule="constant")
        return charlstm.Config(charlstm.ModelConfig(8, 1), CONFIGS[name], training)

    whole = charlstm.train(text, config(80), out=tmp_path / "whole", backend="numpy", quiet=True)
    charlstm.train(text, config(37), out=tmp_path / "parts", backend="numpy", quiet=True)
    parts = charlstm.resume(tmp_path / "parts", charlstm.TrainingConfig(max_steps=80), quiet=True)
    for which in ("best", "last"):
        one, two = (
            (run.directory / "checkpoints" / which / "model.safetensors").read_bytes()
            for run in (whole, parts)
        )
        assert one == two
    assert "best" in {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()}
    if CONFIGS[name].val_fraction:
        last = [line["val_loss"] for line in whole.metrics if "val_loss" in line][-1]
        model = charlstm.load(whole.directory, "numpy", which="last")
        assert model.evaluate().loss == pytest.approx(last, rel=1e-6)


def test_what_is_said_of_windows_that_leak(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = charlstm.Config(
        charlstm.ModelConfig(8, 1), CONFIGS["windows split"], charlstm.TrainingConfig(max_steps=2)
    )
    run = charlstm.train(text, config, out=tmp_path / "run", backend="numpy")
    said = capsys.readouterr().err
    assert "windows overlap: 100.00 % of the characters that validate stand in windows that train" in said
    assert "windows of 10 characters train" in said
    record = charlstm.checkpoint.read_json(run.directory / "env.json")["text"]
    assert record["overlap"]["covered"] > 0.999
    assert run.evaluate(split="test").tokens == record["test_tokens"] - 1
    tokens = 10 * (record["train_tokens"] - 10)  # of all windows
    assert run.evaluate(split="train").tokens + run.evaluate().tokens == tokens
    other = run.evaluate(Corpus.from_text(text.read_text(), tokenizer=run.tokenizer), windows=True)
    assert other.tokens == 10 * (int(0.1 * len(text.read_text())) + 1 - 10)


def test_where_nothing_validates(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = CONFIGS["streams, nothing validates"]
    config = charlstm.Config(charlstm.ModelConfig(8, 1), data, charlstm.TrainingConfig(max_steps=5))
    run = charlstm.train(text, config, out=tmp_path / "run", backend="numpy")
    assert "nothing validates: the checkpoint called best is the last one" in capsys.readouterr().err
    assert "best validation loss: none" in (run.directory / "README.md").read_text()
    assert not [line for line in run.metrics if "val_loss" in line]
    with pytest.raises(DataError, match="no val part"):
        run.evaluate()
    for options in ({"early_stopping": 3}, {"schedule": "plateau"}, {"averaging": "nt-asgd"}):
        training = charlstm.TrainingConfig(max_steps=5, **options)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="go by the validation loss"):
            charlstm.train(
                text, charlstm.Config(config.model, data, training), out=tmp_path / "none", quiet=True
            )
    assert not (tmp_path / "none").exists()


def test_validations_of_large_parts_are_cut(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataConfig(val_fraction=0.5, batch_size=4, seq_len=10, max_val_tokens=100)
    config = charlstm.Config(charlstm.ModelConfig(8, 1), data, charlstm.TrainingConfig(max_steps=5))
    run = charlstm.train(text, config, out=tmp_path / "run", backend="numpy")
    assert "each validation reads 100 of 1," in capsys.readouterr().err
    corpus = run.corpus()
    expected = evaluate(run.model, corpus.val[:101]).loss
    assert run.metrics[-1]["val_loss"] == pytest.approx(expected, rel=1e-9)
    assert run.evaluate().tokens == len(corpus.val) - 1
