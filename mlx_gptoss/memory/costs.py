"""Measured seconds of the parts of a forward pass, and interpolation between them.

`mlx-gptoss probe` measures them, `memory.step_time` adds them up. Seconds are those of
one machine and its default dtype. Knows nothing of models.

The time of a product of `rows` rows by a matrix of `size` weights is close to

    a + b * size + c * rows + d * size * rows

with other constants for few rows and many, and for matrices that fit a cache and those
that do not. So it is measured on a grid, and is linear in both between its points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

Point = tuple[float, float]  # x, seconds

# Matrices of hidden sizes from here on are timed as they come from memory, smaller ones
# from a cache. How much longer the latter take from memory is measured by itself.
LARGE = 768
SMALL = 192  # the hidden size of those that are timed from memory too


@dataclass(frozen=True)
class CostTable:
    """Seconds of one product by weights of the matrix and rows multiplied by it.

    `points` are, for each size, its (rows, seconds) in rising order.
    """

    points: Mapping[int, Sequence[Point]]

    def seconds(self, size: float, rows: float) -> float:
        """Interpolate; beyond the largest size, seconds grow in proportion to it."""
        sizes = sorted(self.points)
        at = [(n, interpolate(self.points[n], rows)) for n in sizes]
        largest, last = at[-1]
        if size >= largest:
            return last * size / largest
        return interpolate(at, max(size, sizes[0]))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "CostTable":
        """Read the fields of a table. Raises ValueError for an empty one."""
        points = {
            int(size): tuple((float(x), float(y)) for x, y in found)
            for size, found in raw["points"].items()
        }
        if not points or not all(points.values()):
            raise ValueError("a table of costs without points")
        return cls(points)


@dataclass(frozen=True)
class Costs:
    """Measured seconds of the parts of a forward pass.

    dense, affine8, affine4: a linear layer, by its weights and rows.
    experts: one MXFP4 expert with its activation, by the weights of its three matrices
        and the rows that chose it.
    dequantized: the same where they are decoded one by one, on a CPU: from
        `dequantize_rows` rows for each of the layer's experts and `dequantize_products`
        multiplications on; None where that is never done.
    experts_call: what a call of the experts costs however few they are.
    key: a cached key and its value, seen by one query head in a decode step.
    score: the same in prefill, per query.
    layer, step: the rest of a layer, and of a decode step: small operations, Python.
    first: the rest of a layer for a first token, beside that of a step: nothing hides
        Python's part, and the next step begins before the token is returned.
    value: the rest of a layer, per row of prefill and value of it.
    cold, cold_expert: what a small linear layer and a small expert take longer where
        the weights of a pass, `cache_bytes` or more, do not stay in a cache.
    """

    dense: CostTable
    affine8: CostTable
    affine4: CostTable
    experts: CostTable
    dequantized: CostTable | None
    dequantize_rows: float
    dequantize_products: float
    experts_call: float
    key: float
    score: float
    layer: float
    step: float
    first: float
    value: float
    cold: float = 0.0
    cold_expert: float = 0.0
    cache_bytes: float = 0.0

    def cold_share(self, read: float) -> float:
        """Return the share of `read` bytes, those of a pass, that no cache holds."""
        return min(1.0, read / self.cache_bytes) if self.cache_bytes else 0.0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Costs":
        """Read the fields of costs.

        Raises KeyError, TypeError, AttributeError or ValueError for anything else.
        """
        names = {entry.name for entry in fields(cls)} - {*TABLES, DEQUANTIZED}
        known = names - NEWER | names & raw.keys()
        found: dict[str, Any] = {name: float(raw[name]) for name in known}
        found |= {name: CostTable.from_json(raw[name]) for name in TABLES}
        table = raw[DEQUANTIZED]
        found[DEQUANTIZED] = None if table is None else CostTable.from_json(table)
        return cls(**found)


TABLES = ("dense", "affine8", "affine4", "experts")
DEQUANTIZED = "dequantized"
NEWER = {"cold", "cold_expert", "cache_bytes"}  # an older probe lacks them


def interpolate(points: Sequence[Point], x: float) -> float:
    """Return y at x on the line through the points around it, or the two nearest.

    A single point is on a line through the origin.
    """
    if len(points) == 1:
        return points[0][1] * x / points[0][0]
    right = next((n for n, (at, _) in enumerate(points) if at >= x), len(points) - 1)
    right = max(right, 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))
