"""Record which experts a run uses, and store it in a small file.

    with recording(model) as recorder: ...           # any storage of experts
    save_trace(recorder.trace("gpt-oss-120b"), path)

A trace is (tokens, layers, T) expert indices. In the last chunk of a prompt the top
layer sees only the last token; what a layer did not see is -1. `replay` computes hit
rates from a trace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import write
from mlx_gptoss.model.adapters.experts import ExpertUpdates
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.gpt_oss import GptOss

NOT_SEEN = -1
VERSION = 1


@dataclass(frozen=True)
class RoutingTrace:
    """The routing of a run; `calls` are the tokens of each pass, 1 in a decode step."""

    routing: np.ndarray  # (tokens, layers, T) int16
    calls: np.ndarray  # (passes,) int32; sums to the number of tokens
    experts: int
    model: str

    @property
    def layers(self) -> int:
        return self.routing.shape[1]

    @property
    def decoded(self) -> int:
        """Number of tokens that had a pass of their own."""
        return int((self.calls == 1).sum())


class RecordingExperts(nn.Module):
    """Experts that record the indices they are given; evaluates those."""

    def __init__(self, experts: Experts, seen: list[np.ndarray]) -> None:
        super().__init__()
        self.experts = experts
        self._record = lambda expert_indices: seen.append(
            np.array(expert_indices).astype(np.int16)
        )

    def __call__(
        self,
        x: mx.array,
        expert_indices: mx.array,
        expert_weights: mx.array,
        updates: ExpertUpdates | None = None,
    ) -> mx.array:
        self._record(expert_indices)
        return self.experts(x, expert_indices, expert_weights, updates)


class Recorder:
    """The expert indices of every layer, call by call."""

    def __init__(self, layers: int, experts: int) -> None:
        self.seen: list[list[np.ndarray]] = [[] for _ in range(layers)]
        self._experts = experts

    def trace(self, model: str) -> RoutingTrace:
        """Join the calls; where a layer saw fewer tokens, pad in front."""
        lengths = [max(map(len, rows)) for rows in zip(*self.seen, strict=True)]
        k = max((rows.shape[1] for rows in self.seen[0]), default=0)
        routing = np.full((sum(lengths), len(self.seen), k), NOT_SEEN, np.int16)
        for layer, calls in enumerate(self.seen):
            for end, rows in zip(np.cumsum(lengths), calls, strict=True):
                routing[end - len(rows) : end, layer] = rows
        return RoutingTrace(routing, np.array(lengths, np.int32), self._experts, model)


@contextmanager
def recording(model: GptOss) -> Iterator[Recorder]:
    """Record every layer of a model; results are unchanged."""
    config = model.config
    recorder = Recorder(config.num_hidden_layers, config.num_local_experts)
    blocks = model.model.layers
    original = [block.mlp.experts for block in blocks]
    try:
        for block, experts, seen in zip(blocks, original, recorder.seen, strict=True):
            block.mlp.experts = RecordingExperts(experts, seen)  # pyright: ignore
        yield recorder
    finally:
        for block, experts in zip(blocks, original, strict=True):
            block.mlp.experts = experts


def save_trace(trace: RoutingTrace, path: Path) -> Path:
    """Write a trace: about 300 bytes per token for the 120b. Raises StorageError."""
    metadata = {"version": str(VERSION), "experts": str(trace.experts)}
    metadata |= {"model": trace.model, "format": "mlx-gptoss routing trace"}
    tensors = {"routing": trace.routing, "calls": trace.calls}
    write(path, save(tensors, metadata=metadata), private=False)
    return path


def open_trace(path: Path) -> RoutingTrace:
    """Read a trace. Raises CheckpointError if it is missing, damaged or no trace."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            routing, calls = file.get_tensor("routing"), file.get_tensor("calls")
            experts = int(metadata["experts"])
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
    return RoutingTrace(routing, calls, experts, metadata.get("model", ""))
