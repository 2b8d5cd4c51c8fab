"""Measure what others feel of a heavy request: `/health`, and a short stream.

Our server runs in its own process. A heavy request is sent to it again and again for
some seconds, to its end; meanwhile `/health` is asked all the time, and one short
completion after the other is streamed. The same with no heavy request comes first.
"""

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.engine_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engines import default_dtype
from mlx_gptoss.diagnostics.bench.heavy_requests import (
    RAW,
    HeavyRequest,
    heavy_requests,
)
from mlx_gptoss.diagnostics.bench.our_server import OurServer
from mlx_gptoss.diagnostics.bench.streams import ANSWERING_S, EVENT, ServerAddress
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.errors import GptOssError

NOTHING = "nothing"
HEALTH = "/health"
PAUSE_S = 0.01  # between two questions for health
TOKENS = 16  # of a short stream
DEFAULT_SECONDS = 5.0
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Durations:
    """Seconds: the median and the longest."""

    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Durations":
        if not values:
            return cls(float("nan"), float("nan"))
        return cls(median(values), max(values))


@dataclass(frozen=True)
class StallRow:
    """What others felt. `seconds` are those of the first heavy request."""

    name: str
    megabytes: float
    status: int | None
    seconds: float | None
    health: Durations
    first_token: Durations
    token_gap: Durations
    kept_bytes: int  # by which the server has grown


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
    *,
    dtype: str | None = None,
    heavy: Sequence[str] = (),
    seconds: float = DEFAULT_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> StallBench:
    """Measure our server on the model in a folder beside each heavy request.

    `heavy` are the names of some of them.
    """
    say = progress or (lambda _: None)
    checkpoint = open_checkpoint(model)
    tokenizer = Tokenizer.open(checkpoint.folder)
    context = checkpoint.config.max_position_embeddings
    makers = heavy_requests(tokenizer, context)
    unknown = [name for name in heavy if name not in makers]
    if unknown:
        known = ", ".join(f"`{name}`" for name in makers)
        raise GptOssError(
            f"there is no heavy request `{unknown[0]}`: choose of {known}"
        )
    load_average = os.getloadavg()[0]
    say("starting the server")
    folder = checkpoint.folder.absolute()
    with OurServer(folder, dtype or default_dtype()) as server:
        measure_beside(server, None, 0.0)  # warm up
        rows = [measure_beside(server, None, seconds)]
        for name in heavy or makers:
            say(f"beside {name}")
            rows.append(measure_beside(server, makers[name](), seconds))
    return StallBench(str(model), describe_machine(), load_average, tuple(rows))


@dataclass
class StallSamples:
    """What the threads of one measurement note."""

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
    """Ask for health and streams while the heavy request is answered."""
    before = psutil.Process(server.pid).memory_info().rss
    felt = StallSamples(time.perf_counter() + seconds, busy=heavy is not None)
    work = [poll_health, read_streams] + ([send_heavy] if heavy else [])

    def attempt(one: Callable[..., None]) -> None:
        try:
            one(server.address, felt, heavy)
        except (OSError, http.client.HTTPException, EngineFailure) as error:
            felt.failures.append(error)
            felt.busy = False

    threads = [threading.Thread(target=attempt, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if felt.failures:
        raise EngineFailure(f"the server does not answer: {felt.failures[0]}")
    status, took = felt.heavy[0] if felt.heavy else (None, None)
    return StallRow(
        heavy.name if heavy else NOTHING,
        len(heavy.body) / 1e6 if heavy else 0.0,
        status,
        took,
        Durations.of(felt.health),
        Durations.of(felt.firsts),
        Durations.of(felt.gaps),
        psutil.Process(server.pid).memory_info().rss - before,
    )


def send_heavy(address: ServerAddress, felt: StallSamples, heavy: HeavyRequest) -> None:
    try:
        while felt.busy and (not felt.heavy or time.perf_counter() < felt.until):
            began = time.perf_counter()
            status = send(address, heavy.path, heavy.body)[0]
            felt.heavy.append((status, time.perf_counter() - began))
    finally:
        felt.busy = False


def poll_health(
    address: ServerAddress, felt: StallSamples, _: HeavyRequest | None
) -> None:
    while not felt.health or not felt.over:
        began = time.perf_counter()
        status, _body = send(address, HEALTH, None)
        if status != http.client.OK:
            raise EngineFailure(f"{HEALTH} answers {status}")
        felt.health.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)


def read_streams(
    address: ServerAddress, felt: StallSamples, _: HeavyRequest | None
) -> None:
    body = {"prompt": "So it goes", "max_tokens": TOKENS, "stream": True}
    while not felt.firsts or not felt.over:
        began, arrived = time.perf_counter(), list[float]()
        connection = connect(address)
        try:
            connection.request("POST", RAW, json.dumps(body), headers_of(address))
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise EngineFailure(response.read().decode()[:500])
            while line := response.readline():
                if line.startswith(EVENT):
                    arrived.append(time.perf_counter())
        finally:
            connection.close()
        if not arrived:
            raise EngineFailure(f"{address.name} broke off a stream")
        felt.firsts.append(arrived[0] - began)
        felt.gaps += [b - a for a, b in pairwise(arrived)]


def send(address: ServerAddress, path: str, body: bytes | None) -> tuple[int, bytes]:
    connection = connect(address)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, headers_of(address))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def connect(address: ServerAddress) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address.host, address.port, timeout=ANSWERING_S)


def headers_of(address: ServerAddress) -> dict[str, str]:
    return JSON | ({"Authorization": f"Bearer {address.key}"} if address.key else {})
