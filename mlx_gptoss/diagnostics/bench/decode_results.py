"""Results of `bench decode`: points, columns, ratios; knows no engine."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DecodePoint:
    """Medians at one depth: prefill of a prompt that long, and decode behind it."""

    depth: int
    prefill: float  # tokens per second
    decode: float  # tokens per second
    first_token_s: float
    rounds: int


@dataclass
class Column:
    """Results of one engine; `failure` is the reason if it was not measured."""

    name: str
    package: str = ""
    dtype: str = ""
    blas: str = ""
    experts: str = ""  # storage: resident, hybrid or streamed
    hit_rate: float = 1.0  # of slots, if experts are streamed
    load_s: float = 0.0  # from a warm page cache
    peak_memory: int = 0  # bytes, MLX's arrays
    peak_rss: int = 0  # bytes, the whole process
    primitives: Mapping[str, int] = field(default_factory=dict)
    points: list[DecodePoint] = field(default_factory=list)
    failure: str | None = None

    @property
    def primitives_per_token(self) -> int:
        return sum(self.primitives.values())


@dataclass(frozen=True)
class DecodeRatio:
    """Our speed divided by the peer's at one depth; above 1 ours is faster."""

    depth: int
    prefill: float
    decode: float


@dataclass(frozen=True)
class DecodeBench:
    """Columns: ours, the peer under the same conditions, the peer as shipped."""

    model: str
    machine: str
    load_average: float  # of the machine at the start
    tokens: int  # decoded behind each prompt
    columns: tuple[Column, ...]

    @property
    def ratios(self) -> tuple[DecodeRatio, ...]:
        if len(self.columns) == 1:
            return ()
        theirs = {point.depth: point for point in self.columns[1].points}
        return tuple(
            DecodeRatio(
                ours.depth,
                ours.prefill / theirs[ours.depth].prefill,
                ours.decode / theirs[ours.depth].decode,
            )
            for ours in self.columns[0].points
            if ours.depth in theirs
        )

    def as_json(self) -> dict[str, Any]:
        columns = [
            asdict(column) | {"primitives_per_token": column.primitives_per_token}
            for column in self.columns
        ]
        ratios = [asdict(ratio) for ratio in self.ratios]
        return asdict(self) | {"columns": columns, "ratios": ratios}
