"""Prefill order: round-robin by chunk, and no shared prefix is computed twice.

The last chunk of a prompt does not wait for another round.
"""

from collections import deque
from collections.abc import Iterator

from mlx_gptoss.engine.prompt_cache.tree import common_prefix_length
from mlx_gptoss.engine.sequence import Sequence

MIN_SHARED_TOKENS = 32  # of a prefix that are worth waiting for


class PrefillQueue:
    """The running sequences whose prompts are not fully prefilled."""

    def __init__(self) -> None:
        self._sequences: deque[Sequence] = deque()

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Add a sequence: its turn comes after all others, or with `first` before."""
        if first:
            self._sequences.appendleft(sequence)
        else:
            self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence if it is in the queue."""
        if sequence in self._sequences:
            self._sequences.remove(sequence)

    def next(self, taken: list[Sequence]) -> Sequence | None:
        """Return the next sequence that is not taken for this pass already."""
        for sequence in self._sequences:
            if sequence not in taken and not self._awaits_shared_prefix(sequence):
                return sequence
        return None

    def _awaits_shared_prefix(self, sequence: Sequence) -> bool:
        """Whether another sequence is prefilling a prefix of this one right now.

        That prefix will be in the prompt cache if this one waits.
        """
        if sequence.lease is not None or not sequence.request.keep:
            return False
        return any(
            self._shares_prefix(sequence, other)
            for other in self._sequences
            if other.lease is not None and other.request.keep
        )

    def _shares_prefix(self, sequence: Sequence, other: Sequence) -> bool:
        """Whether a prefix is worth waiting for; see that it can be reused then."""
        assert other.lease is not None
        common = common_prefix_length(other.prompt, sequence.prompt[:-1])
        if other.prefilled >= common:
            return False
        both = sequence.request.shared and other.request.shared
        if common - other.lease.cached_tokens < (1 if both else MIN_SHARED_TOKENS):
            return False
        other.lease.request_snapshot(common)
        return True
