"""Assign experts to slots, with LRU eviction; knows no bytes.

Replays of real routing found nothing better than LRU: evicting the least frequently
used expert is worse, and the ideal policy is better by only a few hundredths.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable

import mlx.core as mx

from mlx_gptoss.errors import CheckpointError, MemoryBudgetError

UNASSIGNED = 0  # table entry of an expert that is in no slot; must not be used


class Slots:
    """S slots of a layer of E experts."""

    def __init__(self, slots: int, experts: int, *, layer: int = 0) -> None:
        self.count = slots
        self.experts = experts
        self.layer = layer
        # By expert, the least recently used first.
        self._slot_of: OrderedDict[int, int] = OrderedDict()
        self._free = list(range(slots))[::-1]
        self._table: mx.array | None = None

    def __contains__(self, expert: int) -> bool:
        return expert in self._slot_of

    def __getitem__(self, expert: int) -> int:
        return self._slot_of[expert]

    @property
    def cached(self) -> list[int]:
        """The experts in slots, the least recently used first."""
        return list(self._slot_of)

    @property
    def table(self) -> mx.array:
        """The slot of each expert: (E,) uint32."""
        if self._table is None:
            slots = [self._slot_of.get(e, UNASSIGNED) for e in range(self.experts)]
            self._table = mx.array(slots, mx.uint32)
        return self._table

    def touch(self, needed: Iterable[int]) -> list[int]:
        """Mark experts as used; return those that are in no slot.

        Raises CheckpointError for an index that is no expert.
        """
        missing = []
        for expert in needed:
            if expert in self._slot_of:
                self._slot_of.move_to_end(expert)
            else:
                missing.append(expert)
        if missing and max(missing) >= self.experts:
            raise CheckpointError(
                f"the router of layer {self.layer} chose expert {max(missing)} of "
                f"{self.experts}: its weights have values that are no numbers, which "
                "`mlx-gptoss verify FOLDER` finds"
            )
        return missing

    def allocate(self, count: int, keep: Collection[int]) -> list[int]:
        """Free `count` slots, evicting the least recently used experts except `keep`.

        Raises MemoryBudgetError if there are not enough slots.
        """
        while len(self._free) < count:
            victim = next((e for e in self._slot_of if e not in keep), None)
            if victim is None:
                raise MemoryBudgetError(
                    f"layer {self.layer} needs {count} slots beside {len(keep)} "
                    f"experts in use, but has {self.count} in all: give it more memory"
                )
            self._free.append(self._slot_of.pop(victim))
            self._table = None
        return [self._free.pop() for _ in range(count)]

    def assign(self, experts: Iterable[int], slots: Iterable[int]) -> None:
        """Record that experts are now in slots returned by `allocate`."""
        for expert, slot in zip(experts, slots, strict=True):
            self._slot_of[expert] = slot
        self._table = None

    def resize(self, slots: int) -> list[int]:
        """Change the number of slots; return the old slots of the experts that stay.

        The most recently used experts stay, and move to the first slots in that order.
        """
        kept = list(self._slot_of.items())[-slots:]
        self.count = slots
        self._slot_of = OrderedDict((e, new) for new, (e, _) in enumerate(kept))
        self._free = list(range(len(kept), slots))[::-1]
        self._table = None
        return [old for _, old in kept]

    def release(self, slots: Iterable[int]) -> None:
        """Free allocated slots that were not filled."""
        self._free.extend(slots)
