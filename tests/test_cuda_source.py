"""The CUDA kernels without a GPU: compiled by NVRTC, and run on the CPU through a small shim."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from conftest import make_ops
from numpy.testing import assert_allclose

from charlstm.backends.cupy_ops import cuda_source

SHIM = """
#include <cmath>
#define __device__
#define __global__
struct Index { int x; };
static Index blockIdx, blockDim, threadIdx;
"""
LAUNCH = """
extern "C" void launch_NAME(int blocks, int threads, PARAMETERS) {
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
      NAME(ARGUMENTS);
}
"""


def launcher(name: str) -> str:
    """A host function that runs a kernel of the source for every thread of a grid."""
    parameters = cuda_source().split(f"void {name}(", 1)[1].split(")", 1)[0]
    names = [part.split()[-1].lstrip("*") for part in parameters.split(",")]
    code = LAUNCH.replace("NAME", name).replace("PARAMETERS", " ".join(parameters.split()))
    return code.replace("ARGUMENTS", ", ".join(names))


@pytest.fixture(scope="module", params=["float32", "float64"])
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ctypes.CDLL, str]:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("cuda")
    real = {"float32": "float", "float64": "double"}[request.param]
    names = ("gates_forward", "gates_backward", "segment_sum")
    (folder / "kernels.cpp").write_text(SHIM + cuda_source() + "".join(map(launcher, names)))
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DREAL={real}", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "kernels.so")), request.param


def launch(library: ctypes.CDLL, name: str, size: int, *arguments: np.ndarray | int) -> None:
    block = 8
    passed = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments]
    getattr(library, f"launch_{name}")((size + block - 1) // block, block, *passed)


def test_gates(kernels: tuple[ctypes.CDLL, str], rng: np.random.Generator) -> None:
    library, dtype = kernels
    reference = make_ops("numpy")
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    for B, H in ((1, 1), (3, 7), (5, 16)):
        a = rng.standard_normal((B, 3 * H)).astype(dtype)
        c_prev, dh, dc = (rng.standard_normal((B, H)).astype(dtype) for _ in range(3))
        gates, c, h = np.empty_like(a), np.empty_like(c_prev), np.empty_like(c_prev)
        launch(library, "gates_forward", B * H, a, c_prev, gates, c, h, B, H)
        for ours, expected in zip((gates, c, h), reference.gates_forward(a, c_prev), strict=True):
            assert_allclose(ours, expected, rtol=0, atol=tolerance)
        da, dc_prev = np.empty_like(a), np.empty_like(dc)
        launch(library, "gates_backward", B * H, dh, dc, gates, c_prev, c, da, dc_prev, B, H)
        expected_pair = reference.gates_backward(dh, dc, gates, c_prev, c)
        for ours, expected in zip((da, dc_prev), expected_pair, strict=True):
            assert_allclose(ours, expected, rtol=0, atol=10 * tolerance)


def test_segment_sum(kernels: tuple[ctypes.CDLL, str], rng: np.random.Generator) -> None:
    library, dtype = kernels
    V, D, N = 5, 7, 40
    ids = rng.integers(0, V - 1, N)  # the last symbol does not occur
    rows = rng.standard_normal((N, D)).astype(dtype)
    d = rng.standard_normal((V, D)).astype(dtype)
    expected = d.astype(np.float64)
    np.add.at(expected, ids, rows)
    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(V + 1))
    launch(library, "segment_sum", V * D, d, order.astype(np.int64), starts.astype(np.int64), rows, V, D)
    assert_allclose(d, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_nvrtc_compiles_the_source(architecture: str, dtype: str) -> None:
    pytest.importorskip("cupy", reason="CuPy, and with it nvrtc, is not installed")
    from cupy_backends.cuda.libs import nvrtc

    try:
        version = nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"nvrtc cannot be loaded: {error}")
    if architecture in ("sm_100", "sm_120") and version < (12, 8):
        pytest.skip(f"nvrtc {version} does not know {architecture}")
    real = {"float32": "float", "float64": "double"}[dtype]
    program = nvrtc.createProgram(cuda_source(), "gates.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-DREAL={real}", f"--gpu-architecture={architecture}"))
        assert b"gates_backward" in nvrtc.getCUBIN(program)
    finally:
        nvrtc.destroyProgram(program)
