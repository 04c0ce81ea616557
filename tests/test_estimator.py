"""The scikit-learn estimators: scikit-learn's own checks, the forms of X, what fitting remembers."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_emulator
import joblib
import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from charlstm import CIFGClassifier, CIFGRegressor, DivergedError, SequenceClassifier, UsageError
from charlstm.backends import get_ops
from charlstm.estimator.sequences import Sequences

SMALL: dict[str, Any] = {"hidden_size": 8, "max_iter": 4, "random_state": 0, "backend": "numpy"}


@parametrize_with_checks([CIFGClassifier(backend="numpy"), CIFGRegressor(backend="numpy")])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def which_came_first(n: int = 120, T: int = 6, D: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, T, D) whose class is the sign of what they start with."""
    x = np.random.default_rng(seed).standard_normal((n, T, D)).astype("f4")
    return x, np.where(x[:, 0, 0] > 0, "up", "down")


def ragged(seed: int = 0, n: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((length, 2)) for length in rng.integers(1, 7, n)]
    return parts, np.array([part[0, 0] > 0 for part in parts])


def padded(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The sequences as one array, at random places of it, NaN elsewhere; and the mask of what counts."""
    rng, T = np.random.default_rng(1), max(map(len, parts)) + 2
    x, mask = np.full((len(parts), T, parts[0].shape[1]), np.nan), np.zeros((len(parts), T), bool)
    for k, part in enumerate(parts):
        steps = np.sort(rng.choice(T, len(part), replace=False))
        x[k, steps], mask[k, steps] = part, True
    return x, mask


def test_sequences_need_their_first_step() -> None:
    X, y = which_came_first(200)
    model = CIFGClassifier(16, batch_size=20, max_iter=20, random_state=0, backend="numpy").fit(X, y)
    assert model.score(*which_came_first(100, seed=1)) > 0.9
    assert list(model.classes_) == ["down", "up"]
    assert isinstance(model.model_, SequenceClassifier)
    assert model.model_.config.dtype == "float32"
    assert model.n_features_in_ == 2
    assert model.loss_curve_[-1] == model.loss_ < model.loss_curve_[0]
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.n_iter_ == len(model.loss_curve_)


def test_features_read_as_steps() -> None:
    X, y = which_came_first()
    rows = CIFGClassifier(n_steps=6, **SMALL).fit(X.reshape(len(X), -1), y)
    whole = CIFGClassifier(**SMALL).fit(X, y)
    assert np.array_equal(rows.predict_proba(X.reshape(len(X), -1)), whole.predict_proba(X))
    assert rows.n_features_in_ == 12
    with pytest.raises(UsageError, match="does not divide the 12"):
        CIFGClassifier(n_steps=5, **SMALL).fit(X.reshape(len(X), -1), y)
    with pytest.raises(UsageError, match="n_steps"):
        CIFGClassifier(n_steps=3, **SMALL).fit(X, y)


@pytest.mark.parametrize("kind", [CIFGClassifier, CIFGRegressor])
@pytest.mark.parametrize("emit", ["last", "every"])
def test_a_list_and_a_mask_are_the_same(kind: Any, emit: str) -> None:
    parts, y = ragged()
    goals: Any = [part[:, 1] > 0 for part in parts] if emit == "every" else y
    if kind is CIFGRegressor:
        goals = [part[:, 1] for part in parts] if emit == "every" else np.arange(60) / 60
    X, mask = padded(parts)
    masked: Any = goals
    if emit == "every":
        masked = np.zeros(mask.shape, goals[0].dtype)
        masked[mask] = np.concatenate(goals)
    listed, array = kind(emit=emit, **SMALL).fit(parts, goals), kind(emit=emit, **SMALL)
    array.fit(X, masked, mask=mask)
    told, again = listed.predict(parts), array.predict(X, mask=mask)
    assert len(told) == len(parts)
    for ours, others in zip(told, again, strict=True):
        assert np.array_equal(ours, others)
    assert listed.score(parts, goals) == array.score(X, masked, mask=mask)
    if emit == "every":
        assert [len(part) for part in told] == [len(part) for part in parts]
    # sequences alone, in no batch with others, give the same
    alone = listed.predict([parts[7]])[0]
    assert alone == pytest.approx(told[7], abs=1e-12)


def test_a_class_for_each_step() -> None:
    """The class of a step is the sign of the step before."""
    X, _ = which_came_first(150)
    y = np.zeros(X.shape[:2], int)
    y[:, 1:] = X[:, :-1, 0] > 0
    model = CIFGClassifier(16, emit="every", max_iter=40, batch_size=50, random_state=0, backend="numpy")
    assert model.fit(X, y).score(X, y) > 0.95
    assert model.predict(X).shape == y.shape
    assert model.predict_proba(X).shape == (*y.shape, 2)
    assert np.exp(model.predict_log_proba(X)) == pytest.approx(model.predict_proba(X))
    with pytest.raises(ValueError, match="sequence 0 has 6 steps"):
        model.fit(X, y[:, :5])
    with pytest.raises(ValueError, match="for each time step"):
        model.fit(X, y[:, 0])


@pytest.mark.parametrize("emit", ["last", "every"])
def test_weights_leave_out_and_repeat(emit: str) -> None:
    parts, y = ragged(n=30)
    goals: Any = y if emit == "last" else [np.full(len(part), k % 3) for k, part in enumerate(parts)]
    counts = np.random.default_rng(3).integers(0, 3, 30)
    which = np.repeat(np.arange(30), counts)
    weighted = CIFGClassifier(emit=emit, **SMALL).fit(parts, goals, sample_weight=counts)
    repeated = CIFGClassifier(emit=emit, **SMALL).fit([parts[k] for k in which], [goals[k] for k in which])
    for ours, others in zip(weighted.predict_proba(parts), repeated.predict_proba(parts), strict=True):
        assert ours == pytest.approx(others, abs=1e-9)
    assert weighted.score(parts, goals, sample_weight=counts) == pytest.approx(
        repeated.score([parts[k] for k in which], [goals[k] for k in which])
    )
    if emit == "every":
        each = [np.full(len(part), count) for part, count in zip(parts, counts, strict=True)]
        again = CIFGClassifier(emit=emit, **SMALL).fit(parts, goals, sample_weight=each)
        assert np.array_equal(again.predict_proba(parts)[4], weighted.predict_proba(parts)[4])


def test_class_weights_are_sample_weights() -> None:
    X, y = which_came_first(80)
    weight = {"up": 3.0, "down": 0.5}
    ours = CIFGClassifier(class_weight=weight, **SMALL).fit(X, y)
    others = CIFGClassifier(**SMALL).fit(X, y, sample_weight=[weight[label] for label in y])
    assert np.array_equal(ours.predict_proba(X), others.predict_proba(X))
    y[:70] = "up"
    balanced = CIFGClassifier(class_weight="balanced", **SMALL).fit(X, y)
    assert not np.array_equal(balanced.predict_proba(X), CIFGClassifier(**SMALL).fit(X, y).predict_proba(X))
    with pytest.raises(UsageError, match="balanced"):
        balanced.partial_fit(X, y)


@pytest.mark.parametrize("emit", ["last", "every"])
def test_early_stopping_keeps_the_best(emit: str) -> None:
    X, y = which_came_first(100)
    goals = y if emit == "last" else np.where(X[:, :, 0] > 0, 1, 0)
    model = CIFGClassifier(
        emit=emit,
        early_stopping=True,
        validation_fraction=0.25,
        n_iter_no_change=3,
        **SMALL | {"max_iter": 30},
    ).fit(X, goals)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_loss_ is None
    held_out = train_test_split(np.arange(100), test_size=0.25, random_state=seed_of(model),
                                stratify=None if emit == "every" else y)[1]  # fmt: skip
    assert model.score(X[held_out], goals[held_out]) == pytest.approx(model.best_validation_score_)


def seed_of(model: Any) -> int:
    return int(np.random.RandomState(model.random_state).randint(np.iinfo(np.int32).max))


def test_training_that_gets_no_better_ends() -> None:
    X, y = which_came_first(40)
    model = CIFGClassifier(tol=10.0, n_iter_no_change=2, **SMALL | {"max_iter": 50}).fit(X, y)
    assert model.n_iter_ == 3
    with pytest.warns(ConvergenceWarning, match="max_iter=4"):
        CIFGClassifier(schedule="constant", **SMALL).fit(X, y)


def test_warm_start_and_partial_fit_go_on() -> None:
    X, y = which_came_first(80)
    model = CIFGClassifier(warm_start=True, **SMALL).fit(X, y)
    first = list(model.loss_curve_)
    model.fit(X, y)
    assert model.loss_curve_[:4] == first
    assert len(model.loss_curve_) == 8
    assert model.loss_curve_[4] < first[0]
    with pytest.raises(UsageError, match="classes"):
        model.fit(X, np.where(y == "up", "up", "sideways"))
    with pytest.raises(UsageError, match="do not fit"):
        model.set_params(hidden_size=9).fit(X, y)

    parts = CIFGClassifier(**SMALL).partial_fit(X[:40], y[:40], classes=["up", "down", "never"])
    assert list(parts.classes_) == ["down", "never", "up"]
    for _ in range(5):
        parts.partial_fit(X[40:], y[40:])
    assert len(parts.loss_curve_) == 6
    assert parts.loss_curve_[-1] < parts.loss_curve_[1]
    with pytest.raises(UsageError, match="not those of the first call"):
        parts.partial_fit(X, y, classes=["up", "down"])
    with pytest.raises(UsageError, match="early_stopping"):
        parts.set_params(early_stopping=True).partial_fit(X, y)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("way", ["joblib", "deepcopy"])
def test_a_fitted_estimator_is_pickled_with_its_optimizer(backend: str, way: str) -> None:
    X, y = which_came_first(60)
    model = CIFGClassifier(**SMALL | {"backend": backend}).partial_fit(X, y)
    if way == "deepcopy":
        again = copy.deepcopy(model)
    else:
        stream = io.BytesIO()
        joblib.dump(model, stream)
        again = joblib.load(stream)
    for _ in range(2):
        assert np.array_equal(
            model.partial_fit(X, y).predict_proba(X), again.partial_fit(X, y).predict_proba(X)
        )


def test_a_pickle_of_a_backend_that_is_missing_is_read() -> None:
    X, y = which_came_first(30)
    model = CIFGClassifier(**SMALL).fit(X, y)
    state = model._fitter.__getstate__()
    made_of = list(state["made_of"])
    made_of[4] = ("cupy", *made_of[4][1:])
    again = object.__new__(type(model._fitter))
    again.__setstate__(state | {"made_of": tuple(made_of)})
    assert np.array_equal(again.weights(), model._fitter.weights())


def test_an_epoch_on_a_device_waits_once_for_all_of_its_steps() -> None:
    X, y = which_came_first(60)
    X = X.astype(np.float64)
    options = {**SMALL, "batch_size": 10, "dropout": 0.2, "num_layers": 2}
    expected = CIFGClassifier(**options | {"backend": "numpy"}).fit(X, y)
    model = CIFGClassifier(**options | {"backend": make_ops("cupy-emulated")}).fit(X, y)
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=0, atol=1e-9)
    read_early: list[Any] = []
    learner = model._fitter._learner
    learn = learner.learn
    learner.learn = lambda *given: (read_early.append(cuda_emulator.waits), learn(*given))[1]  # type: ignore[assignment]
    model.partial_fit(X, y)
    assert len(read_early) == 6
    assert read_early[0] == read_early[-1], "a step waited for the one before"
    diverging = CIFGRegressor(**options | {"backend": make_ops("cupy-emulated")})
    with pytest.raises(DivergedError, match="no longer a finite number at step 0"):
        diverging.fit(X.astype(np.float32), np.full(60, 1e30))


def test_the_precision_of_products_is_the_networks() -> None:
    X, y = which_came_first(30)
    asked = CIFGClassifier(**SMALL | {"backend": "numba", "matmul_precision": "auto"}).fit(X, y)
    assert asked.model_.ops.matmul_precision == get_ops("numba", matmul_precision="auto").matmul_precision
    with pytest.raises(UsageError, match="matmul_precision must be one of"):
        CIFGRegressor(**SMALL | {"matmul_precision": "low"}).fit(X, X[:, 0, 0])


def test_the_same_seed_gives_the_same_model_on_every_backend() -> None:
    X, y = which_came_first(60)
    model = CIFGClassifier(num_layers=2, dropout=0.3, **SMALL)
    same = clone(model).fit(X, y).predict_proba(X)
    assert np.array_equal(model.fit(X, y).predict_proba(X), same)
    numba = clone(model).set_params(backend="numba", threads=1).fit(X.astype("f8"), y)
    assert numba.predict_proba(X) == pytest.approx(same, abs=1e-4)
    assert not np.array_equal(model.set_params(random_state=1).fit(X, y).predict_proba(X), same)


def test_pipelines_searches_and_cross_validation() -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    digits = make_pipeline(
        StandardScaler(), CIFGClassifier(n_steps=8, batch_size=10, **SMALL | {"max_iter": 8})
    )
    search = GridSearchCV(digits, {"cifgclassifier__hidden_size": np.array([4, 16])}, cv=2).fit(
        X[:200], y[:200]
    )
    assert search.best_params_ == {"cifgclassifier__hidden_size": 16}
    assert search.score(X[200:], y[200:]) > 0.9
    parts, labels = ragged()
    assert cross_val_score(CIFGClassifier(**SMALL), parts, labels, cv=3).shape == (3,)
    scaled = TransformedTargetRegressor(
        CIFGRegressor(**SMALL | {"max_iter": 30}), transformer=StandardScaler()
    )
    assert scaled.fit(X[:200, 20:40], 1000 * X[:200, 20]).score(X[200:, 20:40], 1000 * X[200:, 20]) > 0.7


def test_a_regressor_of_several_numbers_at_each_step() -> None:
    X, _ = which_came_first(100)
    y = np.cumsum(X, axis=1) / 3
    model = CIFGRegressor(16, emit="every", max_iter=30, batch_size=25, random_state=0, backend="numpy")
    assert model.fit(X, y).score(X, y) > 0.8
    assert model.predict(X).shape == y.shape
    with pytest.raises(UsageError, match="a target was"):
        model.partial_fit(X, y[:, :, 0])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "emit": ({"emit": "first"}, "emit"),
    "schedule": ({"schedule": "plateau"}, "plateau"),
    "batch": ({"batch_size": 0}, "batch_size"),
    "rate": ({"learning_rate": -1.0}, "learning_rate"),
    "units": ({"hidden_size": 0}, "hidden_size"),
    "optimizer": ({"optimizer": "lbfgs"}, "optimizer"),
}


@pytest.mark.parametrize("bad", BAD)
def test_parameters_that_cannot_be(bad: str) -> None:
    X, y = which_came_first(20)
    given, problem = BAD[bad]
    with pytest.raises(UsageError, match=problem):
        CIFGClassifier(**SMALL | given).fit(X, y)


def test_sequences_that_cannot_be() -> None:
    X, y = which_came_first(20)
    model = CIFGClassifier(**SMALL)
    mask = np.ones(X.shape[:2], bool)
    for Xs, given, problem in (
        ([X[0], X[1, :0]], {}, "sequence 1 is empty"),
        ([X[0], X[1, :, :1]], {}, "one D"),
        (X, {"mask": mask[:, :3]}, "does not fit"),
        (X, {"mask": mask.astype(int)}, "does not fit"),
        (X, {"mask": mask & (np.arange(20) != 3)[:, None]}, "sequence 3 is empty"),
        (X[None], {}, "dim 4"),
        (X, {"sample_weight": -np.ones(20)}, "negative"),
        (X, {"sample_weight": np.zeros(20)}, "all samples are zero"),
    ):
        with pytest.raises(ValueError, match=problem):
            model.fit(Xs, y[: len(Xs)], **given)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    with pytest.raises(AttributeError, match="not fitted"):
        clone(model).model_  # noqa: B018
    with pytest.raises(DivergedError, match="learning_rate"):
        CIFGRegressor(**SMALL).fit(X, np.full(20, 1e30))


def test_batches_hold_what_the_sequences_hold(rng: np.random.Generator) -> None:
    parts, _ = ragged(n=9)
    data = Sequences(np.concatenate(parts), np.array([len(part) for part in parts]))
    which = rng.permutation(9)[:5]
    batch = data.batch(which)
    assert batch.ragged
    for b, k in enumerate(which):
        assert np.array_equal(data.rows[batch.steps[:, b]][batch.inside[:, b]], parts[k])
    some = data.take(which)
    assert np.array_equal(some.rows, np.concatenate([parts[k] for k in which]))


def test_scikit_learn_is_only_needed_by_the_estimators() -> None:
    code = (
        "import sys, json; sys.modules['sklearn'] = None; import charlstm; charlstm.SequenceClassifier\n"
        "try:\n    charlstm.CIFGClassifier\nexcept charlstm.UsageError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert 'pip install "charlstm[sklearn]"' in done.stdout


def test_the_example_of_the_guide() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "classifier.md").read_text()
    lines = guide.split("```python\n", 1)[1].split("```", 1)[0]
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["accuracy"] > 0.97
    assert names["search"].best_score_ > 0.9


def test_epochs_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = which_came_first(20)
    CIFGClassifier(verbose=True, early_stopping=True, **SMALL).fit(X, y)
    told = capsys.readouterr()
    assert told.out == ""
    assert "epoch 4: loss 0." in told.err
    assert "validation score" in told.err
