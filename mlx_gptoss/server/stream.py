"""Streams of events or lines, and work that is cancelled when its client disconnects.

Knows bytes and connections; nothing of models or of the meaning of events.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlx_gptoss.api.errors import ApiError, as_api_error, ollama_body
from mlx_gptoss.api.wire import ReplyModel
from mlx_gptoss.engine.prompt_progress import PromptProgress

T = TypeVar("T")
log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": alive\n\n"  # a comment, which clients ignore
QUEUED = b": waiting, place %d in the queue\n\n"
CLIENT_CLOSED_REQUEST = 499  # nginx's code, for the log: no client is left to read it


def progress_comment(progress: PromptProgress) -> bytes:
    """Encode a comment such as `: prompt 1024/6100 tokens, 410 tok/s, 12 s left`."""
    left = progress.describe(perf_counter()).partition(" tokens, ")[2]
    return f": prompt {progress.processed}/{progress.total} tokens, {left}\n\n".encode()


class ClientDisconnected(Exception):
    """The client disconnected before the reply was complete."""


def sse(data: str, event: str | None = None) -> bytes:
    """Encode one event; `data` is JSON on one line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data}\n\n".encode()


def sse_json(value: Any, event: str | None = None) -> bytes:
    return sse(json.dumps(value, ensure_ascii=False, separators=(",", ":")), event)


async def openai_frames(chunks: AsyncIterator[ReplyModel]) -> AsyncIterator[bytes]:
    """Encode the chunks of a reply as OpenAI does, and end the stream."""
    async for chunk in chunks:
        yield sse(chunk.json_text())
    yield DONE


def error_frame(error: ApiError) -> bytes:
    """Encode an error within a stream as OpenAI does, and end the stream."""
    return sse_json(error.body) + DONE


def json_line(error: ApiError) -> bytes:
    """Encode an error within a stream of lines as Ollama does."""
    return json.dumps(ollama_body(error), ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class StreamFormat:
    """How a stream is written; one without comments sends `blank` while it waits."""

    media_type: str
    error_frame: Callable[[ApiError], bytes]
    comments: bool = True
    blank: bytes = b"\n"  # what means nothing between two frames: an empty line


SERVER_SENT_EVENTS = StreamFormat("text/event-stream", error_frame)
JSON_LINES = StreamFormat("application/x-ndjson", json_line, comments=False, blank=b" ")


async def wait_for_disconnect(receive: Receive) -> None:
    """Return once the client disconnects. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; raise ClientDisconnected if the client leaves before its end."""
    return await _cancel_on_disconnect(wait_for_disconnect(request.receive), work)


async def _cancel_on_disconnect(
    gone: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]
) -> T:
    leaving, working = asyncio.create_task(gone), asyncio.create_task(work)
    try:
        await asyncio.wait({leaving, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        for task in (leaving, working):
            task.cancel()
        await asyncio.gather(leaving, working, return_exceptions=True)


class EventStream(Response):
    """Send frames as the client reads them; stop when it disconnects.

    `close` is awaited once, however the stream ends. `heartbeat` encodes a comment for
    idle times; an error is encoded by `form`, and is then the last frame.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        close: Callable[[], Awaitable[Any]],
        heartbeat_seconds: float,
        heartbeat: Callable[[], bytes] = lambda: KEEP_ALIVE,
        form: StreamFormat = SERVER_SENT_EVENTS,
        headers: dict[str, str] | None = None,
    ) -> None:
        quiet = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(headers=quiet | (headers or {}), media_type=form.media_type)
        del self.headers["content-length"]
        self._frames = frames
        self._close = close
        self._heartbeat_seconds = heartbeat_seconds
        self._heartbeat = heartbeat
        self._error_frame = form.error_frame
        self._last_sent = 0.0  # event loop time of the last frame
        self._comments: asyncio.Queue[bytes] = asyncio.Queue()

    def comment(self, comment: bytes) -> None:
        """Send a comment as soon as the client reads it."""
        self._comments.put_nowait(comment)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _cancel_on_disconnect(
                wait_for_disconnect(receive), self._send_all(send)
            )
        except ClientDisconnected:
            log.info("a client disconnected during a stream")
        finally:
            await self._close()

    async def _send_all(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        self._last_sent = asyncio.get_running_loop().time()
        commenting = asyncio.create_task(self._send_comments(send))
        try:
            async for frame in self._frames_then_error():
                while not self._comments.empty():  # they came before this frame
                    await self._send(send, self._comments.get_nowait())
                await self._send(send, frame)
                await asyncio.sleep(0)  # ready frames must not starve other tasks
        finally:
            commenting.cancel()
            await asyncio.gather(commenting, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        self._last_sent = asyncio.get_running_loop().time()

    async def _send_comments(self, send: Send) -> None:
        """Send comments as they come, and a heartbeat after `heartbeat_seconds`."""
        clock = asyncio.get_running_loop().time
        while True:
            quiet = clock() - self._last_sent
            try:
                async with asyncio.timeout(self._heartbeat_seconds - quiet):
                    comment = await self._comments.get()
            except TimeoutError:
                if clock() - self._last_sent < self._heartbeat_seconds:
                    continue
                comment = self._heartbeat()
            await self._send(send, comment)

    async def _frames_then_error(self) -> AsyncIterator[bytes]:
        """Yield the frames; encode an exception as the last one."""
        try:
            async for frame in self._frames:
                yield frame
        except Exception as error:
            yield self._error_frame(as_api_error(error))
