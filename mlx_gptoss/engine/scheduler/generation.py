"""A generation in progress: what the caller of `Runtime.submit` holds."""

from typing import Protocol

from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.sequence import Sequence


class SequenceOwner(Protocol):
    """The scheduler, as far as a Generation needs it."""

    def wake(self) -> None: ...
    def position(self, sequence: Sequence) -> int: ...


class Generation:
    """An answer that is being generated. Its members may be used in any thread."""

    def __init__(self, owner: SequenceOwner, sequence: Sequence) -> None:
        self._owner = owner
        self._sequence = sequence

    def cancel(self) -> None:
        """End it within one step; `on_end` is still called. Safe to repeat."""
        self._sequence.cancelled = True
        self._owner.wake()

    def read(self, steps: int) -> None:
        """Tell how many steps have been read, or are waited for, in all.

        With `run_ahead`, the request leaves the batch while more are unread.
        """
        self._sequence.read_steps = steps
        if self._sequence.stalled and self._sequence.caught_up:
            self._owner.wake()

    @property
    def state(self) -> str:
        """`queued` (also while preempted), `prefill`, `decode` or `ended`."""
        return self._sequence.state

    @property
    def position(self) -> int:
        """The place in the queue: 1 is next, 0 is not in the queue."""
        return self._owner.position(self._sequence)

    @property
    def stats(self) -> Statistics | None:
        """The statistics so far, or of the whole answer; None before it started."""
        return self._sequence.stats

    @property
    def computed_ids(self) -> tuple[int, ...]:
        """The token ids appended to the KV cache since the start."""
        return self._sequence.computed_ids
