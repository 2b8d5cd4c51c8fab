"""Plan conversions to Hugging Face's layout, with MXFP4 experts.

From a lossless folder, the tensors are those of its source byte for byte; quantized
matrices are decoded to bfloat16.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.file_names import INDEX
from mlx_gptoss.format.layout import DENSE, EXPERTS, HF, Matrix, matrices, vectors
from mlx_gptoss_convert.plan.builder import (
    AFTER_LAYERS,
    StepBuilder,
    copy_steps,
    layer_of,
)
from mlx_gptoss_convert.plan.config_json import config_json
from mlx_gptoss_convert.plan.expert_rules import expert_steps
from mlx_gptoss_convert.plan.plan import (
    FORMAT,
    ConversionPlan,
    converter_version,
    describe_source,
)
from mlx_gptoss_convert.plan.recipe import RECIPES, Recipe
from mlx_gptoss_convert.plan.shards import SHARD_BYTES, index_json, plan_shards
from mlx_gptoss_convert.read.companions import CompanionFiles, companion_files
from mlx_gptoss_convert.steps.codecs import ENCODED_KINDS
from mlx_gptoss_convert.steps.gguf import Reencode
from mlx_gptoss_convert.steps.step import TensorStep

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
    keeps_dense: bool = False,
    files: CompanionFiles | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ConversionPlan:
    """Plan the conversion of any checkpoint to Hugging Face's MXFP4 layout.

    Only the recipe's setting of experts applies; everything else becomes dense. With
    `keeps_dense` all experts do, too, as transformers saves them. Raises
    ConversionError for affine experts, which this layout does not have.
    """
    if not keeps_dense:
        refuse_affine_experts(checkpoint, recipe, "Hugging Face's layout")
    builder = StepBuilder(
        checkpoint,
        replace(RECIPE, experts=recipe.experts),
        DENSE if keeps_dense else HF,
    )
    steps = tuple(hf_steps(builder))
    bundles = (step.outputs for step in steps)
    shards = plan_shards(bundles, shard_bytes, framework="pt")
    files = companion_files(checkpoint.folder) if files is None else files
    return ConversionPlan(
        recipe=builder.recipe,
        steps=steps,
        shards=shards,
        quantization={},
        texts={
            **files.texts,
            "config.json": hf_config(checkpoint, packed=not keeps_dense),
            INDEX: index_json(shards).encode(),
        },
        companions=files.copied,
        identity={
            "format": FORMAT,
            "converter": converter_version(),
            "to": "hf",
            "source": describe_source(checkpoint),
        },
        files=checkpoint.files,
        to="hf",
    )


def refuse_affine_experts(checkpoint: Checkpoint, recipe: Recipe, where: str) -> None:
    """Raise ConversionError for experts that would be affine where only MXFP4 fits."""
    for path, found in checkpoint.structure.quantization.items():
        if ".experts." not in path:
            continue
        setting = recipe.expert_setting(found)
        if setting.mode != MXFP4.mode:
            raise ConversionError(
                f"`{path}` would be {setting.mode} in {setting.bits} bits, {where} "
                "holds experts as MXFP4 only: convert the checkpoint this one was made "
                "from, or give `--expert-format mxfp4`"
            )


def hf_steps(builder: StepBuilder) -> Iterator[TensorStep]:
    """Yield every step: layer by layer, then the other tensors."""
    config = builder.checkpoint.config
    chosen = list(matrices(config, HF.experts))
    outputs = {matrix.path: matrix for matrix in chosen}
    for layer in (*range(config.num_hidden_layers), AFTER_LAYERS):
        if layer != AFTER_LAYERS:
            yield from expert_steps(builder, layer, outputs)
        for matrix in chosen:
            if matrix.part != EXPERTS and layer_of(matrix.path) == layer:
                yield from dense_steps(builder, matrix)
        for vector in vectors(config):
            if layer_of(vector.name) == layer:
                yield builder.copy(vector.name)


def dense_steps(builder: StepBuilder, matrix: Matrix) -> Iterator[TensorStep]:
    """Plan a matrix outside the experts as dense floats."""
    name, found = f"{matrix.path}.weight", builder.setting_of(matrix.path)
    if found is None:
        yield builder.copy(name)
    else:
        sources = packed_sources(builder, matrix.path, found)
        output = builder.output(name, "BF16", matrix.shape)
        yield Reencode(sources, (output,), "BF16", found)
    yield from copy_steps(builder, matrix.path, ("bias",))


def packed_sources(
    builder: StepBuilder, path: str, found: Quantization
) -> tuple[Any, ...]:
    kinds = ENCODED_KINDS[found.mode]
    return tuple(builder.stored(f"{path}.{kind}") for kind in kinds)


def hf_config(checkpoint: Checkpoint, *, packed: bool) -> bytes:
    raw = json.loads(config_json(checkpoint, {}))
    if packed:
        raw["quantization_config"] = {
            "modules_to_not_convert": list(NOT_CONVERTED),
            "quant_method": "mxfp4",
        }
    return (json.dumps(dict(sorted(raw.items())), indent=2) + "\n").encode()
