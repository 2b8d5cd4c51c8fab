"""Statistics of streamed experts per layer: hits, bytes read, and where time went.

`sync` is the wait for the router's output, and so for everything queued before it;
`io` the wait for the disk; `compute` the rest of the layer's time: its host work, and
the products of long prompts, which are evaluated group by group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass
class LayerStatistics:
    """Counters of one streamed layer; times in seconds."""

    experts: int = 0  # requested; each expert once per call
    misses: int = 0
    bytes_read: int = 0
    calls: int = 0
    sync_seconds: float = 0.0
    io_seconds: float = 0.0
    compute_seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        return 1 - self.misses / self.experts if self.experts else 1.0

    def count_call(self, sync: float, io: float, compute: float) -> None:
        self.calls += 1
        self.sync_seconds += sync
        self.io_seconds += io
        self.compute_seconds += compute

    def count_experts(self, experts: int, misses: int) -> None:
        self.experts += experts
        self.misses += misses

    def count_read(self, count: int) -> None:
        self.bytes_read += count

    def __sub__(self, earlier: "LayerStatistics") -> "LayerStatistics":
        return LayerStatistics(
            *(getattr(self, x) - getattr(earlier, x) for x in COUNTS)
        )

    def __add__(self, other: "LayerStatistics") -> "LayerStatistics":
        return LayerStatistics(*(getattr(self, x) + getattr(other, x) for x in COUNTS))


COUNTS = tuple(LayerStatistics.__dataclass_fields__)


@dataclass(frozen=True)
class ExpertStatistics:
    """Counters and slots of all streamed layers, by layer number."""

    layers: dict[int, LayerStatistics]
    slots: dict[int, int]
    resident_layers: int

    @property
    def total(self) -> LayerStatistics:
        return sum(self.layers.values(), start=LayerStatistics())

    def __sub__(self, earlier: "ExpertStatistics") -> "ExpertStatistics":
        since = {n: now - earlier.layers[n] for n, now in self.layers.items()}
        return replace(self, layers=since)


def collect_statistics(
    layers: Sequence[tuple[int, int, LayerStatistics]], resident_layers: int
) -> ExpertStatistics:
    """Copy counters given as (layer, slots, counters)."""
    return ExpertStatistics(
        {number: replace(counts) for number, _, counts in layers},
        {number: slots for number, slots, _ in layers},
        resident_layers,
    )
