"""Plan a conversion completely before a byte is written.

A `ConversionPlan` has the step, name and place of every tensor. It is made from an
opened checkpoint (headers only) and a recipe; no weights are read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_gptoss import __version__
from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.file_names import INDEX
from mlx_gptoss.format.layout import (
    EXPERTS,
    MLX_PACKED,
    MLX_SPLIT,
    PACKED,
    SPLIT,
    Layout,
    matrices,
)
from mlx_gptoss_convert.plan.builder import StepBuilder
from mlx_gptoss_convert.plan.config_json import config_json
from mlx_gptoss_convert.plan.recipe import Recipe, for_classifier
from mlx_gptoss_convert.plan.rules import plan_steps
from mlx_gptoss_convert.plan.shards import (
    SHARD_BYTES,
    Shard,
    index_json,
    plan_shards,
)
from mlx_gptoss_convert.read.companions import CompanionFiles, companion_files
from mlx_gptoss_convert.steps.step import TensorStep

FORMAT = 1  # of the result and its journal
LAYOUTS = {PACKED: MLX_PACKED, SPLIT: MLX_SPLIT}


@dataclass(frozen=True)
class ConversionPlan:
    """All steps, the files their outputs go to, and the files that accompany them."""

    recipe: Recipe
    steps: tuple[TensorStep, ...]
    shards: tuple[Shard, ...]
    quantization: Mapping[str, Quantization]  # by module path of the result
    texts: Mapping[str, bytes]
    companions: tuple[Path, ...]
    identity: Mapping[str, Any]
    files: tuple[Path, ...]  # of the source
    to: str = "mlx"  # or "hf" or "gguf"
    labels: int = 0  # of a token classifier
    appendix: str = ""  # the last section of the model card

    @property
    def nbytes(self) -> int:
        """Bytes of tensors in the result."""
        return sum(tensor.nbytes for step in self.steps for tensor in step.outputs)

    @cached_property
    def _steps_by_output(self) -> dict[str, TensorStep]:
        return {step.outputs[0].name: step for step in self.steps}

    def steps_of(self, shard: Shard) -> list[TensorStep]:
        """Return the steps that write to `shard`, in the order of the plan."""
        names = {tensor.name for tensor in shard.tensors}
        return [step for first, step in self._steps_by_output.items() if first in names]


def make_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    experts: str = PACKED,
    keeps_dense: bool = False,
    files: CompanionFiles | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ConversionPlan:
    """Plan the conversion of `checkpoint` to an MLX folder.

    `experts` is "packed" (OpenAI's packing) or "split" (gate and up separate, as in
    mlx-community's folders). Only MXFP4 has a packed form: others are always split,
    as are all if `keeps_dense` says not to encode dense ones.
    """
    if checkpoint.config.is_classifier:
        recipe, keeps_dense = for_classifier(recipe)
        experts = SPLIT  # as mlx-embeddings has them
    layout = output_layout(checkpoint, recipe, SPLIT if keeps_dense else experts)
    builder = StepBuilder(checkpoint, recipe, layout, keeps_dense=keeps_dense)
    steps = tuple(plan_steps(builder))
    shards = plan_shards((step.outputs for step in steps), shard_bytes)
    files = companion_files(checkpoint.folder) if files is None else files
    return ConversionPlan(
        recipe=recipe,
        steps=steps,
        shards=shards,
        quantization=builder.quantization,
        texts={
            **files.texts,
            "config.json": config_json(checkpoint, builder.quantization).encode(),
            INDEX: index_json(shards).encode(),
        },
        companions=files.copied,
        identity={
            "format": FORMAT,
            "converter": converter_version(),
            "experts": builder.layout.experts,
            "recipe": describe_recipe(recipe),
            "source": describe_source(checkpoint),
        },
        files=checkpoint.files,
        labels=len(checkpoint.config.labels),
    )


def converter_version() -> str:
    return f"mlx_gptoss {__version__}"


def output_layout(checkpoint: Checkpoint, recipe: Recipe, experts: str) -> Layout:
    found = (
        checkpoint.structure.quantization.get(matrix.path)
        for matrix in matrices(checkpoint.config, checkpoint.layout.experts)
        if matrix.part == EXPERTS
    )
    modes = {recipe.expert_setting(setting).mode for setting in found}
    return LAYOUTS[SPLIT if modes - {MXFP4.mode} else experts]


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    settings = {**recipe.settings, "experts": recipe.experts}.items()
    return {kind: setting and asdict(setting) for kind, setting in settings}


def describe_source(checkpoint: Checkpoint) -> dict[str, Any]:
    """Identify the source by its contents, without paths and dates."""
    config = json.dumps(checkpoint.raw_config, sort_keys=True).encode()
    return {
        "layout": checkpoint.layout.name,
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "files": [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "header_sha256": hashlib.sha256(
                    read_file_header(checkpoint, path)
                ).hexdigest(),
            }
            for path in checkpoint.files
        ],
    }


def read_file_header(checkpoint: Checkpoint, path: Path) -> bytes:
    """Read the bytes of a file before its first tensor."""
    starts = [x.offset for x in checkpoint.stored_parts if x.file == path]
    with path.open("rb") as file:
        return file.read(min(starts, default=0))
