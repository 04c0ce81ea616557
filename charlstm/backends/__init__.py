"""Backends by name; nothing of a backend is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BackendError, UsageError
from .checks import check_dtype
from .dropout import mask_key
from .layers import CIFGTape, LayerGradients, LayerInput
from .ops import Ops
from .optimizer import RULES, Update
from .precision import MatmulPrecision, bfloat16_engine, rounded_precisions
from .sampling import (
    PLAIN,
    SAMPLERS,
    Array,
    Drawn,
    Draws,
    Sampler,
    Scores,
    StepWeights,
    draw,
    no_constraint,
    plain_draws,
)

__all__ = [
    "BACKENDS", "PLAIN", "RULES", "SAMPLERS", "Array", "CIFGTape", "Drawn", "Draws", "LayerGradients",
    "LayerInput", "MatmulPrecision", "Ops", "Sampler", "Scores", "StepWeights", "Update", "check_dtype",
    "describe_backends", "draw", "get_ops", "mask_key", "no_constraint", "plain_draws",
    "rounded_precisions", "unavailable",
]  # fmt: skip

BACKENDS = {"numpy": "numpy_ops.NumPyOps", "numba": "numba_ops.NumbaOps", "cupy": "cupy_ops.CuPyOps"}


def get_ops(
    name: str | Ops = "auto", threads: int | None = None, matmul_precision: MatmulPrecision = "highest"
) -> Ops:
    """The ops of a backend: "numpy", "numba", "cupy", or "auto" for the fastest that can run.

    "auto" takes cupy where there is a GPU that it can use, then numba, then numpy. `threads`
    limits the threads of the host; None reads CHARLSTM_NUM_THREADS, else takes every usable core.
    `matmul_precision` says how exactly float32 matrix products are made (`MatmulPrecision`); where the device has no
    faster ones, it says so once and makes them as "highest". An `Ops` keeps its own.
    Raises UsageError for an unknown name or precision and BackendError for one that cannot run here.

    >>> ops = get_ops("numpy", threads=1)
    >>> ops.softmax(ops.asarray([[0.0, 0.0, 0.0, 0.0]])).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    if isinstance(name, Ops):
        return name
    if name == "auto":
        name = next(b for b in ("cupy", "numba", "numpy") if unavailable(b) is None)
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}: choose from auto, {', '.join(BACKENDS)}")
    reason = unavailable(name)
    if reason:
        raise BackendError(f"the {name} backend cannot run here: {reason}")
    module, _, cls = BACKENDS[name].partition(".")
    if name == "numba" and import_module("..kernels.vectors", __name__).REGISTERS:
        module, cls = "fused_ops", "FusedOps"
    ops: Ops = getattr(import_module(f".{module}", __name__), cls)(threads, matmul_precision)
    return ops


def unavailable(name: str) -> str | None:
    """Why a backend cannot run here, or None where it can."""
    if name == "cupy":
        from .cupy_device import cupy_unavailable

        return cupy_unavailable()
    if name == "numba":
        try:
            import_module("numba")
        except ModuleNotFoundError:
            return "Numba is not installed (pip install numba)"
        except ImportError as error:  # such as a NumPy that is too new for it
            return f"Numba cannot be imported: {error}"
    return None


def describe_backends() -> list[dict[str, Any]]:
    """What each backend offers on this machine, as `charlstm backends --json` prints it."""
    from .numpy_ops import blas_info

    described = []
    for name in BACKENDS:
        reason = unavailable(name)
        row: dict[str, Any] = {"backend": name, "available": reason is None, "reason": reason}
        if reason is None:
            ops = get_ops(name, matmul_precision="auto")
            blas = None if name == "cupy" else blas_info()
            row |= {"device": ops.device(), "threads": ops.threads(), "blas": blas}
            row["matmul_precision"] = ops.matmul_precision
            row["bfloat16"] = bfloat16_engine() if name == "numba" else None
        described.append(row)
    return described
