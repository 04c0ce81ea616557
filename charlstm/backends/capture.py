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

MOST_GRAPHS = 4  # of one function: each holds its inputs and results
IDLE = 200  # calls after which the place of a graph that was not called is free
ATTEMPTS = 2  # at capturing: the first one may have found too little memory in the pool
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
        """Inside of `on_device()` the function's numbers stay on the device.

        What the function holds lives as long as this object: it should not hold its owner.
        """
        self._xp, self._function, self._on_device = xp, function, on_device
        self._known: dict[Any, _Shape] = {}  # by signature
        self._memory: _Memory | None = None
        self._calls, self._failed = 0, False
        self.replayed = False
        """Whether the last call replayed a graph."""

    def __call__(self, *inputs: Array | None) -> tuple[Any, ...]:
        self._calls += 1
        graph = None if self._failed else self._graph(inputs)
        self.replayed = graph is not None
        if graph is not None:
            return graph.replay(inputs)
        try:
            return self._run(*inputs)
        except MemoryError:
            if self._memory is None:
                raise
            self._give_up(MemoryError("the device has no memory left beside what graphs hold"))
        return self._run(*inputs)

    def _run(self, *inputs: Array | None) -> tuple[Any, ...]:
        with self._on_device():
            return self._function(*inputs)

    def _graph(self, inputs: Sequence[Array | None]) -> _Graph | None:
        """That of such inputs, once they have come for the second time."""
        signature = tuple(None if x is None else (x.shape, x.dtype.str) for x in inputs)
        known = self._known.get(signature)
        if known is None:
            self._make_room()
            if len(self._known) < MOST_GRAPHS:
                self._known[signature] = _Shape(self._calls)
            return None
        known.called = self._calls
        if known.graph is None:
            known.graph = self._capture(inputs)
        return known.graph

    def _make_room(self) -> None:
        """Forget shapes that have come once only, or not for long."""
        if len(self._known) < MOST_GRAPHS:
            return
        old = [
            s for s, known in self._known.items() if known.graph is None or known.called < self._calls - IDLE
        ]
        if old:
            del self._known[min(old, key=lambda signature: self._known[signature].called)]

    def _capture(self, inputs: Sequence[Array | None]) -> _Graph | None:
        try:
            if self._memory is None:
                self._memory = _Memory(self._xp)
            return _Graph(self._xp, self._run, inputs, self._memory)
        except (RuntimeError, MemoryError) as error:  # of CUDA, or of a library that cannot be captured
            self._give_up(error.__context__ or error)  # the end of a capture that has failed fails too
            return None

    def _give_up(self, error: BaseException) -> None:
        self._failed = True
        self._known.clear()
        self._memory = None
        logger.warning("no CUDA graph, kernels are launched one by one: %s", error)


class _Shape:
    """Inputs of some shapes: when they came last, and their graph, if they have come twice."""

    def __init__(self, called: int) -> None:
        self.called = called
        self.graph: _Graph | None = None


class _Memory:
    """Where the graphs of one function are captured: they run one after the other, and share their memory."""

    def __init__(self, xp: Any) -> None:
        self.pool = xp.cuda.MemoryPool()
        self.stream = xp.cuda.Stream(non_blocking=True)  # others cannot be captured; pools go by stream


class _Graph:
    """A graph with its inputs and results."""

    def __init__(
        self,
        xp: Any,
        function: Callable[..., tuple[Any, ...]],
        inputs: Sequence[Array | None],
        memory: _Memory,
    ) -> None:
        pool, stream = memory.pool, memory.stream
        before = xp.cuda.get_current_stream()
        xp.get_default_memory_pool().free_all_blocks()  # what running without a graph has taken
        stream.wait_event(before.record())
        with xp.cuda.using_allocator(pool.malloc), stream:
            self._inputs = [None if x is None else xp.array(x) for x in inputs]
            function(*self._inputs)  # fills the pool and loads the kernels: neither can be captured
            stream.synchronize()
            for _ in range(ATTEMPTS):
                held = pool.total_bytes()
                self._results: tuple[Any, ...] = ()  # those of the attempt before need no memory
                stream.begin_capture()
                try:
                    self._results = function(*self._inputs)
                finally:
                    self._graph = stream.end_capture()
                if pool.total_bytes() == held:
                    return
        # a pool that runs out gives back its free blocks, which kernels captured before may use
        raise MemoryError("the memory of a graph has moved while it was captured")

    def replay(self, inputs: Sequence[Array | None]) -> tuple[Any, ...]:
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None:
                own[...] = given
        self._graph.launch()
        return tuple(x.copy() if x is not None and x.ndim == 0 else x for x in self._results)
