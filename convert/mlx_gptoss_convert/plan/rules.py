"""Choose the step of each tensor, from a checkpoint and a recipe.

Matrices outside the experts (see `expert_rules`) are quantized as the recipe says,
never to more bits than the source has. Everything else is copied. Reads no weights.
"""

from collections.abc import Iterator

from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import (
    BITS_PER_WORD,
    EXPERTS,
    Matrix,
    matrices,
    vectors,
)
from mlx_gptoss_convert.plan.builder import (
    AFTER_LAYERS,
    SCALE_DTYPES,
    StepBuilder,
    copy_steps,
    layer_of,
)
from mlx_gptoss_convert.plan.expert_rules import expert_steps
from mlx_gptoss_convert.plan.recipe import HALF, fit_columns
from mlx_gptoss_convert.steps.codecs import ENCODED_KINDS
from mlx_gptoss_convert.steps.quantize import Quantize, Requantize, RoundToHalf
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep


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
