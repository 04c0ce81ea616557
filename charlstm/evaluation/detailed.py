"""A text read by a model, with all that can be told of its predictions, segment by segment."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from ..backends import Array, Ops
from ..cifg import State
from ..data import Part, Tokenizer, Windows
from ..errors import UsageError
from ..model import CIFGModel
from .config import EvaluationConfig
from .dynamic import DynamicModel
from .figures import DetailedEvaluation, summed_up
from .reading import CHUNK, STREAMS, WINDOWS, read, width
from .segments import Cut, Segments, cut, word_places

_log = logging.getLogger("charlstm")
LOGITS = 1 << 24  # that are held at once


def measure(
    model: CIFGModel,
    tokens: Part,
    tokenizer: Tokenizer | None = None,
    config: EvaluationConfig | None = None,
    streams: int = STREAMS,
    training: np.ndarray | None = None,
) -> DetailedEvaluation:
    """As `evaluate`, with the sums over segments; slower by about half.

    Without a tokenizer each token is a character, and there are no words. Dynamic evaluation reads in one
    go, whatever `streams` says; `training`: what its rule rms gathers its statistics from (N,).
    Raises DataError for fewer than two tokens, UsageError for a model that does not predict tokens or
    dynamic evaluation of windows, DivergedError where dynamic evaluation leads to no finite loss.
    """
    config = config if config is not None else EvaluationConfig()
    if model.input_size is not None or model.emit != "every":
        raise UsageError(
            "this model does not predict the next token of a text: it cannot be evaluated on one"
        )
    if isinstance(tokens, Windows):
        if config.dynamic:
            raise UsageError(
                "dynamic evaluation reads a text in one go: leave out --windows (with a run of --split windows, "
                "take --split all)"
            )
        return summed_up(_measure_windows(model, tokens, tokenizer, config.top_k), config)
    B = width(tokens, streams)
    place = cut(tokens, tokenizer)
    segments = Segments.zeros(len(place.characters))
    segments.characters[:], segments.words[:] = place.characters, place.words
    if config.dynamic:
        _read_dynamically(model, tokens, place, segments, config, training)
        return summed_up(segments, config)

    def count(x: np.ndarray, targets: np.ndarray, state: State, starts: np.ndarray) -> State:
        scores, state = predict(model, x, targets, state)
        segments.add(_segments_of(place, starts, len(x)), *scores, config.top_k)
        return state

    read(model, tokens, streams, max(1, min(CHUNK, LOGITS // (B * model.output_size))), count)
    return summed_up(segments, config)


def _read_dynamically(
    model: CIFGModel, tokens: np.ndarray, place: Cut, segments: Segments, config: EvaluationConfig,
    training: np.ndarray | None,
) -> None:  # fmt: skip
    _log.info("reading in one go, %d tokens at a time, and learning from them", config.dynamic_steps)
    adapting = DynamicModel(model, config, training)

    def count(x: np.ndarray, targets: np.ndarray, state: State, starts: np.ndarray) -> State:
        scores, after = predict(adapting.model, x, targets, state)
        segments.add(_segments_of(place, starts, len(x)), *scores, config.top_k)
        adapting.learn(x, targets, state)
        return after

    read(adapting.model, tokens, 1, config.dynamic_steps, count)


def _segments_of(place: Cut, starts: np.ndarray, T: int) -> np.ndarray:
    """The segments of the T tokens that follow each start, as rows (T * B,)."""
    return place.segment_of(np.arange(1, T + 1)[:, np.newaxis] + starts).ravel()


def _measure_windows(model: CIFGModel, windows: Windows, tokenizer: Tokenizer | None, k: int) -> Segments:
    place = cut(windows.tokens, tokenizer)
    segments = Segments.zeros(len(place.characters))
    B = max(1, min(WINDOWS, LOGITS // (windows.seq_len * model.output_size)))
    for first in range(0, len(windows), B):
        index = np.arange(first, min(first + B, len(windows)))
        columns = windows[index]  # (T + 1, B)
        of_window = place.segment_of(windows.starts(index) + 1)
        x, targets = columns[:-1], columns[1:]
        scores, _ = predict(model, x, targets, model.zero_state(len(index)))
        segments.add(np.broadcast_to(of_window, x.shape).ravel(), *scores, k)
        characters, words = _text_of_windows(columns, tokenizer)
        np.add.at(segments.characters, of_window, characters)
        np.add.at(segments.words, of_window, words)
    return segments


def _text_of_windows(columns: np.ndarray, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray]:
    """How many characters the predicted tokens of windows (T + 1, B) stand for, and how many words begin
    among them: (B,) each. Of a character that lies across a window's edge each byte counts as one."""
    T, B = columns.shape[0] - 1, columns.shape[1]
    if tokenizer is None:
        return np.full(B, T), np.zeros(B, np.int64)
    ((text, ends),) = tokenizer.located([columns.T.ravel()])
    ends = ends.reshape(B, T + 1)[:, [0, -1]]  # after each window's first token, and after its last
    places, _ = word_places(text, True)
    return ends[:, 1] - ends[:, 0], np.diff(np.searchsorted(places, ends), axis=1)[:, 0]


class Scores(NamedTuple):
    """What is told of each prediction, (N,) each, on the host."""

    nats: np.ndarray  # -log posterior of the target, float64
    confidence: np.ndarray  # largest posterior, float64
    rank: np.ndarray  # how many tokens were more probable than the target (of equals, those numbered before)


def predict(model: CIFGModel, x: np.ndarray, targets: np.ndarray, state: State) -> tuple[Scores, State]:
    """The scores of targets (T, B), as rows, and the state after tokens x (T, B)."""
    logits, state = model.forward(x, state)
    rows = model.ops.xp.reshape(logits, (-1, model.output_size))
    return score(model.ops, rows, model.ops.asarray(targets.astype(np.int64).ravel())), state


def score(ops: Ops, logits: Array, targets: Array) -> Scores:
    """What logits (N, V) tell of targets (N,)."""
    xp = ops.xp
    own = xp.take_along_axis(logits, targets[:, None], axis=1)
    before = xp.arange(logits.shape[1], dtype=targets.dtype)[None, :] < targets[:, None]
    more = (logits > own) | ((logits == own) & before)
    rank = xp.sum(xp.astype(more, xp.uint8), axis=1, dtype=xp.int64)
    largest = xp.max(logits, axis=1, keepdims=True)
    sums = xp.sum(xp.exp(logits - largest), axis=1)
    nats = xp.log(sums) + (largest - own)[:, 0]
    host = [ops.to_numpy(array) for array in (nats, 1 / sums, rank)]
    return Scores(host[0].astype(np.float64), host[1].astype(np.float64), host[2])
