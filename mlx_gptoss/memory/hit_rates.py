"""Hit rates of expert slots by their number: usual ones, or those of a recorded run."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_gptoss.memory.machines import Range

# LRU hit rates by the share of experts in slots. No curve of gpt-oss (4 experts per
# token) is published; these interpolate replays of other models, and with 2 per token
# (`mlx-gptoss trace` records the real one).
USUAL_HITS: Mapping[float, tuple[float, float, float]] = {
    0.0: (0.0, 0.0, 0.0),
    0.03: (0.22, 0.30, 0.36),
    0.08: (0.45, 0.50, 0.60),
    0.12: (0.52, 0.60, 0.66),
    0.2: (0.64, 0.70, 0.76),
    0.25: (0.70, 0.74, 0.80),
    0.4: (0.83, 0.855, 0.88),
    0.55: (0.88, 0.91, 0.94),
    0.75: (0.95, 0.965, 0.98),
    0.9: (0.97, 0.99, 0.995),
    1.0: (1.0, 1.0, 1.0),
}


@dataclass(frozen=True)
class HitCurve:
    """Hit rate by the share of a layer's experts in slots."""

    points: Mapping[float, tuple[float, float, float]] = field(
        default_factory=lambda: USUAL_HITS
    )
    source: str = "a guess from other models, which `--trace` replaces"
    guessed: bool = True
    worst_layers: tuple[int, ...] = ()  # of one model, worst first; () if unknown

    def at(self, share: float) -> Range:
        """Interpolate between the points."""
        return Range(*(self._at(share, column) for column in range(3)))

    def expected(self, share: float) -> float:
        return self._at(share, 1)

    def _at(self, share: float, column: int) -> float:
        known = sorted(self.points)
        after = bisect_right(known, share)
        if after == 0 or after == len(known):
            return self.points[known[0 if after == 0 else -1]][column]
        left, right = known[after - 1], known[after]
        weight = (share - left) / (right - left)
        low, high = self.points[left][column], self.points[right][column]
        return low + weight * (high - low)

    @classmethod
    def recorded(
        cls,
        rates: Mapping[float, float],
        source: str,
        worst_layers: tuple[int, ...] = (),
    ) -> "HitCurve":
        """Make a curve from measured rates; its bounds equal the rates."""
        known = {0.0: 0.0} | dict(rates) | {1.0: 1.0}
        points = {share: (r, r, r) for share, r in known.items()}
        return cls(points, source, guessed=False, worst_layers=worst_layers)
