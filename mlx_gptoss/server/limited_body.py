"""Limits of the size of a request's body, and of the time that it takes to arrive.

    receive = LimitedBody(receive, limit=2**25, seconds=60)

Knows ASGI messages, not their content.
"""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from mlx_gptoss.api.errors import ApiError


class LimitedBody:
    """Receive a body within limits of size and time.

    Raises HTTPException, which Starlette passes through unchanged.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._whole = False
        self._end = asyncio.get_running_loop().time() + seconds

    async def __call__(self) -> Message:
        if self._whole:  # the next message is the disconnect, whenever it comes
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise _closing_error(408, "the body took too long to arrive") from None
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise body_too_large(self._limit)
        self._whole = not message.get("more_body", False)
        return message


def body_too_large(limit: int) -> HTTPException:
    return _closing_error(413, too_large(limit).message)


def _closing_error(status: int, message: str) -> HTTPException:
    return HTTPException(status, message, {"Connection": "close"})


def too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit} bytes: shorten the conversation",
        "request_too_large",
        headers={"Connection": "close"},
    )
