"""Whose prompt is read next: in turns, a chunk each, and nothing twice."""

from collections import deque
from collections.abc import Iterator

from mlx_gptoss.engine.prompt_cache.tree import common_prefix_length
from mlx_gptoss.engine.scheduler.request import Request

MIN_SHARED_TOKENS = 32  # tokens of a prompt that another one is reading just now


class PrefillQueue:
    """The requests whose prompts are not read yet."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def add(self, request: Request) -> None:
        """Give a request a turn behind all others."""
        self._requests.append(request)

    def remove(self, request: Request) -> None:
        if request in self._requests:
            self._requests.remove(request)

    def pop(self) -> Request | None:
        """Take out whose turn it is; `add` it again if there is more to read."""
        request = next(
            (t for t in self._requests if not self._awaits_shared_prefix(t)), None
        )
        if request is not None:
            self._requests.remove(request)
        return request

    def _awaits_shared_prefix(self, request: Request) -> bool:
        """Whether another one is just reading what this one begins with.

        Then it will find that in the prompt cache, if it waits.
        """
        return request.lease is None and any(
            common_prefix_length(other.token_array, request.token_array)
            - other.lease.cache.offset
            >= MIN_SHARED_TOKENS
            for other in self._requests
            if other.lease is not None
        )
