"""The CuPy backend on an emulated device: kernels compiled as C++ (`cuda_shim.h`), NumPy's arrays as memory.

What the backend does in Python, which kernels it launches with which arguments on which grids, and what they
compute is what it is on a GPU; products are NumPy's in place of cuBLAS's. Memory, streams and speed are not emulated.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from charlstm.backends import Ops, cupy_ops

SIGNATURE = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')


def compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler")
    return found


def host_source(source: str) -> str:
    """A CUDA source as C++: the device that runs it, and a table of its kernels."""
    calls, rows = [], []
    for name, parameters in SIGNATURE.findall(source):
        kinds = [re.sub(r"\w+$", "", part.strip()) for part in parameters.split(",")]
        given = ", ".join(f"*({kind} *)a[{k}]" for k, kind in enumerate(kinds))
        calls.append(f"static void call_{name}(void **a) {{ {name}({given}); }}")
        rows.append(f'{{"{name}", call_{name}}}')
    table = "Kernel kernels[] = {" + ", ".join([*rows, "{nullptr, nullptr}"]) + "};"
    return "\n".join(['#include "cuda_shim.h"', source, *calls, table, ""])


def arguments_of(name: str, source: str) -> int:
    return len(
        next(parameters for found, parameters in SIGNATURE.findall(source) if found == name).split(",")
    )


class Device(ModuleType):
    """What the backend uses of `cupy`, for one dtype or several: NumPy, and kernels."""

    def __init__(self, folder: Path, backwards: bool) -> None:
        super().__init__("cupy")
        self._folder, self._backwards = folder, backwards
        self.launched: set[str] = set()
        stream = SimpleNamespace(ptr=0, synchronize=lambda: None)
        runtime = SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda _: {"name": b"emulated"})
        self.cuda = SimpleNamespace(get_current_stream=lambda: stream, runtime=runtime)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def asnumpy(x: Any) -> np.ndarray:
        return np.array(x)

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:  # noqa: N802 - CuPy's name
        name = "".join(filter(str.isalnum, "".join(options)))
        path = self._folder / f"{name}.so"
        if not path.exists():
            (self._folder / f"{name}.cpp").write_text(host_source(code))
            here = str(Path(__file__).parent)
            macros = [option for option in options if option.startswith("-D")]
            command = [
                compiler(),
                "-std=c++20",
                "-shared",
                "-fPIC",
                "-O1",
                "-I",
                here,
                *macros,
                "-o",
                str(path),
            ]
            done = subprocess.run([*command, f"{self._folder / name}.cpp"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        library = ctypes.CDLL(str(path))
        library.set_order(int(self._backwards))
        return SimpleNamespace(get_function=lambda kernel: self._function(library, kernel, code))

    def _function(self, library: ctypes.CDLL, kernel: str, code: str) -> Any:
        number = arguments_of(kernel, code)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], given: tuple[Any, ...]) -> None:
            assert len(given) == number, (kernel, len(given), number)
            values = []
            for each in given:
                if isinstance(each, np.ndarray):
                    assert each.flags.c_contiguous, (kernel, each.strides)
                    values.append(np.uint64(each.ctypes.data))
                else:
                    assert isinstance(each, np.generic), (
                        kernel,
                        each,
                    )  # a number must have the kernel's size
                    values.append(each)
            room = [ctypes.create_string_buffer(value.tobytes(), 8) for value in values]
            pointers = (ctypes.c_void_p * len(room))(*(ctypes.addressof(each) for each in room))
            self.launched.add(kernel)
            status = library.launch(kernel.encode(), grid[0], block[0], pointers)
            assert status == 0, (kernel, status)

        return launch


class Products:
    """What the backend uses of cuBLAS."""

    def gemm(self, a: Any, b: Any, out: Any, precision: str, accumulate: bool) -> None:
        product = np.matmul(a, b)
        out[...] = out + product if accumulate else product


def emulated_ops(folder: Path, backwards: bool = False) -> Ops:
    """The CuPy backend on an emulated device; `ops.xp.launched` tells what was launched.

    `backwards`: threads take their turns the other way around, which shows barriers that are missing.
    """
    compiler()
    device = Device(folder, backwards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", device)
        patch.setattr(cupy_ops, "cupy_unavailable", lambda: None)
        ops = cupy_ops.CuPyOps()
    ops._cublas = Products()  # type: ignore[assignment]
    return ops
