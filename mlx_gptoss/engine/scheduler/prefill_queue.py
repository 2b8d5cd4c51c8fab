"""Whose prompt is read next: in turns, a chunk each, and nothing twice."""

from collections import deque
from collections.abc import Iterator

from mlx_gptoss.engine.prompt_cache.tree import shared
from mlx_gptoss.engine.scheduler.request import Ticket

WORTH_WAITING = 32  # tokens of a prompt that another one is reading just now


class Reading:
    """The tickets whose prompts are not read yet."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Give a ticket a turn behind all others."""
        self._tickets.append(ticket)

    def remove(self, ticket: Ticket) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def take(self) -> Ticket | None:
        """Take out whose turn it is; `add` it again if there is more to read."""
        ticket = next((t for t in self._tickets if not self._follows(t)), None)
        if ticket is not None:
            self._tickets.remove(ticket)
        return ticket

    def _follows(self, ticket: Ticket) -> bool:
        """Whether another one is just reading what this one begins with.

        Then it will find that in the prompt cache, if it waits.
        """
        return ticket.lease is None and any(
            shared(other.prompt, ticket.prompt) - other.lease.cache.offset
            >= WORTH_WAITING
            for other in self._tickets
            if other.lease is not None
        )
