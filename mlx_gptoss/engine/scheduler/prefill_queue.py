"""Prefill order: round-robin by chunk, and no shared prefix is computed twice."""

from collections import deque
from collections.abc import Iterator

from mlx_gptoss.engine.prompt_cache.tree import common_prefix_length
from mlx_gptoss.engine.scheduler.request import Request

MIN_SHARED_TOKENS = 32  # of a prefix in prefill that are worth waiting for


class PrefillQueue:
    """The requests whose prompts are not fully prefilled."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def add(self, request: Request) -> None:
        """Append a request: its turn comes after all others."""
        self._requests.append(request)

    def remove(self, request: Request) -> None:
        """Remove a request if it is in the queue."""
        if request in self._requests:
            self._requests.remove(request)

    def pop(self) -> Request | None:
        """Remove and return the next request; `add` it again if its prompt goes on."""
        request = next(
            (r for r in self._requests if not self._awaits_shared_prefix(r)), None
        )
        if request is not None:
            self._requests.remove(request)
        return request

    def _awaits_shared_prefix(self, request: Request) -> bool:
        """Whether another request is prefilling a prefix of this one right now.

        This one will find that prefix in the prompt cache if it waits.
        """
        return request.lease is None and any(
            common_prefix_length(other.token_array, request.token_array)
            - other.lease.cache.offset
            >= MIN_SHARED_TOKENS
            for other in self._requests
            if other.lease is not None
        )
