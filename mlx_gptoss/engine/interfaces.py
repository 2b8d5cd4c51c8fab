"""What generation needs of a model, and of something that guides it: shapes of both."""

from concurrent.futures import Future
from typing import Any, Protocol

import mlx.core as mx


class LanguageModel(Protocol):
    """What generation needs of a model."""

    def hidden(self, ids: mx.array, cache: Any, *, last: bool = False) -> mx.array:
        """Feed ids (B, L) after what `cache` holds; return (B, L, M), or (B, 1, M).

        Given B caches, each row is fed to its own.
        """
        ...

    def logits(self, hidden: mx.array) -> mx.array:
        """Return (B, L, V) of the positions given."""
        ...

    def make_cache(self) -> Any:
        """Return an empty cache with `.offset` and `.arrays` (what to evaluate)."""
        ...


class Guidance(Protocol):
    """What generation needs of something that says which tokens are legal."""

    @property
    def waits(self) -> bool:
        """Whether a token can be drawn only when the one before has been read."""
        ...

    @property
    def pending(self) -> "Future[object] | None":
        """What `masked` would have to wait for; None if it can answer at once."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended with the token read last, if it did."""
        ...

    @property
    def details(self) -> tuple[str, ...]:
        """What was cut short, for the statistics."""
        ...

    def masked(self, logits: mx.array) -> mx.array:
        """Return the logits (V,) of the next token, -inf where it is not legal."""
        ...

    def drew(self, token: mx.array) -> None:
        """Go on behind a token () that may not be computed yet."""
        ...

    def read(self, token: int) -> bool:
        """Take a token that was read; True if the one behind it must be redrawn."""
        ...
