"""Asks a server for several raw completions at once, and times what comes.

Knows HTTP on the loopback and the streams that OpenAI's clients read.
"""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.diagnostics.bench.engine_process import EngineFailure

ANSWERING_S = 3600.0
ATTEMPTS = 5  # to have a connection taken
EVENT, END = b"data: ", b"[DONE]"


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens on the loopback, and what it asks for."""

    name: str
    port: int
    key: str | None = None
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class StreamTiming:
    """One stream: when it was asked, had its first text and ended, and its tokens."""

    asked: float
    first: float
    ended: float
    prompt_tokens: int
    completion_tokens: int


def time_concurrent_streams(
    address: ServerAddress, bodies: Sequence[dict[str, Any]]
) -> list[StreamTiming]:
    """Send all requests at one moment; wait for the end of all streams."""
    gate = threading.Barrier(len(bodies))

    def one(body: dict[str, Any]) -> StreamTiming:
        gate.wait()
        return time_stream(address, body)

    with ThreadPoolExecutor(len(bodies)) as readers:
        return list(readers.map(one, bodies))


def time_stream(address: ServerAddress, body: dict[str, Any]) -> StreamTiming:
    """Read one completion as a stream. Raises EngineFailure where it is not one."""
    wanted = body | {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"Content-Type": "application/json"}
    if address.key is not None:
        headers["Authorization"] = f"Bearer {address.key}"
    asked, first, usage = time.perf_counter(), 0.0, None
    connection = http.client.HTTPConnection(
        address.host, address.port, timeout=ANSWERING_S
    )
    try:
        response = answered(connection, json.dumps(wanted), headers)
        if response.status != http.client.OK:
            raise EngineFailure(f"{address.name}: {response.read().decode()[:500]}")
        while line := response.readline():
            if not line.startswith(EVENT) or line.startswith(EVENT + END):
                continue
            event = json.loads(line.removeprefix(EVENT))
            usage = event.get("usage") or usage
            if not first and any(choice["text"] for choice in event.get("choices", ())):
                first = time.perf_counter()
        ended = time.perf_counter()
    except OSError as error:
        raise EngineFailure(f"{address.name} does not answer: {error}") from error
    finally:
        connection.close()
    if usage is None:
        raise EngineFailure(f"{address.name} broke off a stream")
    return StreamTiming(
        asked,
        first or ended,
        ended,
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def answered(
    connection: http.client.HTTPConnection, body: str, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """Send a request; again if it is turned away, as by a short queue of connections.

    The time that takes counts.
    """
    for attempt in range(ATTEMPTS):
        try:
            connection.request("POST", "/v1/completions", body, headers)
            return connection.getresponse()
        except (ConnectionResetError, http.client.RemoteDisconnected):
            connection.close()
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError
