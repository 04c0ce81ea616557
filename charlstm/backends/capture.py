"""Functions of device arrays captured once as a CUDA graph, then replayed: one launch for all their kernels.

Not yet run on a GPU. What a graph needs, all of it in this one place: a stream of its own while it is
captured; memory that nothing else is given as long as it lives (a pool of its own); inputs at fixed
addresses, into which each call copies; and no wait for the device while it is captured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from .sampling import Array

MOST_GRAPHS = 4  # of one function: each holds the memory of all its intermediate results
logger = logging.getLogger("charlstm")


class Captured:
    """A function of arrays (or None) that returns a tuple of arrays (or None).

    For inputs of new shapes it runs as it is, the next time it is captured, from then on it is replayed:
    what it returns then is valid until the next call, but for 0-d arrays, which are copies. Where capturing
    fails, or there are too many different shapes, it goes on running as it is, which is said in the log.
    """

    def __init__(
        self,
        xp: Any,
        function: Callable[..., tuple[Any, ...]],
        on_device: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Inside of `on_device()` the function's numbers stay on the device."""
        self._xp, self._function, self._on_device = xp, function, on_device
        self._graphs: dict[Any, _Graph | None] = {}  # by signature; None: seen once, or not to be captured
        self._failed = False

    def __call__(self, *inputs: Array | None) -> tuple[Any, ...]:
        signature = tuple(None if x is None else (x.shape, x.dtype.str) for x in inputs)
        graph = self._graphs.get(signature)
        if graph is None and self._worth_it(signature):
            graph = self._graphs[signature] = self._capture(inputs)
        if graph is not None:
            return graph.replay(inputs)
        with self._on_device():
            return self._function(*inputs)

    def _worth_it(self, signature: Any) -> bool:
        if self._failed:
            return False
        if signature in self._graphs:
            return True
        if len(self._graphs) < MOST_GRAPHS:
            self._graphs[signature] = None
        return False

    def _capture(self, inputs: Sequence[Array | None]) -> _Graph | None:
        try:
            with self._on_device():
                return _Graph(self._xp, self._function, inputs)
        except (RuntimeError, MemoryError) as error:  # of CUDA, or of a library that cannot be captured
            self._failed = True
            logger.warning("no CUDA graph, kernels are launched one by one: %s", error)
            return None


class _Graph:
    """A graph with its inputs, results and all memory in between."""

    def __init__(
        self, xp: Any, function: Callable[..., tuple[Any, ...]], inputs: Sequence[Array | None]
    ) -> None:
        self._xp, self._pool = xp, xp.cuda.MemoryPool()
        before = xp.cuda.get_current_stream()
        xp.get_default_memory_pool().free_all_blocks()  # what running without a graph has taken
        stream = xp.cuda.Stream(non_blocking=True)  # others cannot be captured
        stream.wait_event(before.record())
        with xp.cuda.using_allocator(self._pool.malloc), stream:
            self._inputs = [None if x is None else xp.array(x) for x in inputs]
            function(*self._inputs)  # fills the pool and loads the kernels: neither can be captured
            stream.synchronize()
            stream.begin_capture()
            try:
                self._results = function(*self._inputs)
            finally:
                self._graph = stream.end_capture()

    def replay(self, inputs: Sequence[Array | None]) -> tuple[Any, ...]:
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None:
                own[...] = given
        self._graph.launch()
        return tuple(x.copy() if x is not None and x.ndim == 0 else x for x in self._results)
