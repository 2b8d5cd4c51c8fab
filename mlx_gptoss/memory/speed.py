"""Predict the speed of a plan, with bounds: from a probe, or by a guess.

After `mlx-gptoss probe` a prediction is the sum of measured costs (`step_time.py`), and
of what streaming adds:

    seconds per token = decode step + streamed layers * wait
                      + missed experts * bytes / SSD + layers that miss * latency
    first token       = prefill, in which experts take as long as reading those that
                        are absent, if that is longer, and a part of the shorter

Bounds are a quarter more and less than that, and the bounds of a guessed hit rate.

Without a probe it is a guess from the table of chips, or from nothing:

    seconds per token = active / (efficiency * bandwidth), or launching each layer
                      + streamed layers * sync
                      + (1 - hit rate) * streamed expert bytes per token / SSD
    first token       = absent streamed bytes per chunk * chunks / SSD
                      + the largest of weights * chunks / bandwidth,
                        2 * active weights * tokens / flops, and launching each layer

`active` is the bytes a token reads from memory: attention, router, norms, lm_head and
k experts per layer. No overlap of the terms is assumed, since published attempts found
none. Bounds come from the efficiency that decoding reaches, the spread of
synchronization times, and the spread of hit rates between texts; on a machine that is
in no table from `Machine.doubt`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.costs import Costs
from mlx_gptoss.memory.hit_rates import HitCurve
from mlx_gptoss.memory.machines import Machine, Range
from mlx_gptoss.memory.step_time import (
    BitsPerWeight,
    decode_time,
    prefill_pairs,
    prefill_time,
    touched_experts,
)

PROBE, GUESS = "probe", "guess"
# What is measured lies within this factor of what a probe predicts: machines differ
# from one minute to the next by about a tenth, and the sum of costs from the whole.
MARGIN = 1.25
UNHIDDEN_SHARE = 0.25  # of the shorter of reading and multiplying, in prefill

# Share of memory bandwidth that decoding reaches, and of arithmetic that prefill does.
EFFICIENCY = Range(0.55, 0.65, 0.70)
ARITHMETIC = Range(0.25, 0.45, 0.70)
LAUNCH_SPREAD = Range(4.0, 1.0, 0.5)
SYNC_SPREAD = Range(2.5, 1.0, 0.66)
SSD_SHARE = Range(0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Workload:
    """Memory, disk and arithmetic that a token and a prompt need."""

    config: ModelConfig
    bits: BitsPerWeight
    active_bytes: float  # read from memory per token
    expert_bytes: float  # the experts' part of these
    active_weights: float  # multiplied per token
    weight_bytes: float  # of the model in memory
    record_bytes: int
    slots: Sequence[int]  # of each streamed layer
    chunk: int  # tokens per prefill step

    @property
    def experts(self) -> int:
        return self.config.num_local_experts

    @property
    def token_bytes(self) -> int:
        """Bytes of the experts of a token in one layer."""
        return self.config.num_experts_per_tok * self.record_bytes


@dataclass(frozen=True)
class Prediction:
    """Predicted speed of a plan behind a prompt.

    `terms` are expected milliseconds per token; `basis` is "probe" if the machine was
    measured, else "guess". A probe's bounds differ by at most a factor of 1.6, unless
    `guessed_hits`: hit rates of streamed experts that were not recorded.
    """

    tokens_per_second: Range
    first_token_seconds: Range
    hit_rate: Range
    prompt_tokens: int
    terms: Mapping[str, float]
    machine: Machine
    curve_source: str
    basis: str
    guessed_hits: bool = False


BOUNDS = ("low", "expected", "high")


def predict(
    work: Workload, machine: Machine, curve: HitCurve, *, prompt_tokens: int
) -> Prediction:
    """Apply the formulas of this module, with bounds."""
    bounds = {
        name: _terms(work, machine, curve, name, prompt_tokens) for name in BOUNDS
    }
    hits = Range(*(_hit_rate(work, curve, name) for name in BOUNDS))
    speeds = Range(*(1 / sum(bounds[name].values()) for name in BOUNDS))
    high, expected, low = (
        _first_token(work, machine, name, prompt_tokens) for name in BOUNDS
    )
    return Prediction(
        speeds,
        Range(low, expected, high),
        hits,
        prompt_tokens,
        {name: 1e3 * seconds for name, seconds in bounds["expected"].items()},
        machine,
        curve.source if work.slots else "all experts are resident",
        GUESS if machine.costs is None else PROBE,
        bool(work.slots) and curve.guessed,
    )


def _terms(
    work: Workload, machine: Machine, curve: HitCurve, bound: str, prompt: int
) -> dict[str, float]:
    """Return seconds per token by what takes them."""
    missed = [1 - getattr(curve.at(n / work.experts), bound) for n in work.slots]
    missed_bytes = sum(missed) * work.token_bytes
    if machine.costs is not None:
        step = decode_time(machine.costs, work.config, work.bits, prompt)
        k = work.config.num_experts_per_tok
        waits = sum(1 - (1 - rate) ** k for rate in missed) * machine.read_seconds
        terms = {
            "memory": step.products,
            "rest": step.attention + step.overhead,
            "sync": len(work.slots) * machine.sync_seconds,
            "disk": missed_bytes / machine.ssd + waits,
        }
        return {name: _doubted(x, MARGIN, bound) for name, x in terms.items()}
    read, multiplied = work.active_bytes, 0.0
    if machine.expert_rate is not None:
        read -= work.expert_bytes
        multiplied = work.expert_bytes / machine.expert_rate
    usual = "expected" if machine.doubt > 1 else bound  # what doubt covers
    memory = read / (getattr(EFFICIENCY, usual) * machine.bandwidth) + multiplied
    terms = {
        "memory": memory,
        "rest": max(0.0, _launches(work, machine, usual) - memory),
        "sync": len(work.slots) * machine.sync_seconds * getattr(SYNC_SPREAD, usual),
        "disk": missed_bytes / (machine.ssd * getattr(SSD_SHARE, usual)),
    }
    return {name: _doubted(x, machine.doubt, bound) for name, x in terms.items()}


def _doubted(seconds: float, factor: float, bound: str) -> float:
    return seconds * {"low": factor, "expected": 1.0, "high": 1 / factor}[bound]


def _launches(work: Workload, machine: Machine, bound: str) -> float:
    """Seconds in which a GPU is given, or a CPU starts, the operations of a pass."""
    layers = work.config.num_hidden_layers
    return layers * machine.layer_seconds * getattr(LAUNCH_SPREAD, bound)


def _hit_rate(work: Workload, curve: HitCurve, bound: str) -> float:
    rates = [getattr(curve.at(slots / work.experts), bound) for slots in work.slots]
    return sum(rates) / len(rates) if rates else 1.0


def _first_token(work: Workload, machine: Machine, bound: str, tokens: int) -> float:
    chunks = -(-tokens // work.chunk)
    touched = touched_experts(work.config, min(tokens, work.chunk))
    absent = sum(touched * (1 - slots / work.experts) for slots in work.slots)
    disk = chunks * absent * work.record_bytes / machine.ssd
    if machine.costs is not None:
        expected = _measured_first_token(work, machine, machine.costs, tokens, disk)
        return _doubted(expected, MARGIN, bound)
    usual = "expected" if machine.doubt > 1 else bound
    memory = chunks * work.weight_bytes / machine.bandwidth
    products = 2 * work.active_weights * tokens + _attention_flops(work, tokens)
    seconds = disk / getattr(SSD_SHARE, usual) + max(
        memory / getattr(EFFICIENCY, usual),
        products / (machine.flops * getattr(ARITHMETIC, usual)),
        chunks * _launches(work, machine, usual),
    )
    return _doubted(seconds, machine.doubt, bound)


def _measured_first_token(
    work: Workload, machine: Machine, costs: Costs, tokens: int, disk: float
) -> float:
    spent = prefill_time(costs, work.config, work.bits, tokens, work.chunk)
    streamed = spent.experts * len(work.slots) / work.config.num_hidden_layers
    hidden = (1 - UNHIDDEN_SHARE) * min(disk, streamed)
    waits = -(-tokens // work.chunk) * len(work.slots) * machine.sync_seconds
    return spent.total + disk - hidden + waits


def _attention_flops(work: Workload, tokens: int) -> float:
    pairs = prefill_pairs(work.config, tokens, work.chunk)
    return 4 * work.config.num_attention_heads * work.config.head_dim * pairs


def parameters_read(config: ModelConfig) -> float:
    """Count the weights that one token is multiplied with."""
    M, D = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    attention = M * D * (2 * heads + 2 * kv_heads)
    router = M * config.num_local_experts
    experts = 3 * M * config.intermediate_size * config.num_experts_per_tok
    layers = config.num_hidden_layers
    return layers * (attention + router + experts) + config.vocab_size * M
