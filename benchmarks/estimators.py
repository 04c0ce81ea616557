"""The classifier on real work, beside scikit-learn's own: accuracies, times, learning curves.

    python benchmarks/estimators.py --pictures docs/images

Two tasks. Digits: scikit-learn's 8 x 8 pictures, read row by row as a sequence of 8 steps; 20% of them,
stratified, are the test. Adding (after Hochreiter & Schmidhuber 1997, section 5.4): T steps of a random
number and a marker, of which one in each half of the sequence is set; the class is whether the sum of the
two marked numbers exceeds 1. It is a product of inputs far apart, so that a linear model of all steps can
do little more than guess. The peers read the steps as one long vector. Takes some minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from charlstm import CIFGClassifier

SEEDS = (0, 1, 2)  # of the digits' split and of the models
LENGTHS = (100, 200, 400)
SEQUENCES, TESTED = 5000, 2000


def digits(seed: int) -> tuple[np.ndarray, ...]:
    """Pictures to train and to test with, (n, 8, 8), and their classes."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32).reshape(-1, 8, 8)
    parts: tuple[np.ndarray, ...] = tuple(
        train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y)
    )
    return parts


def adding(n: int, T: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, T, 2) of numbers in [0, 1) and markers, and whether the marked ones add up to over 1."""
    rng, every = np.random.default_rng(seed), np.arange(n)
    numbers, markers = rng.random((n, T)), np.zeros((n, T))
    first, second = rng.integers(0, T // 2, n), rng.integers(T // 2, T, n)
    markers[every, first] = markers[every, second] = 1
    X = np.stack([numbers, markers], axis=2).astype(np.float32)
    return X, numbers[every, first] + numbers[every, second] > 1


def measured(model: Any, train: tuple[Any, Any], test: tuple[Any, Any]) -> tuple[float, float]:
    """Test accuracy, and seconds of training."""
    started = time.perf_counter()
    model.fit(*train)
    seconds = time.perf_counter() - started
    return float(model.score(*test)), seconds


def flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1)


def run_digits() -> list[float]:
    """Prints the table; the loss curve of the first seed."""
    rows: dict[str, list[tuple[float, float]]] = {}
    curve: list[float] = []
    for seed in SEEDS:
        X, X_test, y, y_test = digits(seed)
        ours = CIFGClassifier(128, 2, dropout=0.3, batch_size=64, max_iter=50, random_state=seed)
        small = CIFGClassifier(random_state=seed)
        for name, model in (("CIFGClassifier(128, 2 layers)", ours), ("CIFGClassifier()", small)):
            rows.setdefault(name, []).append(measured(model, (X, y), (X_test, y_test)))
        peers = MLPClassifier(max_iter=500, random_state=seed), LogisticRegression(max_iter=2000)
        for peer in peers:
            result = measured(peer, (flat(X), y), (flat(X_test), y_test))
            rows.setdefault(type(peer).__name__, []).append(result)
        curve = curve or list(ours.loss_curve_)
    print(f"digits, {len(SEEDS)} splits: mean test accuracy, median seconds")
    for name, results in rows.items():
        accuracies, seconds = zip(*results, strict=True)
        print(f"  {name:<30} {statistics.mean(accuracies):.4f}   {statistics.median(seconds):.1f} s")
    return curve


def run_adding() -> dict[int, list[float]]:
    """Prints the table; the loss curve of each length."""
    curves = {}
    for T in LENGTHS:
        train, test = adding(SEQUENCES, T, 0), adding(TESTED, T, 1)
        ours = CIFGClassifier(48, batch_size=50, max_iter=20, random_state=0)
        print(f"adding, T = {T}: test accuracy, seconds")
        print("  {:<30} {:.4f}   {:.1f} s".format("CIFGClassifier(48)", *measured(ours, train, test)))
        for peer in (MLPClassifier(early_stopping=True, random_state=0), LogisticRegression(max_iter=2000)):
            result = measured(peer, (flat(train[0]), train[1]), (flat(test[0]), test[1]))
            print("  {:<30} {:.4f}   {:.1f} s".format(type(peer).__name__, *result))
        curves[T] = list(ours.loss_curve_)
    return curves


def draw(digits_curve: list[float], adding_curves: dict[int, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(digits_curve) + 1), digits_curve, color="C0")
    left.set_yscale("log")
    left.set_title("digits, row by row")
    for T, curve in adding_curves.items():
        right.plot(range(1, len(curve) + 1), curve, label=f"T = {T}")
    right.axhline(np.log(2), color="0.6", linestyle="--", label="guessing")
    right.set_title("adding")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss, nats")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path, help="a folder for classifier.png")
    arguments = parser.parse_args()
    curves = run_digits(), run_adding()
    if arguments.pictures is not None:
        draw(*curves, arguments.pictures / "classifier.png")


if __name__ == "__main__":
    main()
