"""Check on a checkpoint that resident, hybrid and streamed experts are one model.

The same tokens are prefilled and decoded with every kind of storage, and the logits
compared bit for bit. On a GPU long prompts use other kernels, which round differently:
there decode steps must be equal, and prompts equal within a tolerance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import load_planned, plan_checkpoint
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.memory import Plan, device_budget
from mlx_gptoss.memory.plan import HYBRID, RESIDENT, STREAMED, with_slots
from mlx_gptoss.model.device import choose_dtype, on_gpu

PROMPT_TOKENS, DECODED_TOKENS = 48, 8
CONTEXT = 256
# Two orders of summation, for logits of size about 10 in bfloat16.
PROMPT_TOLERANCE = 0.25


@dataclass(frozen=True)
class StorageComparison:
    """The largest differences in logits between one storage and the first."""

    name: str
    prompt_difference: float
    decode_difference: float
    hit_rate: float
    on_gpu: bool

    @property
    def equal(self) -> bool:
        allowed = PROMPT_TOLERANCE if self.on_gpu else 0.0
        return self.prompt_difference <= allowed and self.decode_difference == 0.0


def compare_modes(
    folder: Path,
    *,
    memory: str | int | None = None,
    in_place: bool | None = None,
    progress: ReportProgress = ignore_progress,
) -> list[StorageComparison]:
    """Run a checkpoint with every storage that fits, one after the other.

    Peak memory: that of the largest. Raises ConfigError if the experts cannot be
    streamed, and MemoryBudgetError if fewer than two storages fit.
    """
    checkpoint = open_checkpoint(folder)
    expert_records(checkpoint)
    vocabulary = checkpoint.config.vocab_size
    prompt = [(31 * n + 7) % vocabulary for n in range(PROMPT_TOKENS)]
    first: Sequence[mx.array] | None = None
    decoded: list[int] = []
    found = []
    for name, plan in plan_storages(checkpoint, memory):
        progress(f"running {name}")
        logits, tokens, hit_rate = run_storage(
            checkpoint, plan, prompt, decoded, in_place=in_place
        )
        if first is None:
            first, decoded = logits, tokens
        prompted, stepped = (
            max_difference(a, b) for a, b in zip(first, logits, strict=True)
        )
        found.append(StorageComparison(name, prompted, stepped, hit_rate, on_gpu()))
    return found


def plan_storages(
    checkpoint: Checkpoint, memory: str | int | None
) -> Iterator[tuple[str, Plan]]:
    """Yield the storages to compare: resident first if it fits, then fewer slots."""
    config, budget = checkpoint.config, device_budget(memory)
    E, k, layers = (
        config.num_local_experts,
        config.num_experts_per_tok,
        config.num_hidden_layers,
    )
    whole, base = (
        plan_checkpoint(
            checkpoint, LoadOptions(experts=experts, context=CONTEXT), budget=budget
        )
        for experts in (RESIDENT, STREAMED)
    )
    plans = {"resident": whole}
    every = range(layers)
    for slots in sorted({E, (E + k) // 2, k}, reverse=True):
        plans[f"streamed, {slots} of {E} slots"] = with_slots(
            base, config, dict.fromkeys(every, slots), STREAMED
        )
    half = {layer: k for layer in every if layer % 2}
    if half:
        plans["hybrid, every other layer"] = with_slots(base, config, half, HYBRID)
    fitting = {name: plan for name, plan in plans.items() if plan.fits}
    if len(fitting) < 2:
        raise MemoryBudgetError(
            f"no two ways to store the experts of `{checkpoint.folder}` fit "
            f"{budget.bytes / 1e9:.1f} GB ({budget.source}): give it more memory"
        )
    yield from fitting.items()


def run_storage(
    checkpoint: Checkpoint,
    plan: Plan,
    prompt: list[int],
    decoded: Sequence[int],
    *,
    in_place: bool | None = None,
) -> tuple[Sequence[mx.array], list[int], float]:
    """Prefill a prompt, decode `decoded` or greedily: logits, tokens, hit rate."""
    model, storage = load_planned(
        checkpoint, plan, dtype=choose_dtype(None), in_place=in_place
    )
    try:
        cache = model.make_cache()
        logits = model(mx.array([prompt]), cache)[0]
        rows, tokens = [logits[-1]], list(decoded)
        mx.eval(logits)
        for n in range(DECODED_TOKENS):
            if len(tokens) <= n:
                tokens.append(int(mx.argmax(rows[-1]).item()))  # pyright: ignore
            rows.append(model(mx.array([[tokens[n]]]), cache)[0, -1])
            mx.eval(rows)
        hit_rate = storage.statistics().total.hit_rate if storage else 1.0
        return (logits, mx.stack(rows[1:])), tokens, hit_rate
    finally:
        if storage is not None:
            storage.close()
        del model
        mx.clear_cache()


def max_difference(a: mx.array, b: mx.array) -> float:
    """Return the largest absolute difference; infinity if there is a NaN."""
    difference = float(mx.max(mx.abs(a - b)).item())  # pyright: ignore
    return difference if difference == difference else float("inf")
