"""Sizes of a conversion by part of the model."""

from collections import defaultdict
from dataclasses import dataclass

from mlx_gptoss.checkpoint.parameters import part_of
from mlx_gptoss.format.layout import PARTS
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.steps.merged import bytes_in_files, describe_step


@dataclass
class PartSize:
    """One part of the model: bytes before and after, and the operations on it."""

    bytes_before: int = 0
    bytes_after: int = 0
    operations: tuple[str, ...] = ()


def sizes_by_part(plan: ConversionPlan) -> dict[str, PartSize]:
    """Sum a plan by embedding, attention, router, experts, norms and lm_head."""
    sizes: dict[str, PartSize] = defaultdict(PartSize)
    for step in plan.steps:
        size = sizes[part_of(step.sources[0].name)]
        size.bytes_before += sum(map(bytes_in_files, step.sources))
        size.bytes_after += sum(tensor.nbytes for tensor in step.outputs)
        operation = describe_step(step)
        if operation not in size.operations:
            size.operations += (operation,)
    return {part: sizes[part] for part in PARTS}
