"""Write the model card of a converted folder: recipe, sizes, source and losses.

The same plan gives the same card: it has no dates, paths or names of recipe files.
Knows plans and journals; reads no weights.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping

from mlx_gptoss import __version__
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.plan.parts import sizes_by_part
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.plan.recipe import (
    EXPERT_ERRORS,
    RECIPES,
    Recipe,
    bits_per_weight,
)
from mlx_gptoss_convert.steps.codecs import describe_setting
from mlx_gptoss_convert.steps.encode import DecodeExperts, Encode
from mlx_gptoss_convert.steps.merged import merged_rows
from mlx_gptoss_convert.write.journal import Journal

CARD = "README.md"
FRONT_MATTER = """---
library_name: {library}
pipeline_tag: {task}
tags:
- {library}
- {tag}
---
"""
TITLE = """# {title}, converted for {name}

Made by mlx_gptoss {version}. `conversion.json` holds the sha256 of every tensor
here and of the bytes it was made from.
"""
HOW_TO_RUN = """## How to run it

    {command}

{others}
"""
OUTPUTS = {  # by `ConversionPlan.to`
    "mlx": {
        "library": "mlx",
        "name": "MLX",
        "command": "mlx-gptoss chat -m ./THIS_FOLDER",
        "others": "mlx-lm opens the folder too.",
    },
    "hf": {
        "library": "transformers",
        "name": "Hugging Face's layout",
        "command": "transformers chat ./THIS_FOLDER",
        "others": "Tensor names and packing are those of the published checkpoints.",
    },
    "gguf": {
        "library": "gguf",
        "name": "llama.cpp",
        "command": "llama-cli -m ./THIS_FOLDER/model.gguf",
        "others": "The tokenizer is inside the file.",
    },
}
MODEL = {"title": "gpt-oss", "tag": "gpt_oss", "task": "text-generation"}
CLASSIFIER = {
    "title": "A token classifier",
    "tag": "openai_privacy_filter",
    "task": "token-classification",
    "command": "mlx-gptoss redact -m ./THIS_FOLDER",
    "others": "mlx-embeddings opens the folder too.",
}


def model_card(plan: ConversionPlan, journal: Journal) -> str:
    """Return the README.md of the result: how it was made, its sizes and losses."""
    lossy = {k: v for e in journal.done.values() for k, v in e.lossy_blocks.items()}
    own = CLASSIFIER if plan.labels else MODEL
    words = {**OUTPUTS[plan.to], **own, "version": __version__}
    sections = (
        FRONT_MATTER.format(**words),
        TITLE.format(**words),
        *adapter_text(plan),
        recipe_text(plan.recipe),
        sizes_table(plan),
        experts_text(plan, lossy),
        source_text(plan),
        HOW_TO_RUN.format(**words),
    )
    return "\n".join(sections) + plan.appendix


def adapter_text(plan: ConversionPlan) -> Iterator[str]:
    """Describe the adapter that was merged, if any: its model, scale and training."""
    adapter = plan.identity.get("adapter")
    if adapter is None:
        return
    base = f"`{adapter['base']}`" if adapter["base"] else "a model it does not name"
    yield (
        f"Merged: an adapter ({adapter['layout']}, rank {adapter['rank']}, "
        f"{adapter['matrices']} matrices) that was trained on {base}, with the scale "
        f"{adapter['scale']:g}; digest of its updates and model "
        f"`{adapter['digest']}`.\n"
    )
    if adapter["training"]:
        facts = (f"- {key}: {value}" for key, value in adapter["training"].items())
        yield "How it was trained:\n\n" + "\n".join(facts) + "\n"


def recipe_text(recipe: Recipe) -> str:
    """Name a built-in recipe, and describe every kind's setting."""
    known = (x for x in RECIPES.values() if x.settings == recipe.settings)
    name = next((f"`{found.name}`" for found in known), "custom")
    kinds = ", ".join(
        f"{kind} {describe_recipe_setting(setting)}"
        for kind, setting in recipe.settings.items()
    )
    return f"Recipe: {name} ({kinds}).\n"


def describe_recipe_setting(setting: Quantization | None) -> str:
    if setting is None:
        return "unchanged"
    if setting.mode != "affine":
        return setting.mode
    return f"{setting.bits} bits in groups of {setting.group_size}"


def sizes_table(plan: ConversionPlan) -> str:
    rows = ["| part | before | after | how |", "|---|---:|---:|---|"]
    sizes = sizes_by_part(plan)
    rows += [
        f"| {part} | {format_bytes(size.bytes_before)} | "
        f"{format_bytes(size.bytes_after)} | {'; '.join(size.operations)} |"
        for part, size in sizes.items()
    ]
    before = sum(size.bytes_before for size in sizes.values())
    rows.append(f"| all | {format_bytes(before)} | {format_bytes(plan.nbytes)} | |")
    return "\n".join(rows) + "\n"


def experts_text(plan: ConversionPlan, lossy: Mapping[str, int]) -> str:
    """Describe what became of the experts."""
    encoded = [step for step in plan.steps if isinstance(step, Encode)]
    decoded = [step for step in plan.steps if isinstance(step, DecodeExperts)]
    if decoded:
        dtype = decoded[0].outputs[0].dtype.lower()
        return f"Experts of {len(decoded)} matrices are dense, as {dtype}.\n"
    if not encoded:
        order = ", in ggml's order" if plan.to == "gguf" else ""
        return (
            f"The experts have the bytes of the source{order}; nothing was changed.\n"
        )
    first = encoded[0]
    before = first.source_setting
    found = "dense" if before is None else describe_setting(before)
    if merged_rows(first.sources[0]):
        found = "merged in float32"
    if first.setting != MXFP4:
        return f"The experts were {found}. {cost_of_experts(first.setting)}\n"
    blocks = sum(step.block_count for step in encoded)
    count = sum(lossy.values())
    return (
        f"The experts were {found} and are now MXFP4: {count} of {blocks} blocks of 32 "
        f"values ({count / blocks:.2%}) could not be kept exactly.\n"
    )


def cost_of_experts(setting: Quantization) -> str:
    """Describe the size and error of affine experts."""
    error = EXPERT_ERRORS[setting.bits]
    return (
        f"They are now affine with {setting.bits} bits, {bits_per_weight(setting):g} "
        f"bits per weight in all where MXFP4 takes {bits_per_weight(MXFP4):g}, and "
        "differ from the trained weights: about "
        f"{error:.0%} relative rms error on MXFP4."
    )


def source_text(plan: ConversionPlan) -> str:
    """Identify the source by a digest of its entry in `conversion.json`."""
    source = plan.identity["source"]
    text = json.dumps(source, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    count = len(source["files"])
    return (
        f"Source: {count} file{'s' if count > 1 else ''} in the layout "
        f"`{source['layout']}`, digest of names, sizes and headers `{digest}`; the "
        "digests of its tensors are in `conversion.json`.\n"
    )
