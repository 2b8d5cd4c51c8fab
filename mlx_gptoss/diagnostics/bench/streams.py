"""Time streams of raw completions, one or several at once.

Knows the streaming format of OpenAI's completions; the server may be any.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.http_client import HttpClient, Unreachable
from mlx_gptoss.errors import GptOssError

COMPLETIONS = "/v1/completions"
LOOPBACK = "127.0.0.1"
REPLY_TIMEOUT_S = 3600.0
ATTEMPTS = 5  # to have a connection accepted; the time that takes counts
END_OF_STREAM = "[DONE]"


@dataclass(frozen=True)
class ServerAddress:
    """A server on the loopback interface, by the name shown in results."""

    name: str
    port: int
    key: str | None = None
    host: str = LOOPBACK

    def client(self, *, attempts: int = ATTEMPTS) -> HttpClient:
        """Return a client that waits long enough for a benchmark."""
        url = f"http://{self.host}:{self.port}"
        return HttpClient(url, self.key, REPLY_TIMEOUT_S, attempts)


@dataclass(frozen=True)
class StreamTiming:
    """Clock times of the request, the first text and the end; numbers of tokens."""

    asked: float
    first: float
    ended: float
    prompt_tokens: int
    completion_tokens: int


def time_concurrent_streams(
    address: ServerAddress, bodies: Sequence[dict[str, Any]]
) -> list[StreamTiming]:
    """Send all requests at the same moment and wait for all streams to end."""
    barrier = threading.Barrier(len(bodies))

    def time_one(body: dict[str, Any]) -> StreamTiming:
        barrier.wait()
        return time_stream(address, body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(time_one, bodies))


def time_stream(address: ServerAddress, body: dict[str, Any]) -> StreamTiming:
    """Time one completion as a stream. Raises EngineFailure if there is none."""
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    asked, first, usage = time.perf_counter(), 0.0, None
    try:
        for event in address.client().stream(COMPLETIONS, streamed):
            if event.data == END_OF_STREAM:
                continue
            usage = event.data.get("usage") or usage
            choices = event.data.get("choices", ())
            if not first and any(choice["text"] for choice in choices):
                first = time.perf_counter()
    except Unreachable as error:
        reason = error.__cause__ or error
        raise EngineFailure(f"{address.name} does not answer: {reason}") from error
    except GptOssError as error:
        raise EngineFailure(f"{address.name}: {error}") from error
    ended = time.perf_counter()
    if usage is None:
        raise EngineFailure(f"{address.name} broke off a stream")
    return StreamTiming(
        asked,
        first or ended,
        ended,
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
