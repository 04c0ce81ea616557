"""Continuous batching: one thread draws the texts of all requests side by side.

Orca (Yu et al. 2022, OSDI) calls it iteration-level scheduling: what batches of whole requests make wait for
the longest of them joins and leaves between two steps. A recurrent network makes it simple: what a text
has become so far is a state of fixed size.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, Protocol

from ..errors import CharLSTMError
from ..generation import DRAWN_AT_ONCE, Batch, FinishReason, Stream, Token
from ..model import CIFGModel

FEWEST, MOST = 4, 32  # tokens that are drawn at once while somebody watches

End = FinishReason | Literal["deadline", "error"]

logger = logging.getLogger("charlstm.serve")


class QueueFullError(CharLSTMError):
    """Too many texts are waiting already."""

    def __init__(self) -> None:
        super().__init__("too many requests are under way: try again later")


class DrawingError(CharLSTMError):
    """The model, or the engine, failed while it drew."""

    def __init__(self) -> None:
        super().__init__("the model failed: the server's log tells why")


class Piece(NamedTuple):
    """What one of a request's texts has won."""

    place: int  # of the text among the request's
    text: str
    tokens: tuple[Token, ...]  # where they were asked for
    end: End | None  # why the text is over, once it is


class Request:
    """Texts that were asked for together, and the pieces of them that nobody has taken yet.

    Pieces wait in `inbox` for as long as the reader takes: their number is bounded by the lengths of the texts,
    and nobody else waits for the reader.
    """

    def __init__(self, streams: Sequence[Stream], watched: bool, deadline: float) -> None:
        """`watched`: somebody reads the pieces as they come; `deadline` in the time of `time.monotonic`."""
        self.streams, self.watched, self.deadline = tuple(streams), watched, deadline
        self.inbox: deque[Piece] = deque()
        self.cancelled = False
        self.arrived = time.monotonic()
        self.started: float | None = None
        """When its first piece came."""
        self.open = len(self.streams)
        """Texts that are not over."""


class Observer(Protocol):
    """What is told of an engine's work; called in its thread."""

    def first_piece(self, seconds: float) -> None: ...

    def advanced(self, tokens: int, seconds_per_token: float) -> None: ...


class Engine:
    """Owns a model, in one thread of its own, and draws what is asked of it.

    A text depends on its model, prompt, sampling and seed alone, whatever is drawn beside it.
    """

    def __init__(
        self,
        model: CIFGModel,
        slots: int,
        queue: int,
        wake: Callable[[Collection[Request]], None],
        observer: Observer | None = None,
    ) -> None:
        """`slots` texts are drawn at most, `queue` may wait.

        wake  called in the engine's thread with requests that have something in their inbox
        """
        self._model, self._slots, self._queue = model, slots, queue
        self._wake, self._observer = wake, observer
        self._batch = Batch(model)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Request, int]] = deque()
        self._probes: deque[Callable[[], None]] = deque()
        self._latest = math.inf  # deadline of all
        self._closing = False
        self._running: dict[Stream, tuple[Request, int]] = {}
        self._thread = threading.Thread(target=self._work, name="charlstm-engine", daemon=True)
        self._thread.start()

    # ---- called from any thread -------------------------------------------------------------

    @property
    def active(self) -> int:
        """Texts that are being drawn or whose prompts are being read."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        """Have a request's texts drawn; QueueFullError where more texts would wait than may."""
        with self._changed:
            free = max(0, self._slots - len(self._running))
            if self._closing or len(self._waiting) + len(request.streams) > self._queue + free:
                raise QueueFullError
            self._waiting.extend((request, k) for k in range(len(request.streams)))
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Draw no more of a request: nobody reads it. Its places are free at the next step."""
        request.cancelled = True  # the engine is at work, and will see it

    def probe(self, seconds: float) -> bool:
        """Whether the engine makes a step of its model within so many seconds, and gets finite numbers."""
        done, finite = threading.Event(), False

        def step() -> None:
            nonlocal finite
            xp = self._model.ops.xp
            try:
                logits, _ = self._model.forward(xp.zeros((1, 1), dtype=xp.int64))
                finite = bool(xp.all(xp.isfinite(logits)))
            finally:
                done.set()

        with self._changed:
            self._probes.append(step)
            self._changed.notify()
        return done.wait(seconds) and finite

    def drain(self, seconds: float) -> None:
        """Let nothing go on for longer than that."""
        self._latest = time.monotonic() + seconds

    def close(self) -> None:
        """End the thread; what is still being drawn ends as if its deadline had come."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # ---- the engine's thread ----------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._probes or self._closing):
                    self._changed.wait()
                if self._closing:
                    break
            while self._probes:
                try:
                    self._probes.popleft()()
                except Exception:
                    logger.exception("a step of the model failed")
            self._step()
        with self._changed:
            left = dict(self._running)
            left |= {request.streams[k]: (request, k) for request, k in self._waiting}
            self._waiting.clear()
        self._running = left
        self._end_all("deadline")

    def _step(self) -> None:
        """An error ends the texts that are being drawn, not the engine."""
        try:
            self._drop()
            self._admit()
            if self._running:
                self._advance()
        except Exception as error:
            logger.error("drawing failed: %s", error, exc_info=not isinstance(error, CharLSTMError))
            self._batch = Batch(self._model)
            self._end_all("error")

    def _end_all(self, end: End) -> None:
        running, self._running = self._running, {}
        for request, k in running.values():
            self._put(request, Piece(k, "", (), end))
        self._wake({request for request, _ in running.values()})

    def _put(self, request: Request, piece: Piece) -> None:
        request.inbox.append(piece)
        if piece.end is not None:
            request.open -= 1

    def _drop(self) -> None:
        """Let go what was cancelled or has reached its deadline."""
        now = time.monotonic()

        def over(request: Request) -> bool:
            return request.cancelled or min(request.deadline, self._latest) <= now

        late = [(stream, *place) for stream, place in self._running.items() if over(place[0])]
        with self._changed:
            expired = [place for place in self._waiting if over(place[0])]
            if expired:
                self._waiting = deque(place for place in self._waiting if not over(place[0]))
        if late:
            self._batch.remove({stream for stream, _, _ in late})
        ended = [(request, k) for _, request, k in late] + expired
        for stream, _, _ in late:
            del self._running[stream]
        for request, k in ended:
            self._put(request, Piece(k, "", (), "deadline"))
        if ended:
            self._wake({request for request, _ in ended})

    def _admit(self) -> None:
        new: list[tuple[Request, int]] = []
        with self._changed:
            while self._waiting and len(self._running) + len(new) < self._slots:
                new.append(self._waiting.popleft())
        over = set()
        for request, k in new:
            stream = request.streams[k]
            self._running[stream] = request, k
            if stream.finish_reason is not None and not stream.prompt_scored:
                over.add(stream)
        self._batch.join(request.streams[k] for request, k in new)
        if over:
            self._deliver(dict.fromkeys(over, ""))

    def _advance(self) -> None:
        started = time.monotonic()
        drawn = {stream: stream.drawn for stream in self._running}
        texts = self._batch.advance(self._tokens_at_once())
        new = [stream.drawn - before for stream, before in drawn.items()]
        if self._observer is not None and any(new):
            self._observer.advanced(sum(new), (time.monotonic() - started) / max(new))
        self._deliver(texts)

    def _tokens_at_once(self) -> int:
        """Few while somebody watches, so that characters come one by one; more where many share a step."""
        if not any(request.watched for request, _ in self._running.values()):
            return DRAWN_AT_ONCE
        return max(FEWEST, min(MOST, len(self._running) // 2))

    def _deliver(self, texts: dict[Stream, str]) -> None:
        woken = set()
        for stream, text in texts.items():
            request, k = self._running[stream]
            tokens, stream.tokens = tuple(stream.tokens), []
            end = stream.finish_reason
            if not text and not tokens and end is None:
                continue
            if request.started is None:
                request.started = time.monotonic()
                if self._observer is not None:
                    self._observer.first_piece(request.started - request.arrived)
            self._put(request, Piece(k, text, tokens, end))
            if end is not None:
                del self._running[stream]
            if request.watched or not request.open:
                woken.add(request)
        if woken:
            self._wake(woken)
