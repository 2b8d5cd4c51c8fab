"""The protocols of generation: a language model, and a guide that masks tokens.

Anything with these methods works, such as a scripted model in a test.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import mlx.core as mx

from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.token_table import TokenMask

TokenIds = Sequence[int]
OnProgress = Callable[[int, int], None]  # prompt tokens in the cache, prompt tokens


class LanguageModel(Protocol):
    """A decoder-only transformer with a KV cache.

    Dimensions: B batch, L new tokens, M hidden size, V vocabulary.
    """

    def hidden(
        self,
        ids: mx.array,
        cache: Any,
        *,
        lengths: Sequence[int] | None = None,
        last: bool = False,
        adapters: Sequence[int] | None = None,
    ) -> mx.array:
        """Run the layers; every token is appended to its cache.

        One cache: ids (B, L) int32 -> hidden states (B, L, M); with `last`, only those
        of the last position, (B, 1, M).

        A list of R caches: R independent rows, packed one after another in ids (1, N):
        row r has `lengths[r]` tokens, by default one. -> (1, N, M); with `last`, the
        last token of each row, (1, R, M).

        `adapters` are the slots of the rows' adapters, 0 for none; it is given only if
        a row has one.
        """
        ...

    def logits(
        self, hidden: mx.array, *, adapters: Sequence[int] | None = None
    ) -> mx.array:
        """Return the logits (B, L, V) of hidden states (B, L, M).

        `adapters` are the slots of the L rows of (1, L, M), or the slot of them all.
        """
        ...

    def make_pool(self) -> Any:
        """Return a pool whose `make_cache` gives caches that can be a batch.

        It has `.nbytes` (allocated), and `.compact()`, which releases what is spare.
        """
        ...

    def make_cache(self) -> Any:
        """Return an empty KV cache with `.offset` and `.arrays` (to evaluate)."""
        ...


class TokenGuide(Protocol):
    """Constraints of one answer: which tokens are legal next.

    Sampling runs one token ahead: `advance` follows tokens that may not be computed
    yet, `accept_token` the same tokens once their ids are known.
    """

    @property
    def needs_last_token(self) -> bool:
        """Whether a token can be sampled only after the one before is accepted."""
        ...

    @property
    def pending_mask(self) -> "Future[object] | None":
        """The work `mask` would wait for; None if it can answer at once."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """The finish reason if the token accepted last ended the answer, else None."""
        ...

    @property
    def finish_details(self) -> tuple[str, ...]:
        """The parts of the answer that were cut short, for `Statistics`."""
        ...

    def mask(self, size: int) -> TokenMask:
        """Return which tokens are legal next, in a vocabulary of `size`.

        A mask (size,) bool, None if all are legal, or a state of an automaton.
        """
        ...

    def advance(self, state: Row | None) -> None:
        """Move past a sampled token that may not be computed yet.

        `state` () int32 is the automaton's state after it if the mask asked to follow
        one, else None or of no use.
        """
        ...

    def accept_token(self, token: int) -> bool:
        """Accept a sampled token; True if the token after it must be sampled again."""
        ...
