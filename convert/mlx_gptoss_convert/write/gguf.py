"""Plan conversions to a GGUF for llama.cpp's gpt-oss architecture, in its own folder.

Experts are repacked losslessly; other matrices are bfloat16 or Q8_0 by the recipe;
norms, sinks, biases and the router are float32, as in llama.cpp. Reads no weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4 as MXFP4_SETTING
from mlx_gptoss.format.file_names import GENERATION_CONFIG
from mlx_gptoss.format.layout import EXPERTS, IN_OUT, ROUTER, Matrix, matrices, vectors
from mlx_gptoss_convert.plan.builder import (
    AFTER_LAYERS,
    StepBuilder,
    kept_dtype,
    layer_of,
)
from mlx_gptoss_convert.plan.plan import (
    FORMAT,
    ConversionPlan,
    converter_version,
    describe_recipe,
    describe_source,
)
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.plan.shards import Shard
from mlx_gptoss_convert.read import gguf_types as types
from mlx_gptoss_convert.read.companions import CompanionFiles, companion_files
from mlx_gptoss_convert.read.gguf import STRING, UINT32
from mlx_gptoss_convert.read.gguf_names import GGUF
from mlx_gptoss_convert.read.gguf_settings import config_to_metadata
from mlx_gptoss_convert.read.gguf_tokenizer import (
    TEMPLATE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)
from mlx_gptoss_convert.read.gguf_types import GgmlType
from mlx_gptoss_convert.read.source import SourceTensor
from mlx_gptoss_convert.steps.gguf import EncodeForGgml, Reencode, RepackForGgml
from mlx_gptoss_convert.steps.rearrange import Copy
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep
from mlx_gptoss_convert.write.gguf_header import GgufOutput, encode_header
from mlx_gptoss_convert.write.gguf_tokenizer import (
    stop_token_metadata,
    tokenizer_metadata,
)
from mlx_gptoss_convert.write.hf import packed_sources, refuse_affine_experts

FILE = "model.gguf"
FLOATS = {"F32": types.F32, "F16": types.F16, "BF16": types.BF16}
FILE_TYPE = 38  # llama.cpp's number for "mostly MXFP4"
SPLIT_PROJECTIONS = {"gate_up_proj": ("gate_proj", "up_proj")}  # alternating rows
IN_METADATA = {TOKENIZER_FILE, GENERATION_CONFIG, TEMPLATE_FILE}


@dataclass
class GgufStepBuilder(StepBuilder):
    """Builds steps, and collects the description of every output for the header."""

    described: dict[str, GgufOutput] = field(default_factory=dict)

    def describe(
        self, name: str, kind: GgmlType, shape: tuple[int, ...]
    ) -> OutputTensor:
        """Return an output tensor; block types are bytes to the writer."""
        stored = self.layout.stored_name(name)
        self.described[stored] = GgufOutput(stored, kind, shape)
        if kind.block == 1:
            return OutputTensor(stored, kind.name, shape)
        blocks = shape[-1] // kind.block
        return OutputTensor(stored, "U8", (*shape[:-1], blocks, kind.nbytes))


def make_gguf_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    files: CompanionFiles | None = None,
    pre: str | None = None,
) -> ConversionPlan:
    """Plan the conversion of any checkpoint to a folder with `model.gguf`.

    `pre` is llama.cpp's name of the pre-tokenizer, for one that is not recognized.
    Raises ConversionError for a model that a GGUF of gpt-oss cannot represent.
    """
    refuse_affine_experts(checkpoint, recipe, "a GGUF of gpt-oss")
    if checkpoint.config.experts_by_layer:
        raise ConversionError(
            "the layers of this model have different numbers of experts, and a GGUF of "
            "gpt-oss has one for all: leave `--to gguf` out"
        )
    files = companion_files(checkpoint.folder) if files is None else files
    builder = GgufStepBuilder(checkpoint, recipe, GGUF)
    steps = tuple(gguf_steps(builder))
    return ConversionPlan(
        recipe=recipe,
        steps=steps,
        shards=(gguf_shard(builder, gguf_metadata(checkpoint, files, pre)),),
        quantization={},
        texts={k: v for k, v in files.texts.items() if k not in IN_METADATA},
        companions=tuple(
            path for path in files.copied if path.name.startswith(("LICENSE", "USAGE"))
        ),
        identity={
            "format": FORMAT,
            "converter": converter_version(),
            "to": "gguf",
            "recipe": describe_recipe(recipe),
            "source": describe_source(checkpoint),
        },
        files=checkpoint.files,
        to="gguf",
    )


def gguf_shard(
    builder: GgufStepBuilder, metadata: Mapping[str, tuple[int, Any]]
) -> Shard:
    """Build the header and take the offset of every tensor from it."""
    described = list(builder.described.values())
    header, offsets = encode_header(metadata, described)
    tensors = tuple(
        OutputTensor(entry.name, "U8", (entry.nbytes,)) for entry in described
    )
    return Shard(FILE, header, tensors, offsets)


def gguf_metadata(
    checkpoint: Checkpoint, files: CompanionFiles, pre: str | None
) -> dict[str, tuple[int, Any]]:
    metadata = config_to_metadata(checkpoint.config)
    metadata["general.file_type"] = (UINT32, FILE_TYPE)
    raw = files.read(TOKENIZER_FILE)
    if raw is None:
        raise ConversionError(
            f"`{checkpoint.folder}` has no `{TOKENIZER_FILE}`, which a GGUF needs: "
            "give one with `--tokenizer FILE`"
        )
    metadata |= tokenizer_metadata(json.loads(raw), checkpoint.config.vocab_size, pre)
    generation = json.loads(files.read(GENERATION_CONFIG) or b"{}")
    metadata |= stop_token_metadata(checkpoint.config.eos_token_ids, generation)
    template = files.read(TEMPLATE_FILE)
    if template is not None:
        metadata[TEMPLATE] = (STRING, template.decode())
    return metadata


def gguf_steps(builder: GgufStepBuilder) -> Iterator[TensorStep]:
    """Yield every step: layer by layer, then the other tensors."""
    checkpoint = builder.checkpoint
    chosen = list(matrices(checkpoint.config, checkpoint.layout.experts))
    for layer in (*range(checkpoint.config.num_hidden_layers), AFTER_LAYERS):
        for matrix in chosen:
            if layer_of(matrix.path) != layer:
                continue
            if matrix.part == EXPERTS:
                yield from expert_steps(builder, matrix)
            else:
                yield from rest_steps(builder, matrix)
        for vector in vectors(checkpoint.config):
            if layer_of(vector.name) == layer:
                yield float_step(builder, vector.name, (vector.name,), vector.shape)


def expert_steps(builder: GgufStepBuilder, matrix: Matrix) -> Iterator[TensorStep]:
    """Plan one expert projection of the source, with gate and up rows separated."""
    parent, _, name = matrix.path.rpartition(".")
    made = [f"{parent}.{part}" for part in SPLIT_PROJECTIONS.get(name, (name,))]
    experts, rows, columns = matrix.shape
    shape = (experts, rows // len(made), columns)
    outputs = tuple(
        builder.describe(f"{path}.weight", types.MXFP4, shape) for path in made
    )
    weight = builder.stored(f"{matrix.path}.weight")
    found = builder.setting_of(matrix.path)
    if found == MXFP4_SETTING:
        yield RepackForGgml((weight, builder.stored(f"{matrix.path}.scales")), outputs)
    else:
        sources = (weight,)
        if found is not None:
            sources = packed_sources(builder, matrix.path, found)
        is_transposed = builder.checkpoint.layout.expert_form == IN_OUT
        yield EncodeForGgml(sources, outputs, is_transposed, MXFP4_SETTING, found)
    biases = tuple(f"{path}.bias" for path in made)
    yield float_step(builder, f"{matrix.path}.bias", biases, shape[:2])


def rest_steps(builder: GgufStepBuilder, matrix: Matrix) -> Iterator[TensorStep]:
    """Plan a matrix outside the experts."""
    name, found = f"{matrix.path}.weight", builder.setting_of(matrix.path)
    sources: tuple[SourceTensor, ...] = (builder.stored(name),)
    if found is not None:
        sources = packed_sources(builder, matrix.path, found)
    kind = choose_type(builder, matrix, sources[0])
    output = builder.describe(name, kind, matrix.shape)
    if found is None and sources[0].dtype == kind.name:
        yield Copy((sources[0],), (output,))
    else:
        yield Reencode(sources, (output,), kind.name, found)
    if matrix.has_bias:
        bias = f"{matrix.path}.bias"
        yield float_step(builder, bias, (bias,), matrix.shape[:-1])


def choose_type(
    builder: GgufStepBuilder, matrix: Matrix, source: SourceTensor
) -> GgmlType:
    """Choose the type of a matrix: by the recipe, and float32 for the router."""
    if matrix.part == ROUTER:
        return types.F32
    wanted = builder.recipe.setting(matrix.path)
    if wanted is None:
        return FLOATS.get(kept_dtype(source), types.BF16)
    if wanted.bits != 8:
        raise ConversionError(
            f"recipe `{builder.recipe.name}` wants {wanted.bits} bits for "
            f"`{matrix.path}`, a GGUF is written with bfloat16 or 8 bits (Q8_0): use "
            "`--recipe lossless` or `--recipe q8`"
        )
    return types.BF16 if matrix.shape[-1] % types.Q8_0.block else types.Q8_0


def float_step(
    builder: GgufStepBuilder, name: str, made: tuple[str, ...], shape: tuple[int, ...]
) -> TensorStep:
    """Plan a small tensor as float32, which is exact for every source dtype."""
    outputs = tuple(builder.describe(output, types.F32, shape) for output in made)
    stored = builder.stored(name)
    if stored.dtype == "F32" and len(outputs) == 1:
        return Copy((stored,), (outputs[0],))
    return Reencode((stored,), outputs, "F32")
