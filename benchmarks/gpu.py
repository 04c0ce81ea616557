"""The CuPy backend on a GPU: checked, then timed beside PyTorch's cuDNN LSTM on the same work.

python benchmarks/gpu.py --json gpu.json               # under 8 minutes; pip install ".[cuda12]" torch
python benchmarks/gpu.py --quick                       # a minute
python benchmarks/gpu.py --quick --backend numba       # try the script without a GPU, PyTorch on the CPU

Rows: training steps of M, L and XL (two layers of 256 and 512, three of 1024; PyTorch with four gates), and one layer
of 512 and 1024 units at several batches, forward and with backward; then one character of 1, 64 and 1024 streams.
`highest` is beside PyTorch in float32, `high` beside TF32, `medium` beside the faster of its autocasts, bfloat16
and float16.
Ratios are medians of paired rounds. *Not yet run on a GPU.*
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import torch_network
from workloads import SHAPES, TOKENIZER, VOCABULARY, Shape, charlstm_train_step

from charlstm import LanguageModel, SamplingConfig
from charlstm.backends import LayerInput, Ops, get_ops
from charlstm.generation import generate_many
from charlstm.verification import check_backend

TRAINED = {"M": SHAPES["M"], "L": SHAPES["L"], "XL": Shape(1024, 3, 128, 200)}
ONE_LAYER = [(512, 32), (512, 128), (512, 256), (1024, 32), (1024, 128), (1024, 256)]
PRECISIONS = ("highest", "high", "medium")
STREAMS = (1, 64, 1024)
Run = Callable[[], Any]


class Torch:
    """PyTorch on the device, in one precision."""

    def __init__(self, precision: str, device: str) -> None:
        import torch

        self.torch, self.device, self.precision = torch, device, precision
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "highest"

    def casts(self) -> list[Any]:
        """The formats that autocast is tried with; None: it is off."""
        if self.precision != "medium":
            return [None]
        return [self.torch.bfloat16, self.torch.float16] if self.device == "cuda" else [self.torch.bfloat16]

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def training_step(self, shape: Shape, cast: Any) -> Run:
        torch, device = self.torch, self.device
        network = torch_network(shape).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        scaler = torch.amp.GradScaler(device, enabled=cast is not None and cast == torch.float16)
        x, y = (torch.from_numpy(part).to(device) for part in shape.batches())

        def run() -> None:
            with torch.autocast(device, cast, enabled=cast is not None):
                logits, _ = network(x)
                loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), y.reshape(-1))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            self.wait()

        return run

    def layer(self, H: int, B: int, T: int, cast: Any, backward: bool) -> Run:
        torch = self.torch
        lstm = torch.nn.LSTM(H, H).to(self.device)
        x = torch.randn(T, B, H, device=self.device, requires_grad=backward)

        def run() -> None:
            with (
                torch.set_grad_enabled(backward),
                torch.autocast(self.device, cast, enabled=cast is not None),
            ):
                h, _ = lstm(x)
            if backward:
                h.float().sum().backward()
            self.wait()

        return run


def layer(ops: Ops, H: int, B: int, T: int, backward: bool) -> Run:
    """One layer on vectors as wide as itself."""
    import numpy as np

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return ops.asarray(rng.standard_normal(shape).astype(np.float32) / 16)

    source = LayerInput(normal(1, 3 * H), None, normal(T, B, H), normal(H, 3 * H))
    R, state, dh = normal(H, 3 * H), normal(B, H), normal(T, B, H)
    dR, dW = normal(H, 3 * H), normal(H, 3 * H)

    def run() -> None:
        tape = ops.layer_forward(source, R, state, state)
        if backward:
            ops.layer_backward(dh, state, R, tape, source, dR, dW, state_gradients=False)
        ops.synchronize()

    return run


def paired(ours: Run, theirs: list[Run], seconds: float) -> dict[str, float]:
    """Median milliseconds, and the median ratio to the fastest of theirs, within about so many seconds."""
    for run in (ours, *theirs):
        run()
        run()
    rounds: list[tuple[float, ...]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < end:
        rounds.append(tuple(_timed(run) for run in (ours, *theirs)))
    own, *others = (statistics.median(side) for side in zip(*rounds, strict=True))
    best = 1 + others.index(min(others))
    ratio = statistics.median(row[best] / row[0] for row in rounds)
    return {"ms": 1000 * own, "torch_ms": 1000 * min(others), "ratio": ratio, "rounds": len(rounds)}


def _timed(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def memory(ops: Ops, device: str) -> dict[str, float]:
    """Megabytes that both sides hold of the device."""
    if device != "cuda":
        return {}
    import torch

    pool = ops.xp.get_default_memory_pool()
    return {"MB": pool.total_bytes() / 1e6, "torch_MB": torch.cuda.max_memory_reserved() / 1e6}


def measured(backend: str, device: str, quick: bool, tell: Callable[[dict[str, Any]], None]) -> None:
    seconds = 0.5 if quick else 4.0
    for precision in PRECISIONS:
        ops, peer = get_ops(backend, matmul_precision=precision), Torch(precision, device)  # type: ignore[arg-type]
        if ops.matmul_precision != precision:
            tell({"work": "skipped", "precision": precision, "runs as": ops.matmul_precision})
            continue
        for name, shape in list(TRAINED.items())[: 1 if quick else None]:
            theirs = [peer.training_step(shape, cast) for cast in peer.casts()]
            found = paired(charlstm_train_step(shape, ops), theirs, seconds)
            found["tokens_per_second"] = 1000 * shape.tokens / found["ms"]
            tell(
                {
                    "work": "training step",
                    "shape": name,
                    "precision": precision,
                    **found,
                    **memory(ops, device),
                }
            )
        for H, B in ONE_LAYER[: 1 if quick else None]:
            for backward in (False, True):
                T = 50
                theirs = [peer.layer(H, B, T, cast, backward) for cast in peer.casts()]
                found = paired(layer(ops, H, B, T, backward), theirs, seconds / 4)
                # products alone: input and recurrent one, and twice as much again back
                operations = 2 * T * B * 6 * H * H * (3 if backward else 1)
                found |= {"us_per_step": 1000 * found["ms"] / T, "GFLOPS": operations / found["ms"] / 1e6}
                work = "layer, forward and backward" if backward else "layer, forward"
                tell({"work": work, "shape": f"H {H}, B {B}, T {T}", "precision": precision, **found})
        for streams in STREAMS[: 2 if quick else None]:
            row = {"work": "generation", "shape": f"M, {streams} streams", "precision": precision}
            tell({**row, "us_per_character": generation(ops, streams)})


def generation(ops: Ops, streams: int) -> float:
    """Microseconds of a character, of so many streams that are drawn at once."""
    model, length = LanguageModel(VOCABULARY, 256, 2, 256, backend=ops), 64
    sampling = SamplingConfig(length=length, temperature=0.8)

    def run() -> None:
        list(generate_many(model, TOKENIZER, ["!"] * streams, sampling))

    run()
    return 1e6 * statistics.median(_timed(run) for _ in range(3)) / (length * streams)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="cupy", choices=("cupy", "numba"))
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds")
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    options = parser.parse_args()
    ops, device = get_ops(options.backend), "cuda" if options.backend == "cupy" else "cpu"
    checks = [figure.to_dict() for figure in check_backend(options.backend)]
    told: dict[str, Any] = {
        "device": ops.device(), "command": " ".join(sys.argv), "checks": checks, "rows": [],
        "versions": {name: version(name) for name in ("charlstm", "numpy", "torch")},
    }  # fmt: skip
    print(
        f"{ops.device()}: {sum(check['passed'] for check in checks)} of {len(checks)} checks passed",
        flush=True,
    )

    def tell(row: dict[str, Any]) -> None:
        told["rows"].append(row)
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True
        )

    measured(options.backend, device, options.quick, tell)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
