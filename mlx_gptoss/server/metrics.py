"""Prometheus metrics: counts, times and sizes, never content.

Each server has its own registry, so several can run in one process.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.server.models import Models

FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
RATES = (1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200)


class Metrics:
    """The metrics of one server. Not thread-safe: for one event loop."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_CurrentState(models))
        self._requests = self._counter(
            "requests", "Requests answered", ["method", "route", "status"]
        )
        self._turns = self._counter("answers", "Answers ended", ["finish_reason"])
        self._tokens = self._counter("tokens", "Tokens, by their kind", ["kind"])
        self._first = Histogram(
            "mlx_gptoss_time_to_first_token_seconds",
            "From the request to its first token",
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._rate = Histogram(
            "mlx_gptoss_tokens_per_second",
            "Tokens of an answer after its first, by their time",
            buckets=RATES,
            registry=self.registry,
        )

    def request(self, method: str, route: str, status: int) -> None:
        """Count a request; `route` is the route's pattern, not the path sent."""
        self._requests.labels(method, route, str(status)).inc()

    def turn(self, turn: AnswerStream) -> None:
        """Count a finished turn."""
        usage, stats = turn.usage, turn.stats
        self._turns.labels(turn.finish_reason).inc()
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            self._tokens.labels(kind).inc(count)
        if stats is not None and stats.completion_tokens:
            self._first.observe(stats.time_to_first_token)
            if rate := stats.generation_tokens_per_second:
                self._rate.observe(rate)

    @property
    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, labels: list[str]) -> Counter:
        return Counter(f"mlx_gptoss_{name}", help, labels, registry=self.registry)


class _CurrentState(Collector):
    """Gauges that are read at the time of the scrape."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> Iterator[Any]:
        """Return nothing, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        loaded = _gauge("model_loaded", "Whether a model is loaded", ["model"])
        planned = _gauge("model_bytes", "Memory a loaded model may take", ["model"])
        running = _gauge("running", "Answers being computed", ["model"])
        waiting = _gauge("waiting", "Requests that wait for their turn", ["model"])
        kept = _gauge("prompt_cache_bytes", "Memory of prompts kept", ["model"])
        bound = _gauge(
            "prompt_cache_limit_bytes", "Memory that prompts kept may take", ["model"]
        )
        for name in self._models.names:
            runtime = self._models.runtime(name)
            loaded.add_metric([name], float(runtime is not None))
            if runtime is None:
                continue
            plan, batch = runtime.plan, runtime.batch_statistics
            planned.add_metric([name], plan.total_bytes if plan else 0)
            running.add_metric([name], batch.running)
            waiting.add_metric([name], batch.waiting)
            size = runtime.cache_size
            kept.add_metric([name], size.nbytes)
            bound.add_metric([name], size.limit)
        tasks = _gauge("tasks", "Tasks of the event loop", [])
        tasks.add_metric([], len(asyncio.all_tasks()))
        yield from (loaded, planned, running, waiting, kept, bound, tasks)


def _gauge(name: str, help: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mlx_gptoss_{name}", help, labels=labels)
