"""Plan the way back: Hugging Face's layout, with MXFP4 experts.

From a lossless folder the tensors are the source's, byte for byte; what a recipe had
quantized is decoded to bfloat16.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import EXPERTS, HF, Matrix, matrices, vectors
from mlx_gptoss_convert.plan.plan import FORMAT, Plan, converter, describe_source
from mlx_gptoss_convert.plan.recipe import RECIPES, Recipe
from mlx_gptoss_convert.plan.rules import (
    AFTER_LAYERS,
    Target,
    copies,
    expert_steps,
    layer_of,
)
from mlx_gptoss_convert.read.companions import SmallFiles, config_json, small_files
from mlx_gptoss_convert.steps.gguf import Recast
from mlx_gptoss_convert.steps.quantize import ENCODED_KINDS, Step
from mlx_gptoss_convert.write.writer import INDEX, SHARD_BYTES, index_json, plan_shards

RECIPE = RECIPES["lossless"]
NOT_CONVERTED = (
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
)


def make_hf_plan(
    checkpoint: Checkpoint,
    recipe: Recipe = RECIPE,
    *,
    files: SmallFiles | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Plan the conversion of any checkpoint to Hugging Face's MXFP4 layout.

    Of the recipe only what it says of the experts counts; the rest is dense there.
    Raises ConversionError for affine experts, which that layout cannot hold.
    """
    refuse_affine(checkpoint, recipe, "Hugging Face's layout")
    target = Target(checkpoint, replace(RECIPE, experts=recipe.experts), HF)
    steps = tuple(hf_steps(target))
    bundles = (step.outputs for step in steps)
    shards = plan_shards(bundles, shard_bytes, framework="pt")
    files = small_files(checkpoint.folder) if files is None else files
    return Plan(
        recipe=target.recipe,
        steps=steps,
        shards=shards,
        quantization={},
        texts={
            **files.texts,
            "config.json": hf_config(checkpoint),
            INDEX: index_json(shards).encode(),
        },
        companions=files.copied,
        identity={
            "format": FORMAT,
            "converter": converter(),
            "to": "hf",
            "source": describe_source(checkpoint),
        },
        files=checkpoint.files,
        to="hf",
    )


def refuse_affine(checkpoint: Checkpoint, recipe: Recipe, where: str) -> None:
    """Refuse experts that would be affine in a layout that has MXFP4 only."""
    for path, found in checkpoint.structure.quantization.items():
        if ".experts." not in path:
            continue
        setting = recipe.expert_setting(found)
        if setting.mode != MXFP4.mode:
            raise ConversionError(
                f"`{path}` would be affine in {setting.bits} bits, {where} holds "
                "experts as MXFP4 only: convert the checkpoint this one was made of, "
                "or give `--expert-format mxfp4`"
            )


def hf_steps(target: Target) -> Iterator[Step]:
    """List every step, layer by layer, then what is in no layer."""
    config = target.checkpoint.config
    chosen = list(matrices(config, HF.experts))
    outputs = {matrix.path: matrix for matrix in chosen}
    for layer in (*range(config.num_hidden_layers), AFTER_LAYERS):
        if layer != AFTER_LAYERS:
            yield from expert_steps(target, layer, outputs)
        for matrix in chosen:
            if matrix.part != EXPERTS and layer_of(matrix.path) == layer:
                yield from dense_steps(target, matrix)
        for vector in vectors(config):
            if layer_of(vector.name) == layer:
                yield target.copy(vector.name)


def dense_steps(target: Target, matrix: Matrix) -> Iterator[Step]:
    """Plan a matrix outside the experts as dense floats."""
    name, found = f"{matrix.path}.weight", target.setting_of(matrix.path)
    if found is None:
        yield target.copy(name)
    else:
        sources = packed_sources(target, matrix.path, found)
        output = target.output(name, "BF16", matrix.shape)
        yield Recast(sources, (output,), "BF16", found)
    yield from copies(target, matrix.path, ("bias",))


def packed_sources(target: Target, path: str, found: Quantization) -> tuple[Any, ...]:
    kinds = ENCODED_KINDS[found.mode]
    return tuple(target.stored(f"{path}.{kind}") for kind in kinds)


def hf_config(checkpoint: Checkpoint) -> bytes:
    raw = json.loads(config_json(checkpoint, {}))
    del raw["quantization"]
    raw["quantization_config"] = {
        "modules_to_not_convert": list(NOT_CONVERTED),
        "quant_method": "mxfp4",
    }
    return (json.dumps(dict(sorted(raw.items())), indent=2) + "\n").encode()
