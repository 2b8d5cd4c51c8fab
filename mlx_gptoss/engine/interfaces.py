"""What generation needs of a model, and of something that guides it: shapes of both."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import mlx.core as mx

TokenIds = Sequence[int]


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


class TokenGuide(Protocol):
    """What generation needs of something that says which tokens are legal."""

    @property
    def needs_last_token(self) -> bool:
        """Whether a token can be drawn only when the one before has been read."""
        ...

    @property
    def pending_mask(self) -> "Future[object] | None":
        """What `masked` would have to wait for; None if it can answer at once."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended with the token read last, if it did."""
        ...

    @property
    def finish_details(self) -> tuple[str, ...]:
        """What was cut short, for the statistics."""
        ...

    def mask_logits(self, logits: mx.array) -> mx.array:
        """Return the logits (V,) of the next token, -inf where it is not legal."""
        ...

    def advance(self, token: mx.array) -> None:
        """Go on behind a token () that may not be computed yet."""
        ...

    def accept_token(self, token: int) -> bool:
        """Take a token that was read; True if the one behind it must be redrawn."""
        ...
