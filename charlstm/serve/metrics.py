"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .engine import Engine

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        """`engines` by model; they may come later."""
        self._registry = CollectorRegistry()
        self._registry.register(_Streams(engines))
        self.requests = Counter(
            "charlstm_requests", "Answered requests", ["path", "status"], registry=self._registry
        )
        self._tokens = Counter("charlstm_tokens", "Tokens drawn", ["model"], registry=self._registry)
        self._first = Histogram(
            "charlstm_time_to_first_token_seconds", "From a request to the first piece of its text", ["model"],
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._between = Histogram(
            "charlstm_time_between_tokens_seconds", "Between two tokens of a text, mean of a step", ["model"],
            registry=self._registry, buckets=_TOKEN_SECONDS,
        )  # fmt: skip

    def observer(self, model: str) -> ModelMetrics:
        """What a model's engine tells."""
        return ModelMetrics(
            self._tokens.labels(model), self._first.labels(model), self._between.labels(model)
        )

    def told(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)


class ModelMetrics:
    """The counters of one model."""

    def __init__(self, tokens: Counter, first: Histogram, between: Histogram) -> None:
        self._tokens, self._first, self._between = tokens, first, between

    def first_piece(self, seconds: float) -> None:
        self._first.observe(seconds)

    def advanced(self, tokens: int, seconds_per_token: float) -> None:
        self._tokens.inc(tokens)
        self._between.observe(seconds_per_token)


class _Streams(Collector):
    """How many texts are being drawn, and wait, at the moment of asking."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> list[GaugeMetricFamily]:
        active = GaugeMetricFamily("charlstm_active_texts", "Texts that are being drawn", labels=["model"])
        waiting = GaugeMetricFamily("charlstm_waiting_texts", "Texts that wait", labels=["model"])
        for name, engine in self._engines.items():
            active.add_metric([name], engine.active)
            waiting.add_metric([name], engine.waiting)
        return [active, waiting]
