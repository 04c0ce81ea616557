"""What --matmul-precision costs in exactness: losses after the same number of tokens, and errors of products.

CHARLSTM_TINYSHAKESPEARE=tinyshakespeare.txt python benchmarks/precision.py              # 10 minutes on two cores
CHARLSTM_TINYSHAKESPEARE=tinyshakespeare.txt python benchmarks/precision.py --steps 2000 --seeds 3 --json losses.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from charlstm.backends import get_ops

MODES = ("highest", "high", "medium")
SHAPES = ((6400, 256, 768), (6400, 768, 256), (256, 6400, 768))  # of a layer of 256 units: forward, back, dR


def product_errors(mode: str) -> list[dict[str, float]]:
    """Errors of products against float64, over the size of what is summed up: |a| |b|."""
    ops, rng, rows = get_ops("numba", matmul_precision=mode), np.random.default_rng(0), []  # type: ignore[arg-type]
    for M, K, N in SHAPES:
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((M, K), (K, N)))
        exact, size = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
        errors = np.abs(ops.matmul(a, b) - exact) / size
        rows.append({"M": M, "K": K, "N": N, "largest": float(errors.max()), "mean": float(errors.mean())})
    return rows


def validation_loss(mode: str, seed: int, steps: int) -> float:
    """The lowest of a training with the defaults, so many steps long."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "charlstm", "train", "--backend", "numba", "--quiet"]
        command += ["--data", os.environ["CHARLSTM_TINYSHAKESPEARE"], "--matmul-precision", mode]
        subprocess.run(
            [*command, "--seed", str(seed), "--max-steps", str(steps), "--out", str(out)],
            check=True,
            capture_output=True,
        )
        lines = (out / "metrics.jsonl").read_text().splitlines()
    return min(float(row["val_loss"]) for row in map(json.loads, lines) if "val_loss" in row)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000, help="of each training [1000]")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each mode [3]")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    options = parser.parse_args()
    told: dict[str, Any] = {"steps": options.steps, "errors": {}, "losses": {}}
    used = {mode: get_ops("numba", matmul_precision=mode).matmul_precision for mode in MODES}  # type: ignore[arg-type]
    told["used"] = used
    for mode in dict.fromkeys(used.values()):
        told["errors"][mode] = product_errors(mode)
        for row in told["errors"][mode]:
            shape = f"{row['M']:5} x {row['K']:5} x {row['N']:5}"
            print(f"{mode:8} {shape}  largest {row['largest']:.1e}  mean {row['mean']:.1e}")
    for seed in range(options.seeds):
        for mode in dict.fromkeys(used.values()):
            loss = validation_loss(mode, seed, options.steps)
            told["losses"].setdefault(mode, []).append(loss)
            print(f"seed {seed} {mode:8} {loss:.4f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
