"""One connection of a client: dropped when it is too slow to speak or to read.

A client that does not read would hold its answer, and with it the model, for ever.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """Uvicorn's protocol, with an end to patience. Times are in seconds."""

    read_seconds: ClassVar[float] = 30.0  # until the first request has begun
    write_seconds: ClassVar[float] = 30.0  # until what waits to be sent is sent

    _waiting: asyncio.TimerHandle | None = None

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

    def _drop_if_silent(self) -> None:
        if self.cycle is None and self.transport is not None:
            self.transport.abort()

    def _drop(self) -> None:
        self.logger.warning("a client that does not read was dropped")
        self.transport.abort()  # closing would wait for it

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def connection_with_timeouts(
    read_seconds: float, write_seconds: float
) -> type[TimedConnection]:
    """Return a kind of connection with these limits."""
    limits = {"read_seconds": read_seconds, "write_seconds": write_seconds}
    return type("PatientConnection", (TimedConnection,), limits)
