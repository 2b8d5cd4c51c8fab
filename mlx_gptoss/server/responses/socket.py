"""One WebSocket of `/v1/responses`: requests as messages, one after the other.

    await ResponsesSocket(socket).run()       # from its acceptance to its end

Messages are read while one is answered, so that the end of a connection is noticed at
once and cancels the answer. They count in the budget of bodies until they are answered.
Knows when to close; `socket_answers.py` answers.
"""

import asyncio
import json
import time
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.websockets import WebSocket, WebSocketState

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.responses.socket import connection_too_old, error_event
from mlx_gptoss.api.wire import JsonObject, StreamEvent
from mlx_gptoss.server.body_errors import body_error
from mlx_gptoss.server.guard import SOCKET
from mlx_gptoss.server.responses.socket_answers import SocketAnswers
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.stream import CLIENT_CLOSED_REQUEST, ClientDisconnected

PATH = "/v1/responses"
GOING_AWAY, TOO_MANY_MESSAGES, RESTARTING = 1001, 1008, 1012  # codes of a close


class ResponsesSocket:
    """One connection."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._service: Service = socket.app.state.service
        self._limits = self._service.settings.limits
        self._end = asyncio.get_running_loop().time() + self._limits.socket_seconds
        # Messages to answer, what reading one raised, or None to leave.
        self._waiting: asyncio.Queue[str | ApiError | None] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._answers = SocketAnswers(self._service, self._send)

    async def run(self) -> None:
        await self._socket.accept()
        reading = asyncio.create_task(self._read())
        leave = partial(self._waiting.put_nowait, None)
        stay = self._service.drain.on_start(leave)
        try:
            code = await self._serve()
            if not self._gone.is_set():
                await self._socket.close(code)
        finally:
            stay()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            while not self._waiting.empty():
                self._give_back(self._waiting.get_nowait())

    async def _serve(self) -> int:
        """Answer messages until there is a reason to close; return its code."""
        while not self._gone.is_set():
            try:
                async with asyncio.timeout_at(self._end):
                    message = await self._waiting.get()
            except TimeoutError:
                message = None
            if asyncio.get_running_loop().time() >= self._end:
                self._give_back(message)
                error = connection_too_old(self._limits.socket_seconds)
                await self._send(error_event(error))
                return GOING_AWAY
            if message is None:
                return RESTARTING
            await self._answer(message)
        return GOING_AWAY

    async def _answer(self, message: str | ApiError) -> None:
        """Answer a message, with an error if it cannot be; count and log it."""
        started, status = time.monotonic(), 200
        try:
            if isinstance(message, ApiError):
                raise message
            text = message.encode("utf-8", "replace")
            await self._answers.answer(text, self._request(len(text)))
        except ClientDisconnected:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            known = body_error(error)
            status = known.status
            await self._send(error_event(known))
        finally:
            self._give_back(message)
            seconds = time.monotonic() - started
            self._service.record_request(SOCKET, PATH, status, seconds)

    async def _read(self) -> None:
        """Queue messages as they come, until the connection ends."""
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if self._waiting.qsize() >= self._limits.socket_waiting:
                    reason = "too many requests wait on this connection"
                    await self._socket.close(TOO_MANY_MESSAGES, reason)
                    return
                self._waiting.put_nowait(self._charged(message))
        finally:
            self._gone.set()
            self._waiting.put_nowait(None)

    def _charged(self, message: Any) -> str | ApiError:
        """Return the text of a message whose size was taken from the budget."""
        text = message.get("text")
        if text is None:
            text = message["bytes"].decode("utf-8", "replace")
        try:
            self._service.body_budget.take(len(text))
        except ApiError as error:
            return error
        return text

    def _give_back(self, message: str | ApiError | None) -> None:
        if isinstance(message, str):
            self._service.body_budget.give(len(message))

    def _request(self, size: int) -> Request:
        """Return a message as the request that it would be over HTTP."""
        scope = {**self._socket.scope, "type": "http", "method": "POST"}
        scope["state"] = {**scope.get("state", {}), "body_bytes": size}

        async def receive() -> JsonObject:
            await self._gone.wait()
            return {"type": "http.disconnect"}

        return Request(scope, receive)

    async def _send(self, event: StreamEvent) -> None:
        if self._socket.application_state == WebSocketState.CONNECTED:
            text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            await self._socket.send_text(text)
