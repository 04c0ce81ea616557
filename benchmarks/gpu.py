"""The CuPy backend on a GPU: checked, then timed beside PyTorch's cuDNN LSTM on the same work.

    python benchmarks/gpu.py --json gpu.json               # at most 8 minutes; pip install ".[cuda12]" torch
    python benchmarks/gpu.py --backend numba --quick       # try the script without a GPU, PyTorch on the CPU

*Not yet run on a GPU.* What there is no time (or no memory) for is listed as left out.

A training step is loss, gradients, clipping and Adam of T x B tokens with a carried state, as `charlstm train` does
it: captured as a CUDA graph, losses read at the end. PyTorch's is `Embedding -> nn.LSTM -> Linear`, with four gates.
A layer is its recurrence and input product. `highest` is beside PyTorch in float32, `high` beside TF32, `medium`
beside the faster of its autocasts, bfloat16 and float16. Ratios are medians of paired rounds: above 1 we are faster.

The floors of a layer's time step are what its recurrent product takes at the speed of a large product in the same
precision, what its arrays take at the speed of a large copy, and two launches within a graph.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from workloads import SHAPES, VOCABULARY, Shape, charlstm_model

import charlstm
from charlstm import TrainingConfig
from charlstm.backends import LayerInput, Ops, get_ops, plain_draws
from charlstm.training.learner import Learner
from charlstm.verification import check_backend

TRAINED = {"M": SHAPES["M"], "L": SHAPES["L"], "XL": Shape(1024, 3, 128, 200)}
LAYERS = [(H, B) for H in (512, 1024) for B in (32, 64, 128, 256)]
STEPS = 200  # T of a layer
STREAMS = (1, 64, 1024)
DRAWN = 64  # characters of each stream in one call
PRECISIONS = ("highest", "high", "medium")
LARGE = 4096  # rows and columns of a large product; of four such matrices is a large copy
Run = Callable[[], Any]
Record = dict[str, Any]
Operators = Callable[[str], Ops]


# ---- our side -----------------------------------------------------------------------------------


def training_step(ops: Ops, shape: Shape) -> Run:
    model, (x, y) = charlstm_model(shape, ops), shape.batches()
    learner, state, step = Learner(model, TrainingConfig()), model.zero_state(shape.batch), 0

    def run() -> None:
        nonlocal state, step
        found = learner.gradients(step, x, y, state)
        learner.learn(step, found, 0.5)
        state, step = found.state, step + 1

    return run


def layer(ops: Ops, H: int, B: int, T: int, backward: bool) -> Run:
    rng = np.random.default_rng(0)
    x, W, R, table, state = (
        ops.asarray((rng.standard_normal(shape) / 30).astype(np.float32))
        for shape in ((T, B, H), (H, 3 * H), (H, 3 * H), (1, 3 * H), (B, H))
    )
    source, dR, dW = LayerInput(table, None, x, W), ops.zeros(R.shape, R.dtype), ops.zeros(W.shape, W.dtype)

    def compute(x: Any) -> tuple[Any, ...]:
        given = source._replace(x=x)
        tape = ops.layer_forward(given, R, state, state)
        if not backward:
            return tape.h, tape.c
        dh = ops.zeros(x.shape, x.dtype)
        dh[-1] = 1
        return (ops.layer_backward(dh, ops.zeros(state.shape, x.dtype), R, tape, given, dR, dW, False).x,)

    run = ops.captured(compute)
    return lambda: run(x)


def generation(ops: Ops, shape: Shape, streams: int) -> Run:
    model = charlstm_model(shape, ops)
    weights, (logits, state) = model.step_weights(), model.forward(np.zeros((1, streams), np.int64))
    draws = plain_draws(np.random.default_rng(0).random((DRAWN, streams)), 0.8, V=VOCABULARY)
    return lambda: ops.generate(weights, logits[0], *state, draws)


def large_product(ops: Ops) -> Run:
    a, out = (ops.zeros((LARGE, LARGE), np.float32) for _ in range(2))
    return lambda: ops.matmul(a, a, out=out)


def large_copy(ops: Ops) -> Run:
    a, out = (ops.zeros((4, LARGE, LARGE), np.float32) for _ in range(2))
    return lambda: out.__setitem__(..., a)


def launches(ops: Ops) -> Run:
    """Kernels with next to nothing to do, one after the other."""

    def compute(x: Any) -> tuple[Any, ...]:
        for _ in range(STEPS):
            x = x + 1
        return (x,)

    run, x = ops.captured(compute), ops.zeros((32,), np.float32)
    return lambda: run(x)


# ---- PyTorch's ----------------------------------------------------------------------------------


class Peer:
    """PyTorch's LSTM in one precision, on cuDNN or on the CPU; a list of forms, of which the fastest counts."""

    def __init__(self, torch: Any, precision: str, device: str) -> None:
        self.torch, self.device = torch, device
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
        halves = [torch.bfloat16, torch.float16] if device == "cuda" else [torch.bfloat16]
        self.casts = halves if precision == "medium" else [None]

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def _autocast(self, cast: Any) -> Any:
        return self.torch.autocast(self.device, cast, enabled=cast is not None)

    def training_step(self, shape: Shape) -> list[Run]:
        return [self._training_step(shape, cast) for cast in self.casts]

    def _training_step(self, shape: Shape, cast: Any) -> Run:
        from peers import torch_network

        torch, network = self.torch, torch_network(shape).to(self.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        scaler = torch.amp.GradScaler(self.device, enabled=cast == torch.float16)
        x, y = (torch.from_numpy(part).to(self.device) for part in shape.batches())
        state = None

        def run() -> None:
            nonlocal state
            with self._autocast(cast):
                logits, state = network(x, state)
                loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), y.reshape(-1))
            state = tuple(part.detach() for part in state)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

        return run

    def layer(self, H: int, B: int, T: int, backward: bool) -> list[Run]:
        return [self._layer(H, B, T, backward, cast) for cast in self.casts]

    def _layer(self, H: int, B: int, T: int, backward: bool, cast: Any) -> Run:
        torch = self.torch
        lstm = torch.nn.LSTM(H, H).to(self.device)
        x = torch.randn(T, B, H, device=self.device, requires_grad=backward)

        def run() -> None:
            with torch.set_grad_enabled(backward), self._autocast(cast):
                last = lstm(x)[0][-1].sum()
            if backward:
                last.backward()

        return run


# ---- measuring ----------------------------------------------------------------------------------


class Side:
    """One of those that are timed in turn: what runs, and what waits until it has run."""

    def __init__(self, run: Run, wait: Run) -> None:
        self._run, self._wait, self._calls = run, wait, 1

    def warm_up(self, least: float) -> None:
        """Compile and capture; then take as many calls in a round as last `least` seconds."""
        for _ in range(3):
            self._run()
        self._wait()
        self._calls = max(1, int(least / max(self.seconds(), 1e-6)))

    def seconds(self) -> float:
        """Of a call."""
        started = time.perf_counter()
        for _ in range(self._calls):
            self._run()
        self._wait()
        return (time.perf_counter() - started) / self._calls


class Measuring:
    """Takes measurements in turn until the time is over."""

    def __init__(self, operators: Operators, torch: Any, device: str, until: float, least: float) -> None:
        """`operators` gives the backend of a precision; a side's round lasts at least `least` seconds."""
        self.operators, self.torch, self.device = operators, torch, device
        self.until, self.least, self.left_out = until, least, list[str]()

    def _compared(self, what: str, precision: str, name: str, *arguments: Any) -> Record:
        """Seconds of ours and of the fastest of theirs, by the functions of this name; bytes they took."""
        found: Record = dict.fromkeys(("seconds", "torch_seconds", "ratio", "bytes", "torch_bytes"))
        if time.perf_counter() > self.until:
            self.left_out.append(f"{what}: no time")
            return found
        try:
            found |= self._paired(precision, name, *arguments)
        except (RuntimeError, MemoryError, charlstm.CharLSTMError) as error:
            self.left_out.append(f"{what}: {error}")
        self._free()
        return found

    def _paired(self, precision: str, name: str, *arguments: Any) -> Record:
        ops, before = self.operators(precision), self._in_use()
        if ops.matmul_precision != precision:
            raise charlstm.BackendError(f"it runs as {ops.matmul_precision}")
        sides = [Side(globals()[name](ops, *arguments), ops.synchronize)]
        sides[0].warm_up(self.least)
        between = self._in_use()
        if self.torch is not None and hasattr(Peer, name):
            peer = Peer(self.torch, precision, self.device)
            sides += [Side(run, peer.wait) for run in getattr(peer, name)(*arguments)]
            for side in sides[1:]:
                side.warm_up(self.least)
        rounds = [[side.seconds() for side in sides] for _ in range(5)]
        ours, *theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
        found: Record = {"seconds": ours, "bytes": between - before}
        if theirs:
            best = 1 + theirs.index(min(theirs))
            found["torch_seconds"] = min(theirs)
            found["ratio"] = statistics.median(times[best] / times[0] for times in rounds)
            found["torch_bytes"] = (self._in_use() - between) / len(theirs)
        return found

    def _in_use(self) -> int:
        """Bytes of the device that are in use, by whomever."""
        if self.device != "cuda":
            return 0
        free, total = self.operators("highest").xp.cuda.runtime.memGetInfo()
        return int(total - free)

    def _free(self) -> None:
        gc.collect()
        if self.device == "cuda":
            self.operators("highest").xp.get_default_memory_pool().free_all_blocks()
            if self.torch is not None:
                self.torch.cuda.empty_cache()

    def training(self) -> Iterator[Record]:
        for name, shape in TRAINED.items():
            for precision in PRECISIONS:
                found = self._compared(f"training {name} {precision}", precision, "training_step", shape)
                seconds = found["seconds"]
                speed = None if seconds is None else shape.tokens / seconds
                yield {"shape": name, "precision": precision, **found, "tokens_per_second": speed}

    def generation(self) -> Iterator[Record]:
        for name, shape in TRAINED.items():
            for streams in STREAMS:
                what = f"generation {name} {streams}"
                seconds = self._compared(what, "highest", "generation", shape, streams)["seconds"]
                each = None if seconds is None else 1e6 * seconds / DRAWN / streams
                yield {"shape": name, "streams": streams, "microseconds_per_character": each}

    def layers(self) -> Iterator[Record]:
        one = self._compared("launches", "highest", "launches")["seconds"]
        copy = self._compared("large copy", "highest", "large_copy")["seconds"]
        for precision in PRECISIONS:
            product = self._compared(f"large product {precision}", precision, "large_product")["seconds"]
            for H, B in LAYERS:
                for backward in (False, True):
                    work = "forward and backward" if backward else "forward"
                    what = f"layer H {H} B {B} {precision} {work}"
                    found = self._compared(what, precision, "layer", H, B, STEPS, backward)
                    yield {
                        "hidden": H, "batch": B, "precision": precision, "work": work, **found,
                        "microseconds_per_step": _scaled(found["seconds"], 1 / STEPS),
                        "floor_of_products": _scaled(product, (3 if backward else 1) * B * 3 * H * H / LARGE**3),
                        # forward: a, gates, h and c; backward: dh, gates, c twice and da as well
                        "floor_of_bytes": _scaled(copy, (17 if backward else 8) * B * H / (8 * LARGE**2)),
                        "floor_of_launches": _scaled(one, (4 if backward else 2) / STEPS),
                    }  # fmt: skip


def _scaled(seconds: float | None, factor: float) -> float | None:
    """Microseconds."""
    return None if seconds is None else 1e6 * seconds * factor


def environment(ops: Ops, torch: Any) -> Record:
    versions = {
        "charlstm": charlstm.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if torch is not None:
        versions["torch"] = torch.__version__
    found: Record = {
        "device": ops.device(),
        "versions": versions,
        "command": shlex.join(["python", *sys.argv]),
    }
    if ops.name == "cupy":
        versions["cupy"], runtime = ops.xp.__version__, ops.xp.cuda.runtime
        found |= {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()}
    return found


def measured(measuring: Measuring, checked: str | None, tell: Callable[[Record], Any]) -> Record:
    """Everything, the most important first; `checked` names a backend, each line is told as it is found."""
    ops = measuring.operators("highest")
    record = environment(ops, measuring.torch)
    record["checks"] = [figure.to_dict() for figure in check_backend(checked)] if checked else []
    for name in ("training", "generation", "layers"):
        record[name] = []
        for line in getattr(measuring, name)():
            record[name].append(line)
            tell({"work": name, **line})
    record["left_out"] = measuring.left_out
    return record


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--backend", default="cupy", choices=("cupy", "numba"))
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="begin nothing more after this (default 8)"
    )
    parser.add_argument("--quick", action="store_true", help="one call a round, the smallest shapes")
    options = parser.parse_args()
    device = "cuda" if options.backend == "cupy" else "cpu"
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and device == "cuda" and not torch.cuda.is_available():
        torch = None
    if options.quick:
        del TRAINED["L"], TRAINED["XL"], LAYERS[1:]
    known: dict[str, Ops] = {}

    def operators(precision: str) -> Ops:
        if precision not in known:
            known[precision] = get_ops(options.backend, matmul_precision=precision)  # type: ignore[arg-type]
        return known[precision]

    until = time.perf_counter() + 60 * options.minutes - 20  # what has begun may take a while
    measuring = Measuring(operators, torch, device, until, 0.0 if options.quick else 0.2)
    record = measured(measuring, options.backend, lambda line: print(_words(line), flush=True))
    failed = sum(not figure["passed"] for figure in record["checks"])
    print(f"{len(record['checks']) - failed} checks passed, {failed} failed on {record['device']}")
    print("\n".join(["left out:", *record["left_out"]] if record["left_out"] else ["nothing left out"]))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _words(line: Record) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())


if __name__ == "__main__":
    sys.exit(main())
