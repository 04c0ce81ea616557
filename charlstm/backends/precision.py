"""How exactly matrix products are made; names as in PyTorch's `set_float32_matmul_precision`."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Literal, get_args

from ..errors import UsageError

MatmulPrecision = Literal["highest", "high", "medium", "auto"]
"""highest: float32 throughout. high: operands split into parts of bfloat16, nearly as exact. medium: operands
rounded to bfloat16. auto: medium where that is faster. Parameters, gradients, states and sums are float32 in all."""

_log = logging.getLogger("charlstm")
_told: set[str] = set()


def on_host(asked: MatmulPrecision, backend: str) -> MatmulPrecision:
    """What a backend of the host makes products with where that is asked for; says once why it is not that."""
    _check(asked)
    if asked == "highest":
        return asked
    reason = _missing(asked, backend)
    if reason is None:
        return "high" if asked == "high" else "medium"
    if asked != "auto" and reason not in _told:
        _told.add(reason)
        _log.warning("matrix products are made with precision highest, not %s: %s", asked, reason)
    return "highest"


def _missing(asked: MatmulPrecision, backend: str) -> str | None:
    """What a backend of the host has not got for such products, or None."""
    if backend != "numba":
        return f"the {backend} backend has no such products"
    missing: str | None = import_module("..kernels.features", __package__).NO_TILES
    if asked == "high" and missing and bfloat16_unavailable() is None:
        return f"three products of parts are slower than one of float32 without: {missing}"
    return bfloat16_unavailable()


def rounded_precisions(backend: str) -> list[MatmulPrecision]:
    """Those less exact than highest that a backend makes products with on this machine."""
    every: tuple[MatmulPrecision, ...] = ("high", "medium")
    return [asked for asked in every if backend == "cupy" or _missing(asked, backend) is None]


def on_device(asked: MatmulPrecision) -> MatmulPrecision:
    """Likewise of the CuPy backend, where cuBLAS has them all: high is TF32."""
    _check(asked)
    return "medium" if asked == "auto" else asked


def _check(asked: MatmulPrecision) -> None:
    if asked not in get_args(MatmulPrecision):
        raise UsageError(
            f"matmul_precision must be one of {', '.join(get_args(MatmulPrecision))}, not {asked!r}"
        )


def bfloat16_unavailable() -> str | None:
    """Why products of bfloat16 cannot be made on this processor by the Numba backend, or None."""
    features = import_module("..kernels.features", __package__)
    return None if features.HAS_PAIRS else "the processor has no products of bfloat16 (AVX512-BF16)"


def bfloat16_engine() -> str:
    """What makes products of bfloat16 on this processor, or why nothing does, for people."""
    reason = bfloat16_unavailable()
    if reason is not None:
        return f"none: {reason}"
    missing = import_module("..kernels.features", __package__).NO_TILES
    if missing is None and not import_module(".packing", __package__).tiles_are_right():
        missing = "matrix registers (AMX) compute wrongly here"
    return "vector registers (AVX512-BF16)" + (f"; {missing}" if missing else " and matrix registers (AMX)")
