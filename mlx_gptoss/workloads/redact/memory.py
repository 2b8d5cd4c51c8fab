"""The memory that a classifier takes: its weights, and one chunk's values."""

from dataclasses import dataclass

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Budget, device_budget, format_bytes
from mlx_gptoss.memory.sizes import PROCESS_BYTES

PASS_TOKENS = 8192  # most tokens of a pass: a chunk, and what is around it
VALUES = 6  # copies of a token's values that are held at once, measured generously


@dataclass(frozen=True)
class ClassifierPlan:
    """Bytes of the weights by part, of the values of a pass, and what there is."""

    bytes_by_part: dict[str, int]
    scratch_bytes: int
    budget: Budget

    @property
    def weight_bytes(self) -> int:
        return sum(self.bytes_by_part.values())

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.scratch_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget.bytes


def plan_classifier(
    checkpoint: Checkpoint, options: LoadOptions, budget: Budget | None = None
) -> ClassifierPlan:
    """Plan a classifier from its headers; `budget` is by default this device's."""
    parts = checkpoint.loaded_bytes_by_part(options.compute_dtype.size)
    return plan_sizes(checkpoint.config, parts, options, budget)


def plan_sizes(
    config: ModelConfig,
    bytes_by_part: dict[str, int],
    options: LoadOptions,
    budget: Budget | None = None,
) -> ClassifierPlan:
    """Plan a classifier from the sizes of its weights in memory."""
    size = options.compute_dtype.size
    attention = config.num_attention_heads + 2 * config.num_key_value_heads
    experts = config.num_experts_per_tok * 3 * config.intermediate_size
    widths = attention * config.head_dim + experts + VALUES * config.hidden_size
    return ClassifierPlan(
        bytes_by_part,
        PROCESS_BYTES + PASS_TOKENS * widths * max(size, 4),
        budget or device_budget(options.memory),
    )


def require_memory(checkpoint: Checkpoint, options: LoadOptions) -> None:
    """Raise MemoryBudgetError if a classifier does not fit."""
    plan = plan_classifier(checkpoint, options)
    if not plan.fits:
        raise MemoryBudgetError(
            f"`{checkpoint.folder}` takes {format_bytes(plan.weight_bytes)} and "
            f"{format_bytes(plan.scratch_bytes)} to compute with, but there are "
            f"{format_bytes(plan.budget.bytes)} ({plan.budget.source}): close other "
            "programs, or convert it with `mlx-gptoss convert`"
        )
