"""Measure how a heavy request delays others: `/health`, and short streams.

The server runs in its own process. For some seconds it gets one heavy request after
the other; meanwhile `/health` is polled and short completions are streamed, one at a
time. The baseline, without a heavy request, is measured first.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.heavy_requests import (
    RAW,
    HeavyRequest,
    heavy_requests,
)
from mlx_gptoss.diagnostics.bench.our_server import OurServer
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.http_client import HttpClient
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError

NOTHING = "nothing"
HEALTH = "/health"
POLL_INTERVAL_S = 0.01
PROMPT, TOKENS = "So it goes", 16  # of a short stream
DEFAULT_SECONDS = 5.0


@dataclass(frozen=True)
class Durations:
    """Median and maximum, in seconds."""

    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Durations":
        if not values:
            return cls(float("nan"), float("nan"))
        return cls(median(values), max(values))


@dataclass(frozen=True)
class StallRow:
    """Delays beside one heavy request, whose first run took `seconds`."""

    name: str
    megabytes: float
    status: int | None
    seconds: float | None
    health: Durations
    first_token: Durations
    token_gap: Durations
    kept_bytes: int  # growth of the server's memory


@dataclass(frozen=True)
class StallBench:
    model: str
    machine: str
    load_average: float
    rows: tuple[StallRow, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_stalls(
    model: Path,
    options: LoadOptions,
    *,
    heavy: Sequence[str] = (),
    seconds: float = DEFAULT_SECONDS,
    progress: ReportProgress = ignore_progress,
) -> StallBench:
    """Measure the server on the model in a folder beside each heavy request.

    `heavy` selects some by name, `seconds` is the least duration of each. Raises
    GptOssError for an unknown name, EngineFailure if the server fails.
    """
    checkpoint = open_checkpoint(model, strict=options.strict)
    tokenizer = Tokenizer.open(checkpoint.folder)
    context = options.context or checkpoint.config.max_position_embeddings
    makers = heavy_requests(tokenizer, context)
    unknown = [name for name in heavy if name not in makers]
    if unknown:
        known = ", ".join(f"`{name}`" for name in makers)
        raise GptOssError(
            f"there is no heavy request `{unknown[0]}`: choose from {known}"
        )
    load_average = os.getloadavg()[0]
    progress("starting the server")
    folder = checkpoint.folder.absolute()
    with OurServer(folder, options) as server:
        measure_beside(server, None, 0.0)  # warm up
        rows = [measure_beside(server, None, seconds)]
        for name in heavy or makers:
            progress(f"beside {name}")
            rows.append(measure_beside(server, makers[name](), seconds))
    return StallBench(str(model), describe_machine(), load_average, tuple(rows))


@dataclass
class StallSamples:
    """Samples collected by the threads of one measurement."""

    until: float
    busy: bool = True
    health: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    heavy: list[tuple[int, float]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return not self.busy and time.perf_counter() >= self.until


def measure_beside(
    server: OurServer, heavy: HeavyRequest | None, seconds: float
) -> StallRow:
    """Time `/health` and short streams while a heavy request is processed."""
    before = psutil.Process(server.pid).memory_info().rss
    samples = StallSamples(time.perf_counter() + seconds, busy=heavy is not None)
    client = server.address.client(attempts=1)
    work = [poll_health, read_streams] + ([send_heavy] if heavy else [])

    def attempt(one: Callable[..., None]) -> None:
        try:
            one(client, samples, heavy)
        except (OSError, HTTPException, GptOssError) as error:
            samples.failures.append(error)
            samples.busy = False

    threads = [threading.Thread(target=attempt, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if samples.failures:
        raise EngineFailure(f"the server does not answer: {samples.failures[0]}")
    status, took = samples.heavy[0] if samples.heavy else (None, None)
    return StallRow(
        heavy.name if heavy else NOTHING,
        len(heavy.body) / 1e6 if heavy else 0.0,
        status,
        took,
        Durations.of(samples.health),
        Durations.of(samples.firsts),
        Durations.of(samples.gaps),
        psutil.Process(server.pid).memory_info().rss - before,
    )


def send_heavy(
    client: HttpClient, samples: StallSamples, heavy: HeavyRequest | None
) -> None:
    """Send the heavy request until time is up, at least once."""
    assert heavy is not None
    try:
        while samples.busy and (
            not samples.heavy or time.perf_counter() < samples.until
        ):
            started = time.perf_counter()
            status = client.send(heavy.path, heavy.body).status
            samples.heavy.append((status, time.perf_counter() - started))
    finally:
        samples.busy = False


def poll_health(
    client: HttpClient, samples: StallSamples, _: HeavyRequest | None
) -> None:
    """Time `/health` until the measurement is over, at least once."""
    while not samples.health or not samples.over:
        started = time.perf_counter()
        client.get(HEALTH)
        samples.health.append(time.perf_counter() - started)
        time.sleep(POLL_INTERVAL_S)


def read_streams(
    client: HttpClient, samples: StallSamples, _: HeavyRequest | None
) -> None:
    """Time short streams until the measurement is over, at least one."""
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "stream": True}
    while not samples.firsts or not samples.over:
        started = time.perf_counter()
        arrived = [time.perf_counter() for _ in client.stream(RAW, body)]
        if not arrived:
            raise EngineFailure("the server broke off a stream")
        samples.firsts.append(arrived[0] - started)
        samples.gaps += [b - a for a, b in pairwise(arrived)]
