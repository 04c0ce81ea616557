"""A stand-in for CuPy whose device is the CPU: kernels run in tests/cuda_shim.h, cuBLAS is NumPy.

NumPy arrays do not mix with its own, names that CuPy lacks do not exist, kernels take contiguous arrays and
scalars of exactly the types in their source, new arrays hold NaNs. While a graph is captured nothing can be read,
arrays come from the graph's own pool, and all work is on its stream, that of cuBLAS too, whose handle has a workspace
there. Graphs are replayed step by step. What it cannot show: streams that run side by side, what a pool does with
its memory, and the speed of anything.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from charlstm.backends.cublas import Cublas
from charlstm.backends.cupy_ops import CuPyOps

SHIM = Path(__file__).with_name("cuda_shim.h")
TYPES = {
    "int": "i4", "int64": "i8", "uint64": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
PROPERTIES = {
    "name": b"emulated", "major": 9, "minor": 0, "multiProcessorCount": 132, "sharedMemPerBlockOptin": 232448,
}  # fmt: skip
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__\w+__\([^)]*\)\s+)*(\w+)\(([^)]*)\)')


# ---- the graph that is being captured -----------------------------------------------------------


class Graph:
    """What was done while capturing, to be done again."""

    def __init__(self, stream: Stream, pool: MemoryPool) -> None:
        self.stream, self.pool = stream, pool
        self.steps: list[Callable[[], Any]] = []
        self.results: list[np.ndarray] = []
        self.memory: list[np.ndarray] = []  # a graph's pool: what lies in it stays there

    def launch(self, stream: Any = None) -> None:
        for step in self.steps:
            step()


capturing: Graph | None = None
waits = 0


def do(step: Callable[[], Any]) -> Any:
    """Do what changes arrays in place; when a graph is replayed, again."""
    if capturing is not None:
        assert streams[-1] is capturing.stream, "work on another stream than the graph's"
        capturing.steps.append(step)
    return step()


def no_waiting() -> None:
    """What waits for the device: counted, and impossible while a graph is captured."""
    global waits
    waits += 1
    if capturing is not None:
        raise RuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        )


# ---- arrays -------------------------------------------------------------------------------------


def unwrapped(x: Any) -> Any:
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (list, tuple)):
        return type(x)(unwrapped(part) for part in x)
    return x


def call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What NumPy makes of device arrays, as device arrays."""
    given, named = unwrapped(arguments), {key: unwrapped(value) for key, value in keywords.items()}
    found = function(*given, **named)
    if named.get("out") is not None:
        if capturing is not None:
            capturing.steps.append(lambda: function(*given, **named))
        return keywords["out"]
    if isinstance(found, (tuple, list)):
        assert capturing is None
        return type(found)(ndarray(part) for part in found)
    if not isinstance(found, (np.ndarray, np.generic)):
        return found
    found = np.asarray(found)
    arrays = [x for part in given for x in (part if isinstance(part, (list, tuple)) else [part])]
    if capturing is not None and not any(
        isinstance(x, np.ndarray) and np.shares_memory(x, found) for x in arrays
    ):
        capturing.steps.append(lambda: np.copyto(found, function(*given, **named)))
        capturing.results.append(found)
    return ndarray(found)


class ndarray:  # CuPy's name
    """An array on the device."""

    __array_ufunc__ = None  # NumPy leaves operators to this class

    def __init__(self, host: np.ndarray) -> None:
        self.host = host
        if capturing is not None:
            assert pools[-1] is capturing.pool, "memory that is not the graph's own"
            capturing.memory.append(host)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.host, name)
        if isinstance(value, np.ndarray):
            return ndarray(value)
        if callable(value):
            return functools.partial(call, lambda host, *a, **k: getattr(host, name)(*a, **k), self)
        return value

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self.host.ctypes.data)

    def get(self) -> np.ndarray:
        no_waiting()
        return self.host.copy()

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> ndarray:
        return call(lambda host, key: host[key], self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, value = unwrapped(key), unwrapped(value)
        do(lambda: self.host.__setitem__(key, value))

    def __float__(self) -> float:
        no_waiting()
        return float(self.host)

    def __int__(self) -> int:
        no_waiting()
        return int(self.host)

    def __bool__(self) -> bool:
        no_waiting()
        return bool(self.host)


def _operator(name: str) -> Callable[..., Any]:
    def operate(self: ndarray, *others: Any) -> Any:
        if name.startswith("__i") and name != "__invert__":
            others = unwrapped(others)
            do(lambda: getattr(self.host, name)(*others))
            return self
        return call(lambda host, *rest: getattr(host, name)(*rest), self, *others)

    return operate


for _name in (
    *(
        f"__{side}{op}__"
        for op in ("add", "sub", "mul", "truediv", "pow", "matmul")
        for side in ("", "r", "i")
    ),
    *(f"__{op}__" for op in ("neg", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "invert", "abs")),
):
    setattr(ndarray, _name, _operator(_name))


# ---- kernels ------------------------------------------------------------------------------------


@functools.cache
def compiled(source: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels of a source as a library for the CPU."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    calls, table = [], []
    for name, parameters in KERNEL.findall(source):
        kinds = [" ".join(part.split()[:-1]) + "*" * part.count("*") for part in parameters.split(",")]
        given = ", ".join(f"*({kind} *)a[{n}]" for n, kind in enumerate(kinds))
        calls.append(f"static void call_{name}(void **a) {{ {name}({given}); }}")
        table.append(f'{{"{name}", call_{name}}}, ')
    rows = "".join(table)
    code = [f'#include "{SHIM}"', source, *calls, f"Kernel kernels[] = {{{rows}{{nullptr, nullptr}}}};"]
    (folder / "kernels.cpp").write_text("\n".join(code))
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-std=c++20",
        "-w",
        *options,
        "-o",
        "kernels.so",
        "kernels.cpp",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "kernels.so"))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when Python ends."""
    return tempfile.TemporaryDirectory(prefix="charlstm-cuda-")


class RawModule:
    """As CuPy's, of a source without name expressions."""

    backwards = False  # the order in which threads take turns

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        assert options[0] == "--std=c++17"
        self._library = compiled(code, options[1:])
        self._macros = dict(option[2:].split("=") for option in options[1:])
        self._parameters = dict(KERNEL.findall(code))

    def get_function(self, name: str) -> Function:
        return Function(self._library, name, self._parameters[name].split(","), self._macros)


class Function:
    """A kernel; a launch checks its arguments against the source."""

    def __init__(
        self, library: ctypes.CDLL, name: str, parameters: list[str], macros: dict[str, str]
    ) -> None:
        self._library, self._name, self._parameters, self._macros = library, name, parameters, macros
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid: tuple[int], block: tuple[int], arguments: Any, *, shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= PROPERTIES["sharedMemPerBlockOptin"]
        assert len(arguments) == len(self._parameters), (self._name, len(arguments), self._parameters)
        assert 0 < block[0] <= 1024
        kept = [self._checked(x, part) for x, part in zip(arguments, self._parameters, strict=True)]
        places = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(x) for x in kept))
        cluster = int(self._macros.get("CLUSTER", 1))
        assert grid[0] % cluster == 0

        def launch(_kept: Any = (kept, arguments)) -> None:
            self._library.set_order(int(RawModule.backwards))
            size = ctypes.c_size_t(shared_mem)
            status = self._library.launch(self._name.encode(), grid[0], block[0], cluster, size, places)
            assert status == 0, f"{self._name}: threads wait for ever"

        do(launch)

    def _checked(self, x: Any, parameter: str) -> Any:
        """The bytes of an argument, once it is known to be what the source says."""
        kind = parameter.replace("const ", "").replace("*", "").strip().rsplit(" ", 1)[0].strip()
        dtype = np.dtype(TYPES[self._macros.get(kind, kind)])
        said = f"{self._name}({parameter.strip()})"
        if "*" not in parameter:
            assert isinstance(x, np.generic), f"{said}: {type(x)}"
            assert x.dtype == dtype, f"{said}: {x.dtype}"
            return ctypes.create_string_buffer(x.tobytes(), dtype.itemsize)
        if isinstance(x, np.uint64):
            assert x == 0, f"{said}: only null is a pointer without an array"
            return ctypes.c_void_p(0)
        assert isinstance(x, ndarray), f"{said}: {type(x)}"
        assert x.dtype == dtype, f"{said}: {x.dtype}"
        assert x.flags.c_contiguous, f"{said}: {x.shape}, strides {x.strides}"
        return ctypes.c_void_p(x.data.ptr)


class CublasLibrary:  # with cuBLAS's names
    """As much of libcublas as charlstm calls."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}  # of each handle
        self.workspaces: dict[int, int] = {}

    def cublasCreate_v2(self, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 1 + len(self.streams)
        self.streams[handle._obj.value] = 0
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:  # noqa: N802
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:  # noqa: N802
        self.streams[handle.value] = stream.value
        self.workspaces.pop(handle.value, None)
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, place: Any, size: Any) -> int:  # noqa: N802
        self.workspaces[handle.value] = place.value
        return 0

    def cublasGemmEx(  # noqa: N802
        self, handle: Any, of_a: int, of_b: int, m: int, n: int, k: int, alpha: Any, a: Any, kind_a: int, step_a: int,
        b: Any, kind_b: int, step_b: int, beta: Any, c: Any, kind_c: int, step_c: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        assert self.streams[handle.value] == streams[-1].ptr, (
            "a product on another stream than the current one"
        )
        assert handle.value in self.workspaces, "cuBLAS would allocate a workspace"
        assert kind_a == kind_b == kind_c
        assert (algorithm, alpha._obj.value) == (-1, 1)
        assert compute == 70 if kind_a else compute in (68, 75, 77)
        left, right = (
            _columns(place, rows, columns, step, kind_a, transposed)
            for place, rows, columns, step, transposed in ((a, m, k, step_a, of_a), (b, k, n, step_b, of_b))
        )
        out, scale = _columns(c, m, n, step_c, kind_a, 0), beta._obj.value
        kept = {68: 24, 70: 53, 75: 8, 77: 11}[compute]

        def multiply() -> None:
            product = rounded(left, kept) @ rounded(right, kept)
            out[...] = product if scale == 0 else product + scale * out

        do(multiply)
        return 0


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x with so many bits of mantissa, rounded to even."""
    if bits >= 24:
        return x
    words, drop = np.ascontiguousarray(x).view(np.uint32), np.uint32(24 - bits)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + ((words >> drop) & np.uint32(1))
    return ((words + half) >> drop << drop).view(np.float32)


def _columns(place: Any, rows: int, columns: int, step: int, kind: int, transposed: int) -> np.ndarray:
    """The matrix (rows, columns) that lies in memory column by column, or transposed so."""
    inner, outer = (columns, rows) if transposed else (rows, columns)
    assert step >= max(1, inner), "a leading dimension that is too small"
    number = ctypes.c_double if kind else ctypes.c_float
    size = step * (outer - 1) + inner
    flat = np.ctypeslib.as_array((number * size).from_address(place.value))
    matrix = np.lib.stride_tricks.as_strided(flat, (outer, inner), (step * flat.itemsize, flat.itemsize))
    return matrix if transposed else matrix.T


# ---- the module -------------------------------------------------------------------------------------


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking, self.ptr, self._waited = non_blocking, id(self), False

    def __enter__(self) -> Stream:
        streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        streams.pop()
        self._waited = False

    def record(self) -> object:
        return object()

    def wait_event(self, event: object) -> None:
        self._waited = True

    def synchronize(self) -> None:
        no_waiting()

    def begin_capture(self) -> None:
        global capturing
        assert self.non_blocking
        assert capturing is None
        assert streams[-1] is self
        assert self._waited, "work that the graph's inputs come from may not be done"
        assert pools[-1] is not None, "a graph needs a pool of its own"
        capturing = Graph(self, pools[-1])

    def end_capture(self) -> Graph:
        global capturing
        graph, capturing = capturing, None
        assert graph is not None
        for result in graph.results:  # nothing has run yet
            result.fill(np.nan if result.dtype.kind == "f" else 77)
        return graph


class MemoryPool:
    def malloc(self, size: int) -> Any:
        """Names the pool for `using_allocator`; what allocates is NumPy."""

    def total_bytes(self) -> int:
        return 0


streams = [Stream()]
pools: list[MemoryPool | None] = [None]


class CUDARuntimeError(RuntimeError):
    pass


@contextmanager
def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    pools.append(allocator.__self__)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pools.pop()


class Emulated(types.ModuleType):
    """The module `cupy`."""

    def __init__(self) -> None:
        super().__init__("cupy")
        runtime = types.SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDevice=lambda: 0,
            getDeviceProperties=lambda number: PROPERTIES,
            memGetInfo=lambda: (1 << 30, 1 << 31),
            driverGetVersion=lambda: 12090,
            runtimeGetVersion=lambda: 12090,
        )
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Stream=Stream, using_allocator=using_allocator, get_current_stream=lambda: streams[-1],
            MemoryPool=MemoryPool,
        )  # fmt: skip
        self.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
        self.RawModule, self.ndarray, self.__version__ = RawModule, ndarray, "emulated"
        try:
            import cupy  # for the names that it has; without a device it does no more

            self._real: Any = cupy
        except ImportError:
            self._real = np

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(self._real, name):
            raise AttributeError(f"cupy has no {name}")
        found = getattr(np, name)
        return functools.partial(call, found) if callable(found) and not isinstance(found, type) else found

    def asarray(self, x: Any, dtype: Any = None) -> ndarray:
        if isinstance(x, ndarray):
            return x if dtype is None or x.dtype == dtype else call(np.asarray, x, dtype=dtype)
        if capturing is not None:
            raise RuntimeError("an array of the host while a graph is captured")
        return ndarray(np.array(x, dtype=dtype))

    def array(self, x: Any) -> ndarray:
        return call(np.array, x) if isinstance(x, ndarray) else self.asarray(x)

    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        host = np.empty(shape, dtype)
        host.fill(np.nan if host.dtype.kind == "f" else 77)
        return ndarray(host)

    def stack(self, parts: Any, axis: int = 0) -> ndarray:
        if capturing is not None and len(parts) > 8:
            raise RuntimeError("H2D transfers are disallowed")  # CuPy sends their addresses
        return call(np.stack, list(parts), axis=axis)

    def asnumpy(self, x: Any) -> np.ndarray:
        return x.get() if isinstance(x, ndarray) else np.asarray(x)


@contextmanager
def emulated() -> Iterator[None]:
    """Inside, the backend named "cupy" is made on the emulated device."""
    with (
        mock.patch.dict(sys.modules, {"cupy": Emulated()}),
        mock.patch("charlstm.backends.cupy_ops.cupy_unavailable", return_value=None),
        mock.patch("charlstm.backends.cupy_device.cupy_unavailable", return_value=None),
        mock.patch("charlstm.backends.cublas.load_library", CublasLibrary),
    ):
        yield


def emulated_ops() -> CuPyOps:
    """The CuPy backend on the emulated device."""
    with emulated():
        ops = CuPyOps()
        ops._cublas = Cublas(ops.xp)
    return ops
