"""Prefill order: the prompt that ends soonest, and no shared prefix is computed twice.

A prompt that needs few tokens does not wait for long ones, and of equal prompts the
first is read to its end before the second begins. Every fourth pass begins with the
prompt that has waited longest, so that a long one goes on however many short ones come.
"""

from collections import deque
from collections.abc import Iterator

from mlx_gptoss.engine.prompt_cache.tree import common_prefix_length
from mlx_gptoss.engine.sequence import Sequence

MIN_SHARED_TOKENS = 32  # of a prefix that are worth waiting for
LONGEST_WAIT_PASSES = 4  # of so many, one begins with the prompt that waited longest


class PrefillQueue:
    """The running sequences whose prompts are not fully prefilled."""

    def __init__(self) -> None:
        self._sequences: deque[Sequence] = deque()  # the longest wait comes first
        self._passes = 0

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Add a sequence that arrives, or that a pass has read a part of."""
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence if it is in the queue."""
        if sequence in self._sequences:
            self._sequences.remove(sequence)

    def next_to_attach(self) -> Sequence | None:
        """Return a sequence that needs a cache and need not wait for another's prefix.

        Only with its cache is known how much of its prompt is left to read.
        """
        return next(
            (
                sequence
                for sequence in self._sequences
                if sequence.lease is None and not self._awaits_shared_prefix(sequence)
            ),
            None,
        )

    def next(self, taken: list[Sequence]) -> Sequence | None:
        """Return the next sequence with a cache that this pass has not taken yet."""
        ready = [
            sequence
            for sequence in self._sequences
            if sequence.lease is not None and sequence not in taken
        ]
        if not ready:
            return None
        if not taken:
            self._passes += 1
            if self._passes % LONGEST_WAIT_PASSES == 0:
                return ready[0]
        return min(ready, key=lambda sequence: sequence.unread_prompt)

    def _awaits_shared_prefix(self, sequence: Sequence) -> bool:
        """Whether another sequence is prefilling a prefix of this one right now.

        That prefix will be in the prompt cache if this one waits.
        """
        if not sequence.request.keep or sequence.scorer is not None:
            return False
        return any(
            self._shares_prefix(sequence, other)
            for other in self._sequences
            if other.lease is not None and other.request.keep
        )

    def _shares_prefix(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether a prefix is worth waiting for; see that it can be reused then."""
        assert other.lease is not None
        if other.adapter_digest != sequence.adapter_digest:
            return False
        common = common_prefix_length(other.prompt, sequence.prompt[:-1])
        if other.prefilled >= common:
            return False
        both = sequence.request.shared and other.request.shared
        if common - other.lease.cached_tokens < (1 if both else MIN_SHARED_TOKENS):
            return False
        other.lease.request_snapshot(common)
        return True
