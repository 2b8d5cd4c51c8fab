"""Bound the bytes of bodies that a server holds, of all requests under way.

    share = held.share(receive)      # for one request; `receive` it instead
    share.give_back()                # at its end

Knows messages of ASGI; nothing of what is in them.
"""

from starlette.types import Message, Receive

from mlx_gptoss.api.errors import busy

RETRY_SECONDS = 5.0


class Held:
    """Bounds what is held to `most` bytes. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0

    def share(self, receive: Receive) -> "Share":
        return Share(self, receive)


class Share:
    """Receives the body of one request; raises ApiError (429) without room for it."""

    def __init__(self, held: Held, receive: Receive) -> None:
        self._held = held
        self._receive = receive
        self._bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        if self._held.bytes + size > self._held.most:
            raise too_much()
        self._held.bytes += size
        self._bytes += size
        return message

    def give_back(self) -> None:
        """What it held is free. Twice is once."""
        self._held.bytes -= self._bytes
        self._bytes = 0


def too_much() -> Exception:
    error = busy("the bodies under way fill the memory they may take", RETRY_SECONDS)
    error.headers = {**error.headers, "Connection": "close"}
    return error
