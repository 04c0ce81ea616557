"""Streams that join, leave and are cancelled, and the engine that draws them for a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

import charlstm
from charlstm import SamplingConfig
from charlstm.generation import Batch, Stream
from charlstm.generation.reading import CHUNK
from charlstm.model import LanguageModel
from charlstm.serve import Engine, Request
from charlstm.serve.engine import QueueFullError

FOREVER = 1e9  # a deadline that never comes
Made = Callable[..., Stream]


class Reader:
    """Waits for requests to be answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def wake(self, requests: Collection[Request]) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 20)

    def whole(self, request: Request) -> list[str]:
        """The texts of a request, once they are over."""
        self.until(lambda: not request.open)
        texts = [""] * len(request.streams)
        for piece in request.inbox:
            texts[piece.place] += piece.text
        return texts


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def stream(small_run: charlstm.Run) -> Made:
    def made(prompt: str = "The ", seed: int = 0, alternatives: int | None = None, **options: Any) -> Stream:
        sampling = SamplingConfig(**{"length": 60, **options})
        return Stream(small_run.tokenizer, prompt, sampling, seed=seed, alternatives=alternatives)

    return made


@pytest.fixture
def engine(small_run: charlstm.Run, reader: Reader) -> Iterator[Engine]:
    with closing(Engine(small_run.model, slots=4, queue=8, wake=reader.wake)) as made:
        yield made


def asked(*streams: Stream, watched: bool = True, seconds: float = FOREVER) -> Request:
    return Request(streams, watched, time.monotonic() + seconds)


def endings(request: Request) -> list[str | None]:
    return [piece.end for piece in request.inbox if piece.end is not None]


# ---- the batch ----------------------------------------------------------------------------------


def test_a_long_prompt_is_read_between_the_draws_of_others(small_run: charlstm.Run, stream: Made) -> None:
    prompt = "The coffee " * (4 * CHUNK // 11)
    here, long, short = stream(length=200), stream(prompt, 1), stream("A", 2)
    texts = {here: "", long: "", short: ""}
    batch = Batch(small_run.model)
    batch.add([here])
    batch.join([long, short])
    began: dict[Stream, int] = {}
    for step in range(200):
        for each, text in batch.advance(2).items():
            texts[each] += text
            if text:
                began.setdefault(each, step)
    assert began[here] == 0
    assert began[short] == 1  # behind one chunk of the long prompt, not behind all
    assert began[long] >= 3
    assert not len(batch)
    for each, text in texts.items():
        length = each.sampling.length
        assert each.prompt + text == small_run.generate(each.prompt, seed=each.seed, length=length)


def test_streams_that_leave_early(small_run: charlstm.Run, stream: Made) -> None:
    first, second, third = (stream(seed=k) for k in range(3))
    batch, texts = Batch(small_run.model), dict.fromkeys((first, second, third), "")
    batch.join([first, second])
    for each, text in batch.advance(5).items():
        texts[each] += text
    batch.join([third])
    batch.remove([first, third])
    while len(batch):
        for each, text in batch.advance(5).items():
            texts[each] += text
    assert "The " + texts[second] == small_run.generate("The ", seed=1, length=60)
    assert len(texts[first]) == 5
    assert texts[third] == ""


def test_each_stream_is_scored_as_it_asks(small_run: charlstm.Run, stream: Made) -> None:
    streams = [stream(alternatives=k) for k in (None, 0, 3)]
    batch = Batch(small_run.model)
    batch.join(streams)
    while len(batch):
        batch.advance(7)
    plain, none, three = streams
    assert not plain.tokens
    assert [len(token.alternatives) for token in none.tokens + three.tokens] == [0] * 60 + [3] * 60
    assert [token.log_probability for token in none.tokens] == pytest.approx(
        [token.log_probability for token in three.tokens], abs=1e-12
    )


def test_scores_of_a_prompt(small_run: charlstm.Run) -> None:
    """Against the posterior of the whole prompt, across the border of two chunks."""
    prompt = "The coffee is hot. " * (CHUNK // 19 + 3)
    tokenizer = small_run.tokenizer
    scored = Stream(tokenizer, prompt, SamplingConfig(0), alternatives=2, prompt_scored=True)
    batch = Batch(small_run.model)
    batch.join([scored])
    while len(batch):
        batch.advance()
    ids = tokenizer.encode(prompt)
    posterior, _ = small_run.model.posterior(ids[:-1, np.newaxis])
    rows = small_run.model.ops.to_numpy(posterior)[:, 0]
    assert scored.first_text + "".join(token.text for token in scored.prompt_tokens) == prompt
    for token, row, expected in zip(scored.prompt_tokens, rows, ids[1:], strict=True):
        assert token.id == expected
        assert token.log_probability == pytest.approx(np.log(row[expected]), abs=1e-9)
        assert token.entropy == pytest.approx(-np.sum(row * np.log(row)), abs=1e-9)
        assert [v for v, _ in token.alternatives] == np.argsort(-row, kind="stable")[:2].tolist()


@pytest.mark.parametrize("alternatives", [None, 1])
def test_what_was_drawn_beyond_a_stop_string_is_not_counted(stream: Made, alternatives: int | None) -> None:
    run_text = stream(length=200)
    batch = Batch(LanguageModel(len(run_text._tokenizer), 8, 1, backend="numpy", dtype="float64"))
    batch.add([run_text])
    whole = ""
    while len(batch):
        whole += "".join(batch.advance().values())
    stop = whole[100:104]
    cut = stream(length=200, stop=(stop,), alternatives=alternatives)
    batch.add([cut])
    while len(batch):
        batch.advance()
    assert cut.finish_reason == "stop"
    assert cut.drawn == whole.find(stop) + 4


# ---- the engine ---------------------------------------------------------------------------------


def test_a_text_depends_on_its_seed_alone(
    small_run: charlstm.Run, engine: Engine, reader: Reader, stream: Made
) -> None:
    options = [
        {}, {"temperature": "1.2:0.3"}, {"stop": ("e", "th")}, {"top_k": 3, "repetition_penalty": 1.2},
        {"regex": "[a-z ]+\\."}, {"length": 0}, {"length": 1}, {"no_repeat_ngram": 3, "redraw": True},
    ]  # fmt: skip
    requests = [
        asked(*(stream(seed=k + m, **option) for m in range(2)), watched=k % 2 == 0)
        for k, option in enumerate(options)
    ]
    left = asked(stream(length=5000, seed=99))
    engine.submit(left)
    for request in requests:
        while engine.waiting > 4:
            time.sleep(0.001)
        engine.submit(request)
        assert engine.active <= 4
    engine.cancel(left)
    for request, option in zip(requests, options, strict=True):
        for each, text in zip(request.streams, reader.whole(request), strict=True):
            expected = small_run.generate("The ", seed=each.seed, **{"length": 60, **option})
            assert each.prompt + text == expected
    assert engine.active == engine.waiting == 0


def test_no_more_wait_than_may(engine: Engine, reader: Reader, stream: Made) -> None:
    first = asked(*(stream(length=4000) for _ in range(12)))
    engine.submit(first)
    with pytest.raises(QueueFullError):
        engine.submit(asked(stream()))
    assert engine.active + engine.waiting == 12
    reader.until(lambda: engine.active == 4)
    engine.cancel(first)
    reader.until(lambda: engine.active == 0)
    last = asked(stream(length=3))
    engine.submit(last)
    reader.whole(last)
    assert endings(last) == ["length"]


def test_deadlines_end_what_is_drawn_and_what_waits(engine: Engine, reader: Reader, stream: Made) -> None:
    request = asked(*(stream(length=10**6) for _ in range(6)), seconds=0.5)
    engine.submit(request)
    texts = reader.whole(request)
    assert endings(request) == ["deadline"] * 6
    assert [bool(text) for text in texts] == [True] * 4 + [False] * 2
    late = asked(stream(length=10**6))
    engine.submit(late)
    engine.drain(0.1)
    reader.whole(late)
    assert endings(late) == ["deadline"]


def test_closing_ends_everything(small_run: charlstm.Run, reader: Reader, stream: Made) -> None:
    engine = Engine(small_run.model, slots=1, queue=2, wake=reader.wake)
    request = asked(stream(length=10**6), stream())
    engine.submit(request)
    engine.close()
    assert endings(request) == ["deadline"] * 2
    with pytest.raises(QueueFullError):
        engine.submit(asked(stream()))


def test_an_error_ends_texts_but_not_the_engine(reader: Reader, stream: Made) -> None:
    V = len(stream()._tokenizer)
    model = LanguageModel(V, 4, 1, backend="numpy")
    good = model.parameters["head.bias"].copy()
    with closing(Engine(model, slots=2, queue=2, wake=reader.wake)) as engine:
        assert engine.probe(5)
        model.parameters["head.bias"][...] = np.nan
        assert not engine.probe(5)
        broken = asked(stream(), stream())
        engine.submit(broken)
        reader.whole(broken)
        assert endings(broken) == ["error"] * 2
        model.parameters["head.bias"][...] = good
        assert engine.probe(5)
        whole = asked(stream(length=5))
        engine.submit(whole)
        assert [len(text) for text in reader.whole(whole)] == [5]


def test_pieces_are_short_while_somebody_watches(engine: Engine, reader: Reader, stream: Made) -> None:
    watched = asked(stream(length=40))
    engine.submit(watched)
    reader.whole(watched)
    assert max(len(piece.text) for piece in watched.inbox) <= 4
    unwatched = asked(stream(length=40), watched=False)
    engine.submit(unwatched)
    reader.whole(unwatched)
    assert [len(piece.text) for piece in unwatched.inbox] == [40]
