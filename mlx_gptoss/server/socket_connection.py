"""A WebSocket's connection under uvicorn, with the limits of HTTP's connections.

A message has as long to arrive as a body. What has arrived of it counts in the budget
of bodies, and it may not come in countless fragments. A client that does not read is
disconnected. A shutdown is the route's to announce, once its answer has ended. Knows
frames and bytes; nothing of messages.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol,
)
from websockets.frames import CloseCode, Frame

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.server.body_budget import BodyBudget

MOST_FRAGMENTS = 2**14  # of a message


@dataclass(frozen=True)
class SocketLimits:
    """Limits of each connection, in seconds, and the budget that all share."""

    message_seconds: float
    write_seconds: float
    budget: BodyBudget


class TimedSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket protocol with limits."""

    limits: ClassVar[SocketLimits]

    _charged = 0  # bytes of the message that is arriving
    _fragment_bytes = 0
    _arriving: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiting = len(self.conn.reader.buffer)
        if not (waiting or self.frames):
            self._end_message()
            return
        if self._arriving is None:
            limit = self.limits.message_seconds
            self._arriving = self.loop.call_later(limit, self._fail_slow_message)
        size = waiting + self._fragment_bytes
        try:
            self.limits.budget.take(size - self._charged)
        except ApiError as error:
            self._fail(CloseCode.TRY_AGAIN_LATER, error.message)
        else:
            self._charged = size

    def handle_text(self, event: Frame) -> None:
        self._fragment_bytes = len(event.data)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._fragment_bytes = len(event.data)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        self._fragment_bytes += len(event.data)
        if len(self.frames) >= MOST_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        else:
            super().handle_cont(event)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # refused; uvicorn would log an error

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_message()
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_waiting()
        self._unread = self.loop.call_later(self.limits.write_seconds, self._drop)

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def shutdown(self) -> None:
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    def _end_message(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
        self.limits.budget.give(self._charged)
        self._charged = self._fragment_bytes = 0

    def _fail_slow_message(self) -> None:
        self._fail(CloseCode.POLICY_VIOLATION, "a message took too long to arrive")

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close the connection because of what the client sends."""
        self._end_message()
        self.frames = []
        if not self.transport.is_closing():
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def _drop(self) -> None:
        self.logger.warning("closed the connection of a client that does not read")
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def socket_options(
    limits: RequestLimits, budget: BodyBudget, write_seconds: float
) -> dict[str, Any]:
    """Return the options of uvicorn's configuration for WebSockets."""
    own = SocketLimits(limits.body_seconds, write_seconds, budget)
    return {
        "ws": type("SocketWithLimits", (TimedSocket,), {"limits": own}),
        "ws_max_size": limits.body_bytes,
        "ws_per_message_deflate": False,  # a small frame cannot become a large one
    }
