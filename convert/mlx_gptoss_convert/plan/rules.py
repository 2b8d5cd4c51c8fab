"""Choose the step of each tensor, from a checkpoint and a recipe.

Packed experts keep their bytes, with rows rearranged between packed and split layouts;
dense experts, and those the recipe sets otherwise, are encoded. Other matrices are
quantized as the recipe says, never to more bits than the source has. Everything else is
copied. Reads no weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import (
    BITS_PER_WORD,
    BLOCKS,
    BYTES_PER_BLOCK,
    EXPERTS,
    IN_OUT,
    LAYER_NUMBER,
    PACKED,
    SPLIT,
    Layout,
    Matrix,
    matrices,
    vectors,
)
from mlx_gptoss_convert.plan.recipe import HALF, Recipe, fit_columns
from mlx_gptoss_convert.read.source import SourceTensor
from mlx_gptoss_convert.steps.codecs import AFFINE_FLOATS, ENCODED_KINDS
from mlx_gptoss_convert.steps.encode import Encode
from mlx_gptoss_convert.steps.gguf import Q8_0, Reencode
from mlx_gptoss_convert.steps.quantize import Quantize, Requantize, RoundToHalf
from mlx_gptoss_convert.steps.rearrange import Copy, Deinterleave, Interleave
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep

SCALE_DTYPES = {"affine": AFFINE_FLOATS, "mxfp4": "U8"}  # of tensors packed here

# Expert projections: (of the source, of the result), by layout of source and result.
DOWN = (("down_proj",), ("down_proj",))
EXPERT_MOVES = {
    (PACKED, PACKED): ((("gate_up_proj",), ("gate_up_proj",)), DOWN),
    (PACKED, SPLIT): ((("gate_up_proj",), ("gate_proj", "up_proj")), DOWN),
    (SPLIT, PACKED): ((("gate_proj", "up_proj"), ("gate_up_proj",)), DOWN),
    (SPLIT, SPLIT): (
        (("gate_proj",), ("gate_proj",)),
        (("up_proj",), ("up_proj",)),
        DOWN,
    ),
}
# mlx-lm has separate gate and up modules and looks up settings under these names.
STOCK_NAMES = {"gate_up_proj": ("gate_proj", "up_proj")}
AFTER_LAYERS = 1 << 30  # sorts tensors outside the layers last


@dataclass
class StepBuilder:
    """Builds steps from a checkpoint by a recipe into a layout.

    Collects `quantization`, keyed by module path as in `config.json` of the result.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    layout: Layout
    quantization: dict[str, Quantization] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.checkpoint.tensors

    def stored(self, name: str) -> SourceTensor:
        """Return a tensor of the source by its canonical name."""
        return SourceTensor.from_checkpoint(name, self.checkpoint.tensors[name])

    def setting_of(self, path: str) -> Quantization | None:
        return self.checkpoint.structure.quantization.get(path)

    def copy(self, name: str) -> TensorStep:
        """Copy a tensor with its dtype and shape.

        Q8_0 of a GGUF becomes bfloat16, since safetensors has no such dtype.
        """
        stored = self.stored(name)
        if stored.decoder is not None and stored.decoder.name == Q8_0:
            output = self.output(name, "BF16", stored.shape)
            return Reencode((stored,), (output,), "BF16")
        return Copy((stored,), (self.output(name, stored.dtype, stored.shape),))

    def output(self, name: str, dtype: str, shape: tuple[int, ...]) -> OutputTensor:
        dtype = "U8" if dtype == "F8_E8M0" else dtype  # OpenAI's dtype of scales
        return OutputTensor(self.layout.stored_name(name), dtype, shape)


def plan_steps(builder: StepBuilder) -> Iterator[TensorStep]:
    """Yield every step: layer by layer with experts first, then the other tensors."""
    config = builder.checkpoint.config
    chosen = list(matrices(config, builder.layout.experts))
    outputs = {matrix.path: matrix for matrix in chosen}
    rest = [matrix for matrix in chosen if matrix.part != EXPERTS]
    rest.sort(key=lambda matrix: layer_of(matrix.path))
    floats = sorted(vectors(config), key=lambda vector: layer_of(vector.name))
    for layer in (*range(config.num_hidden_layers), AFTER_LAYERS):
        if layer != AFTER_LAYERS:
            yield from expert_steps(builder, layer, outputs)
        for matrix in rest:
            if layer_of(matrix.path) == layer:
                yield from rest_steps(builder, matrix)
        for vector in floats:
            if layer_of(vector.name) == layer:
                yield builder.copy(vector.name)


def layer_of(name: str) -> int:
    found = LAYER_NUMBER.search(name)
    return AFTER_LAYERS if found is None else int(found[1])


def rest_steps(builder: StepBuilder, matrix: Matrix) -> Iterator[TensorStep]:
    """Plan a matrix outside the experts: quantize, requantize, round or copy it."""
    path = matrix.path
    found = builder.setting_of(path)
    wanted = builder.recipe.setting(path)
    setting = wanted and fit_columns(wanted, matrix.shape[-1])
    if setting == HALF and found is None:
        source = builder.stored(f"{path}.weight")
        yield RoundToHalf(
            (source,), (builder.output(f"{path}.weight", "F16", source.shape),)
        )
    elif setting not in (None, HALF) and found is None:
        builder.quantization[path] = setting
        source = builder.stored(f"{path}.weight")
        yield Quantize((source,), packed_outputs(builder, matrix, setting), setting)
    elif setting is not None and found is not None and is_lower(setting, found):
        builder.quantization[path] = setting
        weight, scales, biases = (
            builder.stored(f"{path}.{kind}") for kind in ENCODED_KINDS["affine"]
        )
        outputs = packed_outputs(builder, matrix, setting)
        yield Requantize((weight, scales, biases), outputs, setting, found)
    else:
        if found is not None:
            builder.quantization[path] = found
        yield from copy_steps(builder, path, ENCODED_KINDS["affine"])
    yield from copy_steps(builder, path, ("bias",))


def is_lower(setting: Quantization, found: Quantization) -> bool:
    """Whether requantizing saves bits; more bits would restore nothing."""
    return found.mode == "affine" and setting.bits < found.bits


def copy_steps(
    builder: StepBuilder, path: str, kinds: tuple[str, ...]
) -> Iterator[TensorStep]:
    for kind in kinds:
        if builder.has(f"{path}.{kind}"):
            yield builder.copy(f"{path}.{kind}")


def packed_outputs(
    builder: StepBuilder, matrix: Matrix, setting: Quantization
) -> tuple[OutputTensor, ...]:
    """Return the output tensors of a packed matrix outside the experts."""
    *rows, columns = matrix.shape
    words = (*rows, columns * setting.bits // BITS_PER_WORD)
    groups = (*rows, columns // setting.group_size)
    weight = builder.output(f"{matrix.path}.weight", "U32", words)
    dtype = SCALE_DTYPES[setting.mode]
    return weight, *(
        builder.output(f"{matrix.path}.{kind}", dtype, groups)
        for kind in ENCODED_KINDS[setting.mode][1:]
    )


def expert_steps(
    builder: StepBuilder, layer: int, outputs: dict[str, Matrix]
) -> Iterator[TensorStep]:
    """Plan the expert projections of one layer."""
    prefix = f"model.layers.{layer}.mlp.experts."
    moves = EXPERT_MOVES[builder.checkpoint.layout.experts, builder.layout.experts]
    for source_names, output_names in moves:
        sources = [prefix + name for name in source_names]
        made = [outputs[prefix + name] for name in output_names]
        found = shared_setting(builder, sources)
        setting = expert_setting(builder, found, made[0])
        for name in output_names:
            for stock in STOCK_NAMES.get(name, (name,)):
                builder.quantization[prefix + stock] = setting
        if setting != found:
            yield encode_step(builder, sources, made, found, setting)
        else:
            for kind in ENCODED_KINDS[setting.mode]:
                yield lossless_step(builder, sources, made, kind, setting)
        yield lossless_step(builder, sources, made, "bias", setting)


def expert_setting(
    builder: StepBuilder, found: Quantization | None, matrix: Matrix
) -> Quantization:
    wanted = builder.recipe.expert_setting(found)
    setting = wanted if wanted == found else fit_columns(wanted, matrix.shape[-1])
    if setting is None:
        raise ConversionError(
            f"`{matrix.path}` has {matrix.shape[-1]} columns, not a multiple of 32: "
            "its experts cannot be packed"
        )
    return setting


def shared_setting(builder: StepBuilder, sources: list[str]) -> Quantization | None:
    settings = {builder.setting_of(path) for path in sources}
    if len(settings) > 1:
        raise ConversionError(
            f"`{sources[0]}` and `{sources[1]}` are packed differently: convert "
            "the checkpoint they were made from again"
        )
    return settings.pop()


def lossless_step(
    builder: StepBuilder,
    sources: list[str],
    made: list[Matrix],
    kind: str,
    setting: Quantization,
) -> TensorStep:
    """Plan one tensor of an expert projection: copied, interleaved or deinterleaved."""
    stored = [builder.stored(f"{path}.{kind}") for path in sources]
    dtypes = {tensor.dtype for tensor in stored}
    if len(dtypes) > 1:
        raise ConversionError(
            f"`{sources[0]}.{kind}` and `{sources[1]}.{kind}` have different dtypes "
            f"{sorted(dtypes)}: they cannot be one tensor, use `--layout split`"
        )
    dtype = dtypes.pop()
    tensors = [expert_tensor(builder, matrix, kind, setting, dtype) for matrix in made]
    if len(stored) > 1:
        return Interleave((stored[0], stored[1]), (tensors[0],))
    if len(tensors) > 1:
        return Deinterleave((stored[0],), (tensors[0], tensors[1]))
    return Copy((stored[0],), (tensors[0],))


def encode_step(
    builder: StepBuilder,
    sources: list[str],
    made: list[Matrix],
    found: Quantization | None,
    setting: Quantization,
) -> TensorStep:
    """Plan the encoding of an expert projection; `found` None means dense."""
    read = ("weight",) if found is None else ENCODED_KINDS[found.mode]
    dtype = SCALE_DTYPES[setting.mode]
    return Encode(
        sources=tuple(
            builder.stored(f"{path}.{kind}") for path in sources for kind in read
        ),
        outputs=tuple(
            expert_tensor(builder, matrix, kind, setting, dtype)
            for matrix in made
            for kind in ENCODED_KINDS[setting.mode]
        ),
        setting=setting,
        source_setting=found,
        is_transposed=builder.checkpoint.layout.expert_form == IN_OUT,
    )


def expert_tensor(
    builder: StepBuilder, matrix: Matrix, kind: str, setting: Quantization, dtype: str
) -> OutputTensor:
    """Return the output tensor of one kind of an expert projection."""
    name = f"{matrix.path}.{kind}"
    *outer, columns = matrix.shape
    groups = columns // setting.group_size
    if kind == "bias":
        return builder.output(name, dtype, tuple(outer))
    if kind == "weight" and builder.layout.expert_form == BLOCKS:
        return builder.output(name, "U8", (*outer, groups, BYTES_PER_BLOCK))
    if kind == "weight":
        words = columns * setting.bits // BITS_PER_WORD
        return builder.output(name, "U32", (*outer, words))
    return builder.output(name, dtype, (*outer, groups))
