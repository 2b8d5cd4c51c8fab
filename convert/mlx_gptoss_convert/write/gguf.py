"""Plan a GGUF that llama.cpp's gpt-oss architecture loads, in a folder of its own.

Experts keep every bit, in ggml's order; the rest is bfloat16 or Q8_0 by recipe; norms,
sinks, biases and the router are float32, as llama.cpp has them. Reads no weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4 as MXFP4_SETTING
from mlx_gptoss.format.layout import EXPERTS, IN_OUT, ROUTER, Matrix, matrices, vectors
from mlx_gptoss_convert.plan.plan import (
    FORMAT,
    Plan,
    converter,
    describe_recipe,
    describe_source,
)
from mlx_gptoss_convert.plan.recipe import Recipe
from mlx_gptoss_convert.plan.rules import AFTER_LAYERS, Target, layer_of
from mlx_gptoss_convert.read import gguf as ggml
from mlx_gptoss_convert.read.companions import SmallFiles, small_files
from mlx_gptoss_convert.read.gguf import UINT32, Described, Kind, gguf_header
from mlx_gptoss_convert.read.gguf_names import GGUF, write_config
from mlx_gptoss_convert.read.gguf_tokenizer import (
    GENERATION_FILE,
    TEMPLATE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    write_stops,
    write_tokenizer,
)
from mlx_gptoss_convert.read.source import Stored
from mlx_gptoss_convert.steps.gguf import Q8_0, EncodeToGgml, Recast, ToGgml
from mlx_gptoss_convert.steps.quantize import Copy, Step
from mlx_gptoss_convert.write.hf import packed_sources, refuse_affine
from mlx_gptoss_convert.write.writer import Shard, Tensor

FILE = "model.gguf"
FLOATS = {"F32": ggml.F32, "F16": ggml.F16, "BF16": ggml.BF16}
FILE_TYPE = 38  # llama.cpp's number of "mostly MXFP4"
DEALT = {"gate_up_proj": ("gate_proj", "up_proj")}  # rows in turn
NOT_ALONG = {TOKENIZER_FILE, GENERATION_FILE, TEMPLATE_FILE}  # are in the file itself


@dataclass
class GgufTarget(Target):
    """Collects how every output is described in the file's header."""

    described: dict[str, Described] = field(default_factory=dict)

    def describe(self, name: str, kind: Kind, shape: tuple[int, ...]) -> Tensor:
        """Name an output; quantized kinds are bytes to the writer."""
        stored = self.layout.stored_name(name)
        self.described[stored] = Described(stored, kind, shape)
        if kind.block == 1:
            return Tensor(stored, kind.name, shape)
        blocks = shape[-1] // kind.block
        return Tensor(stored, "U8", (*shape[:-1], blocks, kind.nbytes))


def make_gguf_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    files: SmallFiles | None = None,
    pre: str | None = None,
) -> Plan:
    """Plan the conversion of any checkpoint to a folder that holds `model.gguf`.

    `pre` is llama.cpp's name of how the tokenizer cuts text, where it cannot be told.
    Raises ConversionError for what a GGUF of gpt-oss cannot say.
    """
    refuse_affine(checkpoint, recipe, "a GGUF of gpt-oss")
    files = small_files(checkpoint.folder) if files is None else files
    target = GgufTarget(checkpoint, recipe, GGUF)
    steps = tuple(gguf_steps(target))
    return Plan(
        recipe=recipe,
        steps=steps,
        shards=(lay_out(target, metadata(checkpoint, files, pre)),),
        quantization={},
        texts={k: v for k, v in files.texts.items() if k not in NOT_ALONG},
        companions=tuple(
            path for path in files.copied if path.name.startswith(("LICENSE", "USAGE"))
        ),
        identity={
            "format": FORMAT,
            "converter": converter(),
            "to": "gguf",
            "recipe": describe_recipe(recipe),
            "source": describe_source(checkpoint),
        },
        files=checkpoint.files,
        to="gguf",
    )


def lay_out(target: GgufTarget, said: Mapping[str, tuple[int, Any]]) -> Shard:
    """Write the header, which says where every tensor lies."""
    described = list(target.described.values())
    header, offsets = gguf_header(said, described)
    tensors = tuple(Tensor(entry.name, "U8", (entry.nbytes,)) for entry in described)
    return Shard(FILE, header, tensors, offsets)


def metadata(
    checkpoint: Checkpoint, files: SmallFiles, pre: str | None
) -> dict[str, tuple[int, Any]]:
    said = write_config(checkpoint.config)
    said["general.file_type"] = (UINT32, FILE_TYPE)
    raw = files.read(TOKENIZER_FILE)
    if raw is None:
        raise ConversionError(
            f"`{checkpoint.folder}` has no `{TOKENIZER_FILE}`, which a GGUF carries: "
            "give one with `--tokenizer FILE`"
        )
    said |= write_tokenizer(json.loads(raw), checkpoint.config.vocab_size, pre)
    generation = json.loads(files.read(GENERATION_FILE) or b"{}")
    said |= write_stops(checkpoint.config.eos_token_ids, generation)
    template = files.read(TEMPLATE_FILE)
    if template is not None:
        said[TEMPLATE] = (ggml.STRING, template.decode())
    return said


def gguf_steps(target: GgufTarget) -> Iterator[Step]:
    """List every step, layer by layer, then what is in no layer."""
    checkpoint = target.checkpoint
    chosen = list(matrices(checkpoint.config, checkpoint.layout.experts))
    for layer in (*range(checkpoint.config.num_hidden_layers), AFTER_LAYERS):
        for matrix in chosen:
            if layer_of(matrix.path) != layer:
                continue
            if matrix.part == EXPERTS:
                yield from expert_steps(target, matrix)
            else:
                yield from rest_steps(target, matrix)
        for vector in vectors(checkpoint.config):
            if layer_of(vector.name) == layer:
                yield floats(target, vector.name, (vector.name,), vector.shape)


def expert_steps(target: GgufTarget, matrix: Matrix) -> Iterator[Step]:
    """Plan one expert projection of the source: its gate and up rows go apart."""
    parent, _, name = matrix.path.rpartition(".")
    made = [f"{parent}.{part}" for part in DEALT.get(name, (name,))]
    experts, rows, columns = matrix.shape
    shape = (experts, rows // len(made), columns)
    outputs = tuple(
        target.describe(f"{path}.weight", ggml.MXFP4, shape) for path in made
    )
    weight = target.stored(f"{matrix.path}.weight")
    found = target.setting_of(matrix.path)
    if found == MXFP4_SETTING:
        yield ToGgml((weight, target.stored(f"{matrix.path}.scales")), outputs)
    else:
        sources = (weight,)
        if found is not None:
            sources = packed_sources(target, matrix.path, found)
        is_transposed = target.checkpoint.layout.expert_form == IN_OUT
        yield EncodeToGgml(sources, outputs, is_transposed, MXFP4_SETTING, found)
    biases = tuple(f"{path}.bias" for path in made)
    yield floats(target, f"{matrix.path}.bias", biases, shape[:2])


def rest_steps(target: GgufTarget, matrix: Matrix) -> Iterator[Step]:
    """Plan a matrix outside the experts."""
    name, found = f"{matrix.path}.weight", target.setting_of(matrix.path)
    sources: tuple[Stored, ...] = (target.stored(name),)
    if found is not None:
        sources = packed_sources(target, matrix.path, found)
    kind = kind_of(target, matrix, sources[0])
    output = target.describe(name, kind, matrix.shape)
    if found is None and sources[0].dtype == kind.name:
        yield Copy((sources[0],), (output,))
    else:
        yield Recast(sources, (output,), kind.name, found)
    if matrix.has_bias:
        bias = f"{matrix.path}.bias"
        yield floats(target, bias, (bias,), matrix.shape[:-1])


def kind_of(target: GgufTarget, matrix: Matrix, source: Stored) -> Kind:
    """Choose how a matrix is stored: by recipe, the router always whole."""
    if matrix.part == ROUTER:
        return ggml.F32
    wanted = target.recipe.setting(matrix.path)
    if wanted is None:
        view = source.view
        decoded = view is not None and view.name == Q8_0
        return ggml.BF16 if decoded else FLOATS.get(source.dtype, ggml.BF16)
    if wanted.bits != 8:
        raise ConversionError(
            f"recipe `{target.recipe.name}` wants {wanted.bits} bits for "
            f"`{matrix.path}`, a GGUF holds bfloat16 or 8 bits (Q8_0) here: use "
            "`--recipe lossless` or `--recipe q8`"
        )
    return ggml.BF16 if matrix.shape[-1] % ggml.Q8_0.block else ggml.Q8_0


def floats(
    target: GgufTarget, name: str, made: tuple[str, ...], shape: tuple[int, ...]
) -> Step:
    """Plan a small tensor as float32, which holds every value it can have."""
    outputs = tuple(target.describe(output, ggml.F32, shape) for output in made)
    stored = target.stored(name)
    if stored.dtype == "F32" and len(outputs) == 1:
        return Copy((stored,), (outputs[0],))
    return Recast((stored,), outputs, "F32")
