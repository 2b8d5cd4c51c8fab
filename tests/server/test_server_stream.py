"""Streams: signs of life, errors within, and clients that leave or do not read."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from mlx_gptoss.server.connection import connection_with_timeouts
from mlx_gptoss.server.drain import Drain
from mlx_gptoss.server.process import ServeOptions, ServerProcess, listen, listening_url
from mlx_gptoss.server.stream import KEEP_ALIVE, EventStream, sse, sse_json

FRAME = b"data: " + b"x" * 65536 + b"\n\n"


async def received(stream: EventStream) -> bytes:
    """What a client that stays gets of a stream."""
    sent: list[bytes] = []

    async def receive() -> dict[str, str]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, bytes]) -> None:
        sent.append(message.get("body", b""))

    await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]
    return b"".join(sent)


class Closing:
    """Counts how often a stream was closed."""

    def __init__(self) -> None:
        self.times = 0
        self.closed = threading.Event()

    async def __call__(self) -> None:
        self.times += 1
        self.closed.set()


def test_an_event_is_its_name_and_one_line() -> None:
    assert sse("{}") == b"data: {}\n\n"
    assert sse_json({"a": "\n\u00e9"}, "x") == (
        b'event: x\ndata: {"a":"\\n\xc3\xa9"}\n\n'
    )


def test_a_stream_that_is_silent_shows_that_it_lives() -> None:
    async def frames() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        yield sse("{}")

    closing = Closing()
    stream = EventStream(frames(), close=closing, heartbeat_seconds=0.01)
    got = asyncio.run(received(stream))

    assert got.startswith(KEEP_ALIVE)
    assert got.endswith(b"data: {}\n\n")
    assert closing.times == 1


def test_an_error_ends_a_stream_and_tells_no_details() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield sse("{}")
        raise ZeroDivisionError("/secret/path")

    closing = Closing()
    stream = EventStream(frames(), close=closing, heartbeat_seconds=10)
    got = asyncio.run(received(stream))

    assert got.startswith(b'data: {}\n\ndata: {"error":{"message":"internal error')
    assert got.endswith(b"}\n\ndata: [DONE]\n\n")
    assert b"secret" not in got
    assert closing.times == 1


def test_a_client_that_leaves_ends_the_frames() -> None:
    ended = []

    async def frames() -> AsyncIterator[bytes]:
        try:
            yield sse("{}")
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def work() -> None:
        left = asyncio.Event()

        async def receive() -> dict[str, str]:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, bytes]) -> None:
            if message.get("body"):
                left.set()

        stream = EventStream(frames(), close=Closing(), heartbeat_seconds=10)
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]

    asyncio.run(work())
    assert ended == [True]


@contextlib.contextmanager
def served(app: Starlette, write_seconds: float) -> Iterator[int]:
    """A real server of `app` in a thread; gives its port."""
    place = ServeOptions(port=0, drain_seconds=0)
    with listen(place) as listening:
        port = int(listening_url(listening).rpartition(":")[2])
        config = uvicorn.Config(
            app,
            http=connection_with_timeouts(0.3, write_seconds),
            loop="asyncio",
            log_config=None,
        )
        ready = threading.Event()
        server = ServerProcess(config, place, ready.set, Drain())
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert ready.wait(30)
            yield port
        finally:
            server.should_exit = True
            thread.join()


def everything(client: socket.socket) -> bytes:
    """What is left to read of a connection, however it ends."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(2**20):
            got = got[-10:] + piece
    return got


def test_a_client_that_does_not_read_is_dropped() -> None:
    closing = Closing()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield FRAME

    async def route(request: Request) -> EventStream:
        return EventStream(endless(), close=closing, heartbeat_seconds=10)

    app = Starlette(routes=[Route("/", route)])
    with (
        served(app, write_seconds=0.2) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert closing.closed.wait(30)
        assert not everything(client).endswith(b"0\r\n\r\n")  # an end of its own


def test_a_client_that_says_nothing_is_dropped() -> None:
    with (
        served(Starlette(), write_seconds=10) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET / HTT")
        client.settimeout(30)
        assert everything(client) == b""
