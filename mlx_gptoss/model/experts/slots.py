"""Which expert lies in which slot, and which one goes first; knows no bytes.

The least recently used expert goes. Replays of real routing found nothing better: what
is used least often is worse, and what is ideal is better by a few hundredths only.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable

import mlx.core as mx

from mlx_gptoss.errors import CheckpointError, MemoryBudgetError

UNASSIGNED = 0  # an expert that is in no slot; nobody may ask for it


class Slots:
    """S slots of a layer of E experts."""

    def __init__(self, slots: int, experts: int, *, layer: int = 0) -> None:
        self.count = slots
        self.experts = experts
        self.layer = layer
        self._slot_of: OrderedDict[int, int] = (
            OrderedDict()
        )  # expert -> slot, oldest first
        self._free = list(range(slots))[::-1]
        self._table: mx.array | None = None

    def __contains__(self, expert: int) -> bool:
        return expert in self._slot_of

    def __getitem__(self, expert: int) -> int:
        return self._slot_of[expert]

    @property
    def cached(self) -> list[int]:
        """The experts that are here, the least recently used first."""
        return list(self._slot_of)

    @property
    def table(self) -> mx.array:
        """The slot of every expert: (E,) uint32."""
        if self._table is None:
            slots = [self._slot_of.get(e, UNASSIGNED) for e in range(self.experts)]
            self._table = mx.array(slots, mx.uint32)
        return self._table

    def touch(self, needed: Iterable[int]) -> list[int]:
        """Mark experts as used; return those that are not here."""
        held, missing = self._slot_of, []
        for expert in needed:
            if expert in held:
                held.move_to_end(expert)
            else:
                missing.append(expert)
        if missing and max(missing) >= self.experts:
            raise CheckpointError(
                f"the router of layer {self.layer} chose expert {max(missing)} of "
                f"{self.experts}: its weights are damaged, download the model again"
            )
        return missing

    def allocate(self, count: int, keep: Collection[int]) -> list[int]:
        """Take `count` slots away from all experts but `keep`, the oldest first."""
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
        """Say that experts now lie in slots that `make_room` gave."""
        for expert, slot in zip(experts, slots, strict=True):
            self._slot_of[expert] = slot
        self._table = None

    def resize(self, slots: int) -> list[int]:
        """Change the number of slots; return the old slots of the new first ones.

        Whoever was used last stays.
        """
        kept = list(self._slot_of.items())[-slots:]
        self.count = slots
        self._slot_of = OrderedDict((e, new) for new, (e, _) in enumerate(kept))
        self._free = list(range(len(kept), slots))[::-1]
        self._table = None
        return [old for _, old in kept]

    def release(self, slots: Iterable[int]) -> None:
        """Return slots that were not filled."""
        self._free.extend(slots)
