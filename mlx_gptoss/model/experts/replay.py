"""Replay a routing trace with any number of slots, to predict hit rates.

    rates = hit_curve(open_trace(path), [8, 16, 32])

Only decode steps are counted; prompts fill the slots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.model.experts.trace import NOT_SEEN, RoutingTrace

LRU, LFU, IDEAL = "lru", "lfu", "ideal"
POLICIES = (LRU, LFU, IDEAL)


@dataclass(frozen=True)
class Replay:
    """Hits and lookups of S slots per layer in the decode steps of a trace."""

    slots: int
    policy: str
    hits: int
    lookups: int
    by_layer: tuple[float, ...]

    @property
    def hit_rate(self) -> float:
        return self.hits / self.lookups if self.lookups else 1.0


def replay(trace: RoutingTrace, slots: int, policy: str = LRU) -> Replay:
    """Replay every layer with `slots` slots; prompts fill them but are not counted.

    `lru` is the policy of `Slots`; `lfu` evicts the least frequently used expert,
    `ideal` the one whose next use is furthest away, which needs the future. Raises
    CheckpointError for an unknown policy or too few slots.
    """
    if policy not in POLICIES:
        raise CheckpointError(
            f"policy `{policy}` is unknown: use {', '.join(POLICIES)}"
        )
    if slots < trace.routing.shape[2]:
        raise CheckpointError(
            f"{slots} slots cannot hold the {trace.routing.shape[2]} experts of a token"
        )
    found = [
        _replay_layer(trace, layer, slots, policy) for layer in range(trace.layers)
    ]
    return Replay(
        slots,
        policy,
        sum(hits for hits, _ in found),
        sum(lookups for _, lookups in found),
        tuple(hits / lookups if lookups else 1.0 for hits, lookups in found),
    )


def hit_curve(
    trace: RoutingTrace, slots: Sequence[int], policy: str = LRU
) -> Mapping[float, float]:
    """Return the hit rate by the share of experts that have a slot."""
    return {n / trace.experts: replay(trace, n, policy).hit_rate for n in slots}


def layers_by_hit_rate(trace: RoutingTrace, slots: int) -> tuple[int, ...]:
    """Order the layers by hit rate, lowest first: the best ones to keep resident."""
    rates = replay(trace, slots).by_layer
    return tuple(sorted(range(trace.layers), key=lambda layer: rates[layer]))


def _replay_layer(
    trace: RoutingTrace, layer: int, slots: int, policy: str
) -> tuple[int, int]:
    """Return hits and lookups of one layer in decode steps."""
    passes = _passes(trace, layer)
    uses = _uses(passes) if policy == IDEAL else {}
    cached: dict[int, int] = {}  # expert -> eviction rank, in the order of use
    counts: dict[int, int] = {}
    hits = lookups = 0
    for now, (experts, counted) in enumerate(passes):
        keep = experts if len(experts) <= slots else ()
        # As in a run: cached experts first, then the others.
        present = [e for e in experts if e in cached]
        absent = [e for e in experts if e not in cached]
        if counted:
            lookups, hits = lookups + len(experts), hits + len(present)
        for expert in present + absent:
            counts[expert] = counts.get(expert, 0) + 1
            if expert in cached:
                del cached[expert]
            elif len(cached) >= slots:
                victims = (e for e in cached if e not in keep)
                first = next if policy == LRU else partial(min, key=cached.__getitem__)
                del cached[first(victims)]
            if policy == IDEAL:
                cached[expert] = -_next_use(uses[expert], now)
            else:
                cached[expert] = counts[expert]
    return hits, lookups


def _passes(trace: RoutingTrace, layer: int) -> list[tuple[list[int], bool]]:
    """Return the distinct experts of every pass, and whether it is a decode step.

    The experts of a prompt are ordered by last use, those of one token by number.
    """
    passes, start = [], 0
    for count in trace.calls.tolist():
        rows = trace.routing[start : start + count, layer]
        start += count
        experts = rows[rows != NOT_SEEN].tolist()
        last = {expert: n for n, expert in enumerate(experts)}
        order = sorted(last) if count == 1 else sorted(last, key=last.__getitem__)
        passes.append((order, count == 1))
    return passes


def _uses(passes: list[tuple[list[int], bool]]) -> dict[int, list[int]]:
    uses: dict[int, list[int]] = {}
    for now, (experts, _) in enumerate(passes):
        for expert in experts:
            uses.setdefault(expert, []).append(now)
    return uses


def _next_use(uses: list[int], now: int) -> int:
    return next((use for use in uses if use > now), 1 << 40)
