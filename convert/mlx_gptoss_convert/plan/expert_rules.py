"""Choose the steps of expert projections: rearranged, encoded or dense.

Packed experts keep their bytes, with rows rearranged between packed and split layouts;
dense experts, and those the recipe sets otherwise, are encoded, unless the builder
keeps them dense. Reads no weights.
"""

from collections.abc import Iterator

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import (
    BITS_PER_WORD,
    BLOCKS,
    BYTES_PER_BLOCK,
    IN_OUT,
    JOINED,
    PACKED,
    SPLIT,
    Matrix,
)
from mlx_gptoss_convert.plan.builder import SCALE_DTYPES, StepBuilder, kept_dtype
from mlx_gptoss_convert.plan.recipe import fit_columns
from mlx_gptoss_convert.read.nvfp4 import as_records
from mlx_gptoss_convert.steps.codecs import ENCODED_KINDS
from mlx_gptoss_convert.steps.encode import DecodeExperts, Encode
from mlx_gptoss_convert.steps.encode_nvfp4 import EncodeNvfp4
from mlx_gptoss_convert.steps.rearrange import Copy, Deinterleave, Halve, Interleave
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep

# Expert projections: (of the source, of the result), by layout of source and result.
DOWN = (("down_proj",), ("down_proj",))
EXPERT_MOVES = {
    (PACKED, PACKED): ((("gate_up_proj",), ("gate_up_proj",)), DOWN),
    (PACKED, SPLIT): ((("gate_up_proj",), ("gate_proj", "up_proj")), DOWN),
    (JOINED, SPLIT): ((("gate_up_proj",), ("gate_proj", "up_proj")), DOWN),
    (SPLIT, PACKED): ((("gate_proj", "up_proj"), ("gate_up_proj",)), DOWN),
    (SPLIT, SPLIT): (
        (("gate_proj",), ("gate_proj",)),
        (("up_proj",), ("up_proj",)),
        DOWN,
    ),
}
# mlx-lm has separate gate and up modules and looks up settings under these names.
STOCK_NAMES = {"gate_up_proj": ("gate_proj", "up_proj")}


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
        if builder.layout.expert_form == IN_OUT or (builder.keeps_dense and not found):
            yield dense_step(builder, sources, made, found)
            yield lossless_step(builder, sources, made, "bias", found)
            continue
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
            f"`{sources[0]}` and `{sources[1]}` are packed differently, so they cannot "
            "be one tensor: use `--layout split`"
        )
    return settings.pop()


def lossless_step(
    builder: StepBuilder,
    sources: list[str],
    made: list[Matrix],
    kind: str,
    setting: Quantization | None,
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
    if is_joined(builder, made):
        return Halve((stored[0],), (tensors[0], tensors[1]))
    if len(tensors) > 1:
        return Deinterleave((stored[0],), (tensors[0], tensors[1]))
    return Copy((stored[0],), (tensors[0],))


def dense_step(
    builder: StepBuilder,
    sources: list[str],
    made: list[Matrix],
    found: Quantization | None,
) -> TensorStep:
    """Plan an expert projection as dense floats; `found` None means it was dense."""
    read = ("weight",) if found is None else ENCODED_KINDS[found.mode]
    stored = tuple(
        builder.stored(f"{path}.{kind}") for path in sources for kind in read
    )
    # Packed experts have no floats of their own but their biases.
    floats = builder.stored(f"{sources[0]}.bias") if found else stored[0]
    return DecodeExperts(
        sources=stored,
        outputs=tuple(
            expert_tensor(builder, matrix, "weight", None, kept_dtype(floats))
            for matrix in made
        ),
        is_transposed=builder.checkpoint.layout.expert_form == IN_OUT,
        transposes=builder.layout.expert_form == IN_OUT,
        source_setting=found,
        is_joined=is_joined(builder, made),
    )


def is_joined(builder: StepBuilder, made: list[Matrix]) -> bool:
    """Whether a source with all rows of gate before those of up becomes two."""
    return builder.checkpoint.layout.experts == JOINED and len(made) > 1


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
    stored = tuple(
        builder.stored(f"{path}.{kind}") for path in sources for kind in read
    )
    outputs = tuple(
        expert_tensor(builder, matrix, kind, setting, dtype)
        for matrix in made
        for kind in ENCODED_KINDS[setting.mode]
    )
    records = tuple(x for x in map(as_records, stored) if x is not None)
    if setting == MXFP4 and len(records) == len(stored):
        return EncodeNvfp4(records, outputs, is_transposed=False)
    return Encode(
        sources=stored,
        outputs=outputs,
        setting=setting,
        source_setting=found,
        is_transposed=builder.checkpoint.layout.expert_form == IN_OUT,
        is_joined=is_joined(builder, made),
    )


def expert_tensor(
    builder: StepBuilder,
    matrix: Matrix,
    kind: str,
    setting: Quantization | None,
    dtype: str,
) -> OutputTensor:
    """Return the output tensor of one kind of an expert projection; None is dense."""
    name = f"{matrix.path}.{kind}"
    *outer, columns = matrix.shape
    if kind == "bias":
        return builder.output(name, dtype, tuple(outer))
    if setting is None:
        *stack, rows = outer
        turned = builder.layout.expert_form == IN_OUT
        shape = (*stack, columns, rows) if turned else matrix.shape
        return builder.output(name, dtype, shape)
    groups = columns // setting.group_size
    if kind == "weight" and builder.layout.expert_form == BLOCKS:
        return builder.output(name, "U8", (*outer, groups, BYTES_PER_BLOCK))
    if kind == "weight":
        words = columns * setting.bits // BITS_PER_WORD
        return builder.output(name, "U32", (*outer, words))
    return builder.output(name, dtype, (*outer, groups))
