"""Limit the memory for request bodies of all requests together.

    receive = body = budget.charge(receive)   # per request: wraps its `receive`
    body.release()                            # when the request ends
    budget.take(size); budget.give(size)      # for what does not come as a body

Knows ASGI messages, not their content.
"""

from starlette.types import Message, Receive

from mlx_gptoss.api.errors import ApiError, busy

RETRY_SECONDS = 5.0


class BodyBudget:
    """A budget of `limit` bytes. Not thread-safe: for one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def charge(self, receive: Receive) -> "BudgetedBody":
        return BudgetedBody(self, receive)

    def take(self, size: int) -> None:
        """Take bytes from the budget. Raises ApiError (429) if it has fewer."""
        if self.used + size > self.limit:
            raise budget_exhausted()
        self.used += size

    def give(self, size: int) -> None:
        """Return bytes that were taken."""
        self.used -= size


class BudgetedBody:
    """Receive the body of one request; raises ApiError (429) if the budget is full."""

    def __init__(self, held: BodyBudget, receive: Receive) -> None:
        self._budget = held
        self._receive = receive
        self._charged = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self._budget.take(size)
        self._charged += size
        return message

    def release(self) -> None:
        """Return the bytes to the budget. Idempotent."""
        self._budget.give(self._charged)
        self._charged = 0


def budget_exhausted() -> ApiError:
    error = busy(
        "the bodies of other requests fill the memory for bodies", RETRY_SECONDS
    )
    error.headers = {**error.headers, "Connection": "close"}
    return error
