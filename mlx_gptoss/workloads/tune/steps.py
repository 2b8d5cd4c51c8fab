"""The batches of each optimizer step, from any position of the data on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_gptoss.workloads.tune.batches import PackedTokens

Position = tuple[int, int]  # epoch, and batch in it


class RepeatableBatch(Protocol):
    """A batch, and the position of the next one."""

    @property
    def following(self) -> Position: ...
    def packed(self) -> PackedTokens: ...


class RepeatableBatches(Protocol):
    """Batches by position, such as `TrainingBatches`."""

    def count(self, epoch: int = 0) -> int: ...
    def batch(self, epoch: int, index: int) -> RepeatableBatch: ...


@dataclass(frozen=True)
class StepBatches:
    """The batches of one step; `following` is the position of the next step."""

    batches: Sequence[PackedTokens]
    following: Position


def steps_in(batches: RepeatableBatches, epochs: int, accumulate: int) -> int:
    """Return the steps of so many passes; the last may begin another pass."""
    total = sum(batches.count(epoch) for epoch in range(epochs))
    return -(-total // accumulate)


def steps_from(
    batches: RepeatableBatches, position: Position, accumulate: int
) -> Iterator[StepBatches]:
    """Yield the batches of each step, without end."""
    while True:
        packed = []
        for _ in range(accumulate):
            batch = batches.batch(*position)
            packed.append(batch.packed())
            position = batch.following
        yield StepBatches(packed, position)
