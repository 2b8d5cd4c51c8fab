"""Results of `bench tune`: columns and ratios; knows no engine."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainingWork:
    """What every engine trains on.

    Each step has `rows` rows of `tokens` tokens, of which the first `prompt` are not
    learned; updates of `rank` on the `targets`.
    """

    rows: int = 4
    tokens: int = 128
    prompt: int = 0
    rank: int = 8
    targets: tuple[str, ...] = ("attention",)

    @property
    def learned(self) -> int:
        """Learned tokens of a step."""
        return self.rows * (self.tokens - max(0, self.prompt - 1))


@dataclass
class TrainingColumn:
    """One engine; `failure` is the reason if it was not measured.

    Seconds are of one step, the median and the fastest. Memory is the peak of MLX's
    arrays, and of the process; planned_memory is what was planned for the arrays, by
    ours. weights: `packed` as stored, or `decoded` to float32.
    """

    name: str
    package: str = ""
    dtype: str = ""
    blas: str = ""
    weights: str = ""
    step_s: float = 0.0
    fastest_s: float = 0.0
    steps: int = 0
    tokens_per_second: float = 0.0
    peak_memory: int = 0
    peak_rss: int = 0
    planned_memory: int | None = None
    first_loss: float = 0.0
    last_loss: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class TrainingBench:
    """Columns: ours, ours with packed weights, then the peer's."""

    model: str
    machine: str
    load_average: float  # of the machine at the start
    rounds: int
    work: TrainingWork
    columns: tuple[TrainingColumn, ...]
    peer: str | None = None

    @property
    def speed_ratio(self) -> float | None:
        """The step of the fastest peer by ours; above 1 ours is faster."""
        peers = self._measured(peer=True)
        if not peers:
            return None
        return min(each.step_s for each in peers) / self.columns[0].step_s

    @property
    def memory_ratio(self) -> float | None:
        """Our memory with packed weights by the least of the peers', which packs too.

        Below 1 ours is smaller.
        """
        peers = self._measured(peer=True)
        packed = [x for x in self._measured(peer=False) if x.weights == PACKED]
        if not peers or not packed:
            return None
        return packed[0].peak_memory / min(each.peak_memory for each in peers)

    def _measured(self, *, peer: bool) -> list[TrainingColumn]:
        named = self.peer or "none"
        return [
            each
            for each in self.columns
            if not each.failure and each.name.startswith(named) == peer
        ]

    def as_json(self) -> dict[str, Any]:
        ratios = {"speed_ratio": self.speed_ratio, "memory_ratio": self.memory_ratio}
        return asdict(self) | ratios


PACKED, DECODED = "packed", "decoded"
