"""Plan the merging of an adapter: a source whose tensors have its updates added.

The result is planned like any other source, where the updated matrices are dense
float32: they get the recipe's setting. Reads no weights.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.adapters import StoredAdapter
from mlx_gptoss.checkpoint.adapters.read import BASE_DIGEST
from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.layout import (
    EXPERTS,
    IN_OUT,
    SPLIT,
    Matrix,
    Structure,
    matrices,
)
from mlx_gptoss_convert.plan.plan import ConversionPlan, describe_source
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.read.checkpoint import ConversionSource
from mlx_gptoss_convert.read.source import SourceTensor
from mlx_gptoss_convert.steps.codecs import ENCODED_KINDS
from mlx_gptoss_convert.steps.merged import (
    FLOAT32_BYTES,
    MergedRows,
    UpdateReader,
)

GATE_UP = "gate_up_proj"
HALVES = ("gate_proj", "up_proj")  # of gate_up_proj, where they are stored apart
NORM = "model.norm.weight"  # never packed: its dtype is that of the model's floats


@dataclass(frozen=True)
class Merge:
    """A checkpoint, an adapter for it, and the same checkpoint with it merged."""

    source: ConversionSource
    adapter: StoredAdapter
    merged: ConversionSource

    def identity(self) -> dict[str, Any]:
        """Identify the adapter by its contents, for `conversion.json`."""
        adapter = self.adapter
        return {
            "digest": adapter.digest,
            "layout": adapter.layout,
            "base": adapter.base,
            "scale": adapter.scale,
            "rank": adapter.rank,
            "matrices": len(adapter.paths),
            "training": training_facts(adapter),
        }


def training_facts(adapter: StoredAdapter) -> dict[str, str]:
    """Return what the adapter's file says of its training."""
    return {
        key: value
        for key, value in sorted(adapter.metadata.items())
        if key not in ("format", BASE_DIGEST)
    }


def plan_merge(source: ConversionSource, adapter: StoredAdapter) -> Merge:
    """Prepare to merge an adapter that was opened for this checkpoint's config."""
    checkpoint = source.checkpoint
    sums = {x.name: x for x in merged_tensors(checkpoint, adapter)}
    changed = {name.removesuffix(".weight") for name in sums}
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name.rpartition(".")[0] not in changed or name.endswith(".bias")
    }
    quantization = {
        path: setting
        for path, setting in checkpoint.structure.quantization.items()
        if path not in changed
    }
    made = replace(
        checkpoint,
        structure=Structure(quantization, checkpoint.structure.experts),
        tensors={**tensors, **sums},
    )
    files = source.files.for_harmony() if adapter.teaches_harmony else source.files
    return Merge(source, adapter, replace(source, checkpoint=made, files=files))


def merged_tensors(
    checkpoint: Checkpoint, adapter: StoredAdapter
) -> Iterator[DecodedTensor]:
    """Yield the sum of every updated weight, under its canonical name."""
    updates = UpdateReader(adapter)
    by_path = {
        x.path: x for x in matrices(checkpoint.config, checkpoint.layout.experts)
    }
    for path in adapter.paths:
        for half, stored in enumerate(stored_paths(checkpoint, path)):
            split = None if stored == path else half
            rows = merged_rows_of(checkpoint, by_path[stored], path, split, updates)
            weight = checkpoint.tensors[f"{stored}.weight"]
            yield DecodedTensor(
                name=f"{stored}.weight",
                file=weight.file,
                dtype="F32",
                shape=rows.shape,
                offset=weight.offset,
                nbytes=math.prod(rows.shape) * FLOAT32_BYTES,
                decoder=rows,
            )


def stored_paths(checkpoint: Checkpoint, path: str) -> tuple[str, ...]:
    """Return the stored matrices that an update of `path` changes."""
    if checkpoint.layout.experts != SPLIT or not path.endswith(GATE_UP):
        return (path,)
    return tuple(path.removesuffix(GATE_UP) + name for name in HALVES)


def merged_rows_of(
    checkpoint: Checkpoint,
    matrix: Matrix,
    path: str,
    half: int | None,
    updates: UpdateReader,
) -> MergedRows:
    setting = checkpoint.structure.quantization.get(matrix.path)
    kinds = ("weight",) if setting is None else ENCODED_KINDS[setting.mode]
    names = [f"{matrix.path}.{kind}" for kind in kinds]
    base = tuple(
        SourceTensor.from_checkpoint(name, checkpoint.tensors[name]) for name in names
    )
    dense = setting is None
    turned = (
        dense and matrix.part == EXPERTS and checkpoint.layout.expert_form == IN_OUT
    )
    *stack, rows, columns = matrix.shape
    return MergedRows(
        base=base,
        setting=setting,
        shape=(*stack, columns, rows) if turned else matrix.shape,
        path=path,
        updates=updates,
        float_dtype=base[0].dtype if dense else checkpoint.tensors[NORM].dtype,
        half=half,
        is_transposed=turned,
    )


def merge_recipe(recipe: Recipe, checkpoint: Checkpoint, to: str) -> Recipe:
    """Return the recipe with affine experts kept as they are packed in the source.

    Otherwise, and where `to` is not an MLX folder, updated experts become MXFP4,
    whatever they were.
    """
    settings = {
        checkpoint.structure.quantization.get(matrix.path)
        for matrix in matrices(checkpoint.config, checkpoint.layout.experts)
        if matrix.part == EXPERTS
    }
    found = settings.pop()
    if to != "mlx" or recipe.experts or settings:
        return recipe
    if found is None or found.mode != "affine":
        return recipe
    return replace(recipe, experts=found)


def identify_merge(plan: ConversionPlan, merge: Merge) -> ConversionPlan:
    """Return a plan that names both of its sources, and watches the files of both."""
    adapter, source = merge.adapter, merge.source.checkpoint
    files = {pair.a.file for pairs in adapter.pairs.values() for pair in pairs}
    names = {path.name for path in source.files}
    both = names & {path.name for path in files}
    if both:
        raise ConversionError(
            f"the model and the adapter both have a file `{both.pop()}`: rename one"
        )
    identity: Mapping[str, Any] = {
        **plan.identity,
        "source": describe_source(source),
        "adapter": merge.identity(),
    }
    return replace(plan, identity=identity, files=(*plan.files, *sorted(files)))
