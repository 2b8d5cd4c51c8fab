"""A client connection that is closed when the client is too slow to send or to read.

A client that never reads would otherwise occupy a place in the batch forever.
"""

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """Uvicorn's HTTP protocol with timeouts, in seconds."""

    read_seconds: ClassVar[float] = 30.0  # until the first request begins
    write_seconds: ClassVar[float] = 30.0  # until the client reads a full send buffer

    _waiting: asyncio.TimerHandle | None = None
    _upgraded = False  # another protocol has the transport now

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(self.read_seconds, self._drop_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_waiting()
        self._waiting = self.loop.call_later(self.write_seconds, self._drop)

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._upgraded = True
        super().handle_websocket_upgrade(event)

    def _drop_if_silent(self) -> None:
        silent = self.cycle is None and not self._upgraded
        if silent and self.transport is not None:
            self.transport.abort()

    def _drop(self) -> None:
        self.logger.warning("closed the connection of a client that does not read")
        self.transport.abort()  # close() would wait for the client

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def connection_with_timeouts(
    read_seconds: float, write_seconds: float
) -> type[TimedConnection]:
    """Return a connection class with these timeouts."""
    limits = {"read_seconds": read_seconds, "write_seconds": write_seconds}
    return type("ConnectionWithTimeouts", (TimedConnection,), limits)
