"""The compiled loops themselves: accuracy, vector instructions, and the cache on disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from charlstm.kernels import cpu, elementwise, generation, optimizers
from charlstm.kernels.compiling import OPTIONS
from llvmlite import binding
from numba import njit, typeof


def applied(function: Any) -> Any:
    @njit(**OPTIONS)
    def apply(x: np.ndarray, out: np.ndarray) -> None:
        for k in range(x.shape[0]):
            out[k] = function(x[k])

    return apply


REFERENCES = {
    "tanh": (elementwise.tanh, np.tanh),
    "sigmoid": (elementwise.sigmoid, lambda x: 0.5 * np.tanh(0.5 * x) + 0.5),
    "exp": (elementwise.exp, np.exp),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_accuracy(name: str, dtype: str) -> None:
    function, reference = REFERENCES[name]
    reach = (88 if dtype == "float32" else 700) if name == "exp" else 30
    low = -87 if (name, dtype) == ("exp", "float32") else -reach
    x = np.concatenate((np.linspace(low, reach, 200_001), np.linspace(-1, 1, 200_001))).astype(dtype)
    out = np.empty_like(x)
    applied(function)(x, out)
    expected = reference(x.astype(np.float64))
    error = np.abs(out - expected)
    if name == "exp":
        error = error / expected
    assert error.max() <= (5e-7 if dtype == "float32" else 5e-16)


@pytest.mark.parametrize("name", REFERENCES)
def test_special_values(name: str, dtype: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30], dtype)
    out = np.empty_like(x)
    applied(REFERENCES[name][0])(x, out)
    assert np.isnan(out[0])
    if name == "exp":
        assert np.all(out[[1, 3]] > 1e38)
        assert np.all(out[[2, 4]] < 1e-37)
    else:
        low = -1 if name == "tanh" else 0
        assert np.array_equal(out[1:], np.array([1, low, 1, low], dtype))


# Fused multiply-adds on whole registers, at least: 11 for each tanh or sigmoid (gates_forward has
# three such loops), 7 for each exp, one for each row or moment.
FUSED = {
    "gates_forward": 33,
    "gates_backward": 11,
    "adam_update": 2,
    "rmsprop_update": 2,
    "adagrad_update": 2,
    "sgd_update": 2,
    "move_towards": 1,
    "softmax_cross_entropy": 7,
    "add_product": 4,
}


def test_a_call_of_the_c_library_would_be_seen() -> None:
    @njit(**OPTIONS)
    def scalar(x: np.ndarray) -> None:
        for k in range(x.shape[0]):
            x[k] = np.tanh(x[k])

    scalar.compile((typeof(np.zeros(4, "f4")),))
    assert re.search(r"\$(tanhf?|expf?)\b", "\n".join(scalar.inspect_asm().values()))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly")
@pytest.mark.parametrize("kernel", [*FUSED, "scatter_add_rows"])
def test_loops_use_vector_instructions(kernel: str) -> None:
    """Packed arithmetic on whole registers, and no call of a scalar tanh or exp."""
    B, H = 2, 32
    wide, narrow, flat = np.zeros((B, 3 * H), "f4"), np.zeros((B, H), "f4"), np.zeros(64, "f4")
    number = np.float32(0.5)
    arguments: dict[str, tuple[Any, ...]] = {
        "gates_forward": (wide, wide, narrow, wide.copy(), narrow.copy(), narrow.copy()),
        "gates_backward": (narrow, narrow, narrow.copy(), wide, narrow, narrow, wide.copy()),
        "adam_update": (flat, flat, flat.copy(), flat.copy(), *[number] * 8),
        "rmsprop_update": (flat, flat, flat.copy(), *[number] * 5),
        "adagrad_update": (flat, flat, flat.copy(), *[number] * 4),
        "sgd_update": (flat, flat, flat.copy(), *[number] * 4),
        "move_towards": (flat, flat.copy(), number),
        "softmax_cross_entropy": (wide, np.zeros(2, np.int64), flat[:2], wide.copy(), number, number),
        "add_product": (flat[:H], np.zeros((H, 3 * H), "f4"), np.zeros(3 * H, "f4")),
        "scatter_add_rows": (wide.copy(), np.zeros(2, np.int64), wide, 0, 3 * H),
    }
    module = next(module for module in (cpu, optimizers, generation) if hasattr(module, kernel))
    dispatcher = njit(**OPTIONS)(getattr(module, kernel).py_func)  # code from the cache cannot be read
    dispatcher.compile(tuple(map(typeof, arguments[kernel])))
    assembly = "\n".join(dispatcher.inspect_asm().values())
    packed = re.findall(r"vf(?:n?madd|n?msub)\d+ps\s+.*[yz]mm", assembly)
    if kernel != "scatter_add_rows":  # which only adds
        assert len(packed) >= FUSED[kernel]
    assert re.search(r"v(?:add|fmadd\d+)ps\s+.*[yz]mm", assembly)
    # Numba calls through an address: movabsq $tanhf, %rax; callq *%rax
    assert not re.search(r"\$(tanhf?|expf?)\b", assembly)


PROBE = """
import numpy as np
from charlstm.kernels import cpu
x = np.zeros((2, 3), np.float32)
cpu.gather_rows(x, np.zeros(2, np.int64), x.copy())
stats = cpu.gather_rows.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def probe(root: Path, **environment: str) -> tuple[int, int]:
    """Cache hits and misses of a fresh process that uses the copy of the package in `root`."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE], env=environment, capture_output=True, text=True, check=True
    )
    hits, misses = done.stdout.split()
    return int(hits), int(misses)


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """The package, kernels included, as an installation lays it out."""
    import charlstm.kernels

    import charlstm

    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(charlstm.__file__).parent, tmp_path / "charlstm", ignore=skip)
    kernels = tmp_path / "charlstm" / "kernels"
    if not kernels.exists():
        shutil.copytree(Path(charlstm.kernels.__file__).parent, kernels, ignore=skip)
    return tmp_path


def test_an_edit_in_any_kernel_file_invalidates_the_cache(package_copy: Path, tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert probe(package_copy, **cache) == (0, 1)
    assert probe(package_copy, **cache) == (1, 0)
    other_file = package_copy / "charlstm" / "kernels" / "elementwise.py"
    other_file.write_text(other_file.read_text() + "\n# an edit\n")
    assert probe(package_copy, **cache) == (0, 1)
    assert probe(package_copy, **cache) == (1, 0)


def test_compiling_is_announced_once(package_copy: Path, tmp_path: Path) -> None:
    """Ours only, and nothing once it is in the cache."""
    environment = {
        **os.environ, "PYTHONPATH": str(package_copy), "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    code = (
        "import logging, numba; logging.basicConfig(level=logging.INFO); import charlstm.kernels.cpu as cpu\n"
        "numba.njit(lambda x: x + 1)(1); print('theirs', flush=True)\n" + PROBE
    )

    def stderr() -> str:
        command = [sys.executable, "-P", "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr

    assert stderr().count("compiling kernels for this machine, once") == 1
    assert "compil" not in stderr()


def test_kernels_work_where_no_cache_can_be_written(package_copy: Path) -> None:
    """No folder beside the source, none of the user's: compiled anew, and no error."""
    kernels = package_copy / "charlstm" / "kernels"
    (kernels / "__pycache__").write_text("a file in the way of the folder")
    nowhere = kernels / "__pycache__" / "nowhere"
    environment = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "NUMBA_CACHE_DIR": ""}
    assert probe(package_copy, **environment)[0] == 0


CHECK = """
from charlstm.backends import get_ops
from charlstm.kernels.vectors import REGISTERS
from charlstm.verification import check_backend
wrong = [figure.check for figure in check_backend("numba") if not figure.passed]
print(REGISTERS and REGISTERS.name, type(get_ops("numba")).__name__, wrong)
"""
NARROWER = {
    "avx2": ("haswell", "+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2", "avx2 FusedOps []"),
    "none": ("x86-64", "+sse2", "None NumbaOps []"),
}


@pytest.mark.skipif(
    not binding.get_host_cpu_features().get("avx2"), reason="forces narrower vectors than AVX-512 or AVX2"
)
@pytest.mark.parametrize("narrower", NARROWER)
def test_every_check_holds_with_narrower_vectors(narrower: str) -> None:
    name, features, expected = NARROWER[narrower]
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
