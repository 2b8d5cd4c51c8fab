"""How fast a plan will be: one formula, its terms, and its bounds.

    seconds a token = active / (efficiency * bandwidth)
                    + streamed layers * sync
                    + (1 - hit rate) * streamed experts' bytes a token / SSD

`active` are the bytes a token reads from memory: attention, router, norms, lm_head and
k experts a layer. No overlap is assumed, because those who tried found none. Bounds
come from the efficiency that decoding reaches, the spread of waits, and the spread of
hit rates between texts. Where the rate was measured at which experts are multiplied,
their part of `active` is divided by that instead.

    first token = streamed bytes not resident, once a chunk / SSD
                + max(weights / bandwidth a chunk, 2 * active weights * tokens / flops)
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.machines import Machine, Range

# Share of its memory bandwidth that decoding reaches; of its arithmetic, in prompts.
EFFICIENCY = Range(0.55, 0.65, 0.70)
ARITHMETIC = Range(0.25, 0.45, 0.70)
# How much longer or shorter a wait is than the probe, or the table, says.
SYNC_SPREAD = Range(2.5, 1.0, 0.66)
MEASURED_SYNC_SPREAD = Range(1.3, 1.0, 0.85)
EXPERT_SPREAD = Range(0.85, 1.0, 1.1)  # of a measured rate of experts
SSD_SHARE = Range(0.8, 0.9, 1.0)

# Hit rates of LRU by the share of the experts that is here: with 4 experts a token no
# curve of gpt-oss is published; these interpolate replays of 2 a token and of other
# models (`mlx-gptoss trace` records the real one).
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
    """Hit rate by the share of a layer's experts that is in slots."""

    points: Mapping[float, tuple[float, float, float]] = field(
        default_factory=lambda: USUAL_HITS
    )
    source: str = "estimated from other models"
    worst_layers: tuple[int, ...] = ()  # of one model, the worst first; () is unknown

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
        """Make a curve of measured rates: its bounds are the rates themselves."""
        known = {0.0: 0.0} | dict(rates) | {1.0: 1.0}
        return cls(
            {share: (r, r, r) for share, r in known.items()}, source, worst_layers
        )


@dataclass(frozen=True)
class Workload:
    """What one token and one prompt ask of memory, disk and arithmetic."""

    active_bytes: float  # read from memory for a token
    expert_bytes: float  # of them, of experts
    active_weights: float  # multiplied for a token
    weight_bytes: float  # of the model in memory
    record_bytes: int
    experts: int  # of a layer
    experts_per_token: int  # of them, a token
    slots: Sequence[int]  # of every streamed layer
    chunk: int  # tokens of a prompt at once


@dataclass(frozen=True)
class Prediction:
    """Figures of a plan; `terms` are the milliseconds a token spends, expected."""

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
    """Apply the formula of this module, with its bounds."""
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
    """Estimate how many experts of a layer so many tokens choose, each at random."""
    return work.experts * (1 - (1 - work.experts_per_token / work.experts) ** tokens)


def parameters_read(config: ModelConfig) -> float:
    """Count the weights one token is multiplied with."""
    M, D = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    attention = M * D * (2 * heads + 2 * kv_heads)
    router = M * config.num_local_experts
    experts = 3 * M * config.intermediate_size * config.num_experts_per_tok
    layers = config.num_hidden_layers
    return layers * (attention + router + experts) + config.vocab_size * M
