"""Bound the bytes of bodies that a server holds, of all requests under way.

    share = held.share(receive)      # for one request; `receive` it instead
    share.give_back()                # at its end

Knows messages of ASGI; nothing of what is in them.
"""

from starlette.types import Message, Receive

from mlx_gptoss.api.errors import busy

RETRY_SECONDS = 5.0


class BodyBudget:
    """Bounds what is held to `most` bytes. For one event loop."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self.used = 0

    def charge(self, receive: Receive) -> "BudgetedBody":
        return BudgetedBody(self, receive)


class BudgetedBody:
    """Receives the body of one request; raises ApiError (429) without room for it."""

    def __init__(self, held: BodyBudget, receive: Receive) -> None:
        self._budget = held
        self._receive = receive
        self._charged = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        if self._budget.used + size > self._budget.limit:
            raise budget_exhausted()
        self._budget.used += size
        self._charged += size
        return message

    def release(self) -> None:
        """What it held is free. Twice is once."""
        self._budget.used -= self._charged
        self._charged = 0


def budget_exhausted() -> Exception:
    error = busy("the bodies under way fill the memory they may take", RETRY_SECONDS)
    error.headers = {**error.headers, "Connection": "close"}
    return error
