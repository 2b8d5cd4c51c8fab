"""What a conversion did, in numbers and in words: sizes by part and the model card.

Knows plans and journals; reads no weights.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss import __version__
from mlx_gptoss.checkpoint.parameters import part_of
from mlx_gptoss.layout import PARTS
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.journal import Journal
from mlx_gptoss_convert.plan import Plan
from mlx_gptoss_convert.steps import Encode

CARD = "README.md"


@dataclass
class PartSize:
    """One part of the model: bytes before and after, and what was done to it."""

    bytes_before: int = 0
    bytes_after: int = 0
    fates: tuple[str, ...] = ()


def sizes_by_part(plan: Plan) -> dict[str, PartSize]:
    """Add up the plan by embedding, attention, router, experts, norms and lm_head."""
    sizes: dict[str, PartSize] = defaultdict(PartSize)
    for step in plan.steps:
        size = sizes[part_of(step.sources[0].name)]
        size.bytes_before += sum(stored.nbytes for stored in step.sources)
        size.bytes_after += sum(tensor.nbytes for tensor in step.outputs)
        if step.fate not in size.fates:
            size.fates += (step.fate,)
    return {part: sizes[part] for part in PARTS}


def model_card(plan: Plan, journal: Journal) -> str:
    """Write the result's README.md: how it was made, its sizes, what was lost."""
    lossy = {k: v for e in journal.done.values() for k, v in e.lossy_blocks.items()}
    sections = (
        FRONT_MATTER,
        TITLE,
        sizes_table(plan),
        experts_text(plan, lossy),
        HOW_TO_RUN,
    )
    return "\n".join(sections)


FRONT_MATTER = """---
library_name: mlx
pipeline_tag: text-generation
tags:
- mlx
- gpt_oss
---
"""
TITLE = f"""# gpt-oss, converted for MLX

Made by mlx_gptoss {__version__}. `conversion.json` holds the sha256 of every tensor
here and of the bytes it was made of.
"""
HOW_TO_RUN = """## How to run it

    mlx-gptoss chat -m ./THIS_FOLDER

mlx-lm opens the folder too.
"""


def sizes_table(plan: Plan) -> str:
    rows = ["| part | before | after | how |", "|---|---:|---:|---|"]
    sizes = sizes_by_part(plan)
    rows += [
        f"| {part} | {format_bytes(size.bytes_before)} | "
        f"{format_bytes(size.bytes_after)} | {'; '.join(size.fates)} |"
        for part, size in sizes.items()
    ]
    before = sum(size.bytes_before for size in sizes.values())
    rows.append(f"| all | {format_bytes(before)} | {format_bytes(plan.nbytes)} | |")
    return "\n".join(rows) + "\n"


def experts_text(plan: Plan, lossy: Mapping[str, int]) -> str:
    """Say in words whether the experts are what they were."""
    encoded = [step for step in plan.steps if isinstance(step, Encode)]
    if not encoded:
        return "The bytes of the experts are those of the source, none was changed.\n"
    blocks = sum(
        tensor.nbytes for step in encoded for tensor in step.outputs[1::2]
    )  # one byte of scale a block
    count = sum(lossy.values())
    return (
        f"The experts were dense and are now MXFP4: {count} of {blocks} blocks of 32 "
        f"values ({count / blocks:.2%}) could not be kept exactly.\n"
    )
