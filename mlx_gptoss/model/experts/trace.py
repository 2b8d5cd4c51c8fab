"""Which experts a run chose, kept in a small file; and what caches would make of it.

    with recording(model) as recorder: ...           # any storage of experts
    save_trace(recorder.trace("gpt-oss-120b"), path)
    rates = hit_curve(open_trace(path), [8, 16, 32])

A trace is (tokens, layers, k) expert ids. Of a prompt's last chunk the top layer only
sees the last token: what a layer did not see is -1.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import write
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.gpt_oss import GptOss

NOT_SEEN = -1
VERSION = 1


@dataclass(frozen=True)
class RoutingTrace:
    """The routing of a run: `calls` are the tokens of each pass, 1 while decoding."""

    routing: np.ndarray  # (tokens, layers, k) int16
    calls: np.ndarray  # (passes,) int32; they sum up to the tokens
    experts: int
    model: str

    @property
    def layers(self) -> int:
        return self.routing.shape[1]

    @property
    def decoded(self) -> int:
        """How many tokens were read alone."""
        return int((self.calls == 1).sum())


class RecordingExperts(nn.Module):
    """Experts with somebody listening; evaluates what the router chose."""

    def __init__(self, experts: Experts, seen: list[np.ndarray]) -> None:
        super().__init__()
        self.experts = experts
        self._seen_by = lambda expert_indices: seen.append(
            np.array(expert_indices).astype(np.int16)
        )

    def __call__(
        self, x: mx.array, expert_indices: mx.array, expert_weights: mx.array
    ) -> mx.array:
        self._seen_by(expert_indices)
        return self.experts(x, expert_indices, expert_weights)


class Recorder:
    """What every layer chose, call by call."""

    def __init__(self, layers: int, experts: int) -> None:
        self.seen: list[list[np.ndarray]] = [[] for _ in range(layers)]
        self._experts = experts

    def trace(self, model: str) -> RoutingTrace:
        """Join the calls; layers that saw less of one are padded in front."""
        lengths = [max(map(len, rows)) for rows in zip(*self.seen, strict=True)]
        k = max((rows.shape[1] for rows in self.seen[0]), default=0)
        routing = np.full((sum(lengths), len(self.seen), k), NOT_SEEN, np.int16)
        for layer, calls in enumerate(self.seen):
            for end, rows in zip(np.cumsum(lengths), calls, strict=True):
                routing[end - len(rows) : end, layer] = rows
        return RoutingTrace(routing, np.array(lengths, np.int32), self._experts, model)


@contextmanager
def recording(model: GptOss) -> Iterator[Recorder]:
    """Listen to every layer of a model; it computes what it always does."""
    config = model.config
    recorder = Recorder(config.num_hidden_layers, config.num_local_experts)
    blocks = model.model.layers
    plain = [block.mlp.experts for block in blocks]
    try:
        for block, experts, seen in zip(blocks, plain, recorder.seen, strict=True):
            block.mlp.experts = RecordingExperts(experts, seen)  # pyright: ignore
        yield recorder
    finally:
        for block, experts in zip(blocks, plain, strict=True):
            block.mlp.experts = experts


def save_trace(trace: RoutingTrace, path: Path) -> Path:
    """Write a trace: about 300 bytes a token for the 120b."""
    about = {"version": str(VERSION), "experts": str(trace.experts)}
    about |= {"model": trace.model, "format": "mlx-gptoss routing trace"}
    tensors = {"routing": trace.routing, "calls": trace.calls}
    write(path, save(tensors, metadata=about), private=False)
    return path


def open_trace(path: Path) -> RoutingTrace:
    """Read a trace. Raises CheckpointError naming what is wrong with it."""
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            routing, calls = file.get_tensor("routing"), file.get_tensor("calls")
            experts = int(about["experts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"`{path}` is not a routing trace ({error}): record one with `mlx-gptoss "
            "trace record`"
        ) from error
    sound = (
        routing.ndim == 3
        and calls.sum() == len(routing)
        and routing.size > 0
        and routing.min() >= NOT_SEEN
        and routing.max() < experts
    )
    if not sound:
        raise CheckpointError(f"`{path}` is a damaged trace: record it again")
    return RoutingTrace(routing, calls, experts, about.get("model", ""))


LRU, LFU, IDEAL = "lru", "lfu", "ideal"
POLICIES = (LRU, LFU, IDEAL)


@dataclass(frozen=True)
class Replay:
    """What S slots would have made of a trace, while decoding."""

    slots: int
    policy: str
    hits: int
    lookups: int
    by_layer: tuple[float, ...]

    @property
    def hit_rate(self) -> float:
        return self.hits / self.lookups if self.lookups else 1.0


def replay(trace: RoutingTrace, slots: int, policy: str = LRU) -> Replay:
    """Replay every layer with `slots` slots; prompts fill them and are not counted.

    `lru` is what this program does; `lfu` drops what was used least often, `ideal`
    what is needed again last, which no program can know.
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
        sum(asked for _, asked in found),
        tuple(hits / asked if asked else 1.0 for hits, asked in found),
    )


def hit_curve(
    trace: RoutingTrace, slots: Sequence[int], policy: str = LRU
) -> Mapping[float, float]:
    """Return the hit rate by the share of the experts that is in slots."""
    return {n / trace.experts: replay(trace, n, policy).hit_rate for n in slots}


def layers_by_hit_rate(trace: RoutingTrace, slots: int) -> tuple[int, ...]:
    """Order the layers by their hit rate, the worst first: best kept resident."""
    rates = replay(trace, slots).by_layer
    return tuple(sorted(range(trace.layers), key=lambda layer: rates[layer]))


def _replay_layer(
    trace: RoutingTrace, layer: int, slots: int, policy: str
) -> tuple[int, int]:
    """Return hits and questions of one layer's decoded tokens."""
    passes = _passes(trace, layer)
    uses = _uses(passes) if policy == IDEAL else {}
    held: dict[int, int] = {}  # expert -> its rank, in the order of use
    counts: dict[int, int] = {}
    hits = asked = 0
    for now, (experts, counted) in enumerate(passes):
        keep = experts if len(experts) <= slots else ()
        # As a run does it: those that are here first, then the others.
        here = [e for e in experts if e in held]
        absent = [e for e in experts if e not in held]
        if counted:
            asked, hits = asked + len(experts), hits + len(here)
        for expert in here + absent:
            counts[expert] = counts.get(expert, 0) + 1
            if expert in held:
                del held[expert]
            elif len(held) >= slots:
                victims = (e for e in held if e not in keep)
                first = next if policy == LRU else partial(min, key=held.__getitem__)
                del held[first(victims)]
            if policy == IDEAL:
                held[expert] = -_next_use(uses[expert], now)
            else:
                held[expert] = counts[expert]
    return hits, asked


def _passes(trace: RoutingTrace, layer: int) -> list[tuple[list[int], bool]]:
    """List the distinct experts of every pass, and whether it counts.

    Those of a prompt come by their last use, those of one token by number.
    """
    passes, start = [], 0
    for count in trace.calls.tolist():
        rows = trace.routing[start : start + count, layer]
        start += count
        chosen = rows[rows != NOT_SEEN].tolist()
        last = {expert: place for place, expert in enumerate(chosen)}
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
