"""Predict the speed of a plan, with bounds.

    seconds per token = active / (efficiency * bandwidth)
                      + streamed layers * sync
                      + (1 - hit rate) * streamed expert bytes per token / SSD

`active` is the bytes a token reads from memory: attention, router, norms, lm_head and
k experts per layer. No overlap is assumed, since published attempts found none. Bounds
come from the efficiency that decoding reaches, the spread of synchronization times, and
the spread of hit rates between texts. If the rate of expert multiplication was
measured, the experts' part of `active` is divided by that instead.

    first token = absent streamed bytes per chunk * chunks / SSD
                + max(weights * chunks / bandwidth, 2 * active weights * tokens / flops)
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.machines import Machine, Range

# Share of memory bandwidth that decoding reaches, and of arithmetic that prefill does.
EFFICIENCY = Range(0.55, 0.65, 0.70)
ARITHMETIC = Range(0.25, 0.45, 0.70)
# Factor on synchronization time: of the table, and of a probe.
SYNC_SPREAD = Range(2.5, 1.0, 0.66)
MEASURED_SYNC_SPREAD = Range(1.3, 1.0, 0.85)
EXPERT_SPREAD = Range(0.85, 1.0, 1.1)  # on a measured rate of experts
SSD_SHARE = Range(0.8, 0.9, 1.0)

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
    source: str = "estimated from other models"
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
        return cls(
            {share: (r, r, r) for share, r in known.items()}, source, worst_layers
        )


@dataclass(frozen=True)
class Workload:
    """Memory, disk and arithmetic that a token and a prompt need."""

    active_bytes: float  # read from memory per token
    expert_bytes: float  # the experts' part of these
    active_weights: float  # multiplied per token
    weight_bytes: float  # of the model in memory
    record_bytes: int
    experts: int  # per layer
    experts_per_token: int  # per token and layer
    slots: Sequence[int]  # of each streamed layer
    chunk: int  # tokens per prefill step


@dataclass(frozen=True)
class Prediction:
    """Predicted speed of a plan; `terms` are expected milliseconds per token."""

    tokens_per_second: Range
    first_token_seconds: Range
    hit_rate: Range
    prompt_tokens: int
    terms: Mapping[str, float]
    machine: Machine
    curve_source: str


def predict(
    work: Workload, machine: Machine, curve: HitCurve, *, prompt_tokens: int
) -> Prediction:
    """Apply the formulas of this module, with bounds."""
    bounds = {name: _terms(work, machine, curve, name) for name in BOUNDS}
    hits = {name: _hit_rate(work, curve, name) for name in BOUNDS}
    speeds = Range(*(1 / sum(bounds[name].values()) for name in BOUNDS))
    first = [_first_token(work, machine, name, prompt_tokens) for name in BOUNDS]
    return Prediction(
        speeds,
        Range(first[2], first[1], first[0]),
        Range(*(hits[name] for name in BOUNDS)),
        prompt_tokens,
        {name: 1e3 * seconds for name, seconds in bounds["expected"].items()},
        machine,
        curve.source if work.slots else "all experts are resident",
    )


BOUNDS = ("low", "expected", "high")


def _terms(
    work: Workload, machine: Machine, curve: HitCurve, bound: str
) -> dict[str, float]:
    spread = MEASURED_SYNC_SPREAD if machine.measured else SYNC_SPREAD
    token_bytes = work.experts_per_token * work.record_bytes
    missed = sum(
        (1 - getattr(curve.at(slots / work.experts), bound)) * token_bytes
        for slots in work.slots
    )
    read, multiplied = work.active_bytes, 0.0
    if machine.expert_rate is not None:
        read -= work.expert_bytes
        rate = machine.expert_rate * getattr(EXPERT_SPREAD, bound)
        multiplied = work.expert_bytes / rate
    return {
        "memory": read / (getattr(EFFICIENCY, bound) * machine.bandwidth) + multiplied,
        "sync": len(work.slots) * machine.sync_seconds * getattr(spread, bound),
        "disk": missed / (machine.ssd * getattr(SSD_SHARE, bound)),
    }


def _hit_rate(work: Workload, curve: HitCurve, bound: str) -> float:
    rates = [getattr(curve.at(slots / work.experts), bound) for slots in work.slots]
    return sum(rates) / len(rates) if rates else 1.0


def _first_token(work: Workload, machine: Machine, bound: str, tokens: int) -> float:
    chunks = -(-tokens // work.chunk)
    each = min(tokens, work.chunk)
    absent = sum(_touched(work, each) * (1 - s / work.experts) for s in work.slots)
    disk = chunks * absent * work.record_bytes / machine.ssd
    memory = chunks * work.weight_bytes / machine.bandwidth
    if machine.flops is None:
        return disk / getattr(SSD_SHARE, bound) + memory / getattr(EFFICIENCY, bound)
    products = 2 * work.active_weights * tokens / machine.flops
    return disk / getattr(SSD_SHARE, bound) + max(
        memory / getattr(EFFICIENCY, bound), products / getattr(ARITHMETIC, bound)
    )


def _touched(work: Workload, tokens: int) -> float:
    """Estimate how many experts of a layer `tokens` tokens choose at random."""
    return work.experts * (1 - (1 - work.experts_per_token / work.experts) ** tokens)


def parameters_read(config: ModelConfig) -> float:
    """Count the weights that one token is multiplied with."""
    M, D = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    attention = M * D * (2 * heads + 2 * kv_heads)
    router = M * config.num_local_experts
    experts = 3 * M * config.intermediate_size * config.num_experts_per_tok
    layers = config.num_hidden_layers
    return layers * (attention + router + experts) + config.vocab_size * M
