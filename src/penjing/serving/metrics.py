"""What a server tells Prometheus at `/metrics`: requests, their times, tokens, what was refused, the engines' figures.

A route's name (`/api/conversations/{id}`), never an address, labels a request: the number of series stays bounded,
whatever clients ask for. Every server has a registry of its own.
"""

from collections.abc import Callable, Iterator, Mapping

import psutil
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

EngineFigures = Callable[[], Mapping[str, Mapping[str, float]]]
"""Gives, of each model by name, figures by name."""


class Metrics:
    """A server's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "penjing_requests",
            "Requests that have ended, by route and status.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "penjing_request_seconds",
            "From a request's head to its answer's end.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "penjing_first_token_seconds",
            "From a question's coming to its answer's first token.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._running = Gauge("penjing_requests_running", "Requests that are being answered.", registry=registry)
        self._refused = Counter(
            "penjing_refused", "Requests refused before anything was done, by why.", ["reason"], registry=registry
        )
        self._tokens = Counter("penjing_tokens", "Tokens, by model and kind.", ["model", "kind"], registry=registry)
        self._engines: EngineFigures | None = None
        memory = Gauge("penjing_memory_bytes", "Resident memory of the server's own process.", registry=registry)
        memory.set_function(lambda: psutil.Process().memory_info().rss)
        self.registry.register(_Engines(self))

    def began(self) -> None:
        """A request has come."""
        self._running.inc()

    def ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has been answered.

        Args:
            method: as sent.
            route: the route's pattern.
            status: of the answer.
            seconds: how long it took.
        """
        self._running.dec()
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        """An answer's first token came so long after its question; `model` is the name of one that is served."""
        self._first.labels(model).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused."""
        self._refused.labels(reason).inc()

    def tokens(self, model: str, *, prompt: int, completion: int, cached: int = 0) -> None:
        """An answer has cost these tokens; `model` is the name of one that is served."""
        for kind, count in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            self._tokens.labels(model, kind).inc(count)

    def engines(self, read: EngineFigures) -> None:
        """Has the engines' figures read whenever someone asks for metrics."""
        self._engines = read

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Engines:
    """Reads the engines when metrics are asked for."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each figure, one sample for each model."""
        families: dict[str, GaugeMetricFamily] = {}
        read = self._metrics._engines
        for model, figures in (read() if read is not None else {}).items():
            for name, value in figures.items():
                family = families.get(name)
                if family is None:
                    words = name.replace("_", " ")
                    family = GaugeMetricFamily(f"penjing_engine_{name}", f"Of each engine: {words}.", labels=["model"])
                    families[name] = family
                family.add_metric([model], value)
        yield from families.values()


def router() -> APIRouter:
    """GET /metrics, of the application's `state.metrics`."""
    routes = APIRouter()

    @routes.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
