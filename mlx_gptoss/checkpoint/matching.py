"""Match stored tensors with those that a config demands.

Checks that every tensor is present with the right dtype and shape, and that none is
left over. The tensors decide how each matrix is quantized; `config.json` must agree.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.config import (
    AFFINE,
    MXFP4,
    QUANTIZATION_MODES,
    ModelConfig,
    Quantization,
)
from mlx_gptoss.format.layout import (
    BITS_PER_WORD,
    BLOCKS,
    BYTES,
    BYTES_PER_BLOCK,
    EXPERTS,
    FLOATS,
    HARMLESS_TENSORS,
    IN_OUT,
    VALUES_PER_BLOCK,
    WORDS,
    Layout,
    Matrix,
    Structure,
    matrices,
    vectors,
)

Modules = Mapping[str, Quantization | None]  # overrides in `config.json`
TensorSpec = tuple[tuple[str, ...], tuple[int, ...]]  # dtypes allowed, shape expected

OTHER_CONFIG = "take the `config.json` that was saved with these weights"
NOT_BF16 = "not supported, save the model as bf16"
FP8_ADVICE = f"FP8 is {NOT_BF16} or use the checkpoint it was quantized from"


@dataclass(frozen=True)
class TensorMatch:
    """The structure found, and all tensors by canonical name."""

    structure: Structure
    tensors: Mapping[str, StoredTensor]


def match_tensors(
    stored: Mapping[str, StoredTensor],
    config: ModelConfig,
    layout: Layout,
    modules: Modules,
) -> TensorMatch:
    """Check all stored tensors; raises CheckpointError naming the first bad one."""
    if layout.expert_form == BLOCKS:
        check_block_sizes(config)
    found: dict[str, StoredTensor] = {}
    quantization: dict[str, Quantization] = {}
    used: set[str] = set()
    everything = list(matrices(config, layout.experts))
    rows: Counter[str] = Counter()  # of all matrices that share a stored name
    for matrix in everything:
        rows[stored_name(matrix, layout)] += matrix.shape[-2]

    first_row: Counter[str] = Counter()
    for matrix in everything:
        name = stored_name(matrix, layout)
        setting = find_setting(matrix, layout, stored, modules)
        if setting is not None:
            quantization[matrix.path] = setting
        specs = matrix_specs(matrix, setting, layout, rows[name])
        for kind, spec in specs.items():
            kept_as = layout.stored_name(f"{matrix.path}.{kind}")
            tensor = require_tensor(kept_as, spec, stored)
            used.add(kept_as)
            if rows[name] != matrix.shape[-2]:
                tensor = slice_rows(tensor, first_row[name], matrix.shape[-2])
            found[f"{matrix.path}.{kind}"] = tensor
        first_row[name] += matrix.shape[-2]
    for vector in vectors(config):
        name = layout.stored_name(vector.name)
        found[vector.name] = require_tensor(name, (FLOATS, vector.shape), stored)
        used.add(name)
    check_unexpected(stored, used)
    return TensorMatch(Structure(quantization, layout.experts), found)


def stored_name(matrix: Matrix, layout: Layout) -> str:
    return layout.stored_name(f"{matrix.path}.weight")


def slice_rows(tensor: StoredTensor, first: int, count: int) -> StoredTensor:
    """Narrow a tensor to a range of rows, which are contiguous in the file."""
    row_bytes = prod(tensor.shape[1:]) * tensor.itemsize
    return replace(
        tensor,
        shape=(count, *tensor.shape[1:]),
        offset=tensor.offset + first * row_bytes,
        nbytes=count * row_bytes,
    )


def find_setting(
    matrix: Matrix,
    layout: Layout,
    stored: Mapping[str, StoredTensor],
    modules: Modules,
) -> Quantization | None:
    """Infer how a matrix is quantized from its weight and scales; None is dense.

    A setting of `config.json` for a dense matrix is stale: `notices` names it.
    """
    if matrix.part == EXPERTS and layout.expert_form == BLOCKS:
        check_expert_settings(matrix, modules)
        return MXFP4
    found = stored_setting(matrix, layout, stored)
    weight = stored.get(stored_name(matrix, layout))
    if weight is None or matrix.path not in modules:
        return found  # a missing weight is reported later, with its shape
    said = modules[matrix.path]
    if found is not None and said != found:
        raise ConfigError(
            f"`config.json` has `quantization.{matrix.path}` = "
            f"{describe_setting(said)}, but `{weight.name}` in `{weight.file}` is "
            f"{describe_setting(found)}: remove that entry, the tensors themselves "
            "decide"
        )
    return found


def describe_setting(setting: Quantization | None) -> str:
    if setting is None:
        return "false"
    return f"{setting.mode} in {setting.bits} bits, groups of {setting.group_size}"


def stored_setting(
    matrix: Matrix, layout: Layout, stored: Mapping[str, StoredTensor]
) -> Quantization | None:
    """Infer the setting from the tensors only."""
    weight = stored.get(stored_name(matrix, layout))
    name = layout.stored_name(f"{matrix.path}.scales")
    if weight is None or (name not in stored and weight.dtype in FLOATS):
        return None
    if name not in stored and weight.dtype in WORDS:
        raise missing_tensor_error(name, "of a quantized matrix", stored)
    return None if name not in stored else infer_setting(weight, stored[name], matrix)


def check_block_sizes(config: ModelConfig) -> None:
    """Require row lengths of experts that are multiples of an MXFP4 block."""
    for key in ("hidden_size", "intermediate_size"):
        columns = getattr(config, key)
        if columns % VALUES_PER_BLOCK:
            raise ConfigError(
                f"`config.json` has `{key}` = {columns}, not a multiple of "
                f"{VALUES_PER_BLOCK} as MXFP4 experts require"
            )


def check_expert_settings(
    matrix: Matrix, modules: Mapping[str, Quantization | None]
) -> None:
    """Require that `quantization` gives MXFP4 for packed experts, or nothing."""
    parent = matrix.path.rpartition(".")[0]
    for name in ("gate_up_proj", "gate_proj", "up_proj", "down_proj"):
        setting = modules.get(f"{parent}.{name}", MXFP4)
        if setting != MXFP4:
            raise ConfigError(
                f"`config.json` has `quantization.{parent}.{name}` = "
                f"{describe_setting(setting)}, but these experts are stored as MXFP4: "
                "remove that entry, the tensors themselves decide"
            )


def infer_setting(
    weight: StoredTensor, scales: StoredTensor, matrix: Matrix
) -> Quantization:
    """Infer bits and group size from shapes, the mode from these and the scales."""
    columns = matrix.shape[-1]
    words, groups = weight.shape[-1:], scales.shape[-1:]
    bits = words[0] * BITS_PER_WORD // columns if words else 0
    group_size = columns // groups[0] if groups and groups[0] else 0
    is_affine = scales.dtype not in BYTES
    fitting = (
        mode
        for mode, (all_bits, all_groups) in QUANTIZATION_MODES.items()
        if is_affine == (mode == AFFINE)
        and bits in all_bits
        and group_size in all_groups
    )
    mode = next(fitting, None)
    if mode is None:
        raise CheckpointError(
            f"tensor `{weight.name}` in `{weight.file}` has shape {weight.shape} and "
            f"its scales ({scales.dtype}) have shape {scales.shape}: no supported "
            f"quantization packs {columns} columns like that "
            f"({', '.join(QUANTIZATION_MODES)}), convert the original again"
        )
    return Quantization(bits=bits, group_size=group_size, mode=mode)


def matrix_specs(
    matrix: Matrix, setting: Quantization | None, layout: Layout, rows: int
) -> dict[str, TensorSpec]:
    """List the stored tensors of a matrix; `rows` counts all that share its name."""
    stack, columns = matrix.shape[:-2], matrix.shape[-1]
    outer = (*stack, rows)
    form = layout.expert_form if matrix.part == EXPERTS else None
    specs: dict[str, TensorSpec]
    if setting is None and form == IN_OUT:
        specs = {"weight": (FLOATS, (*stack, columns, rows))}
    elif setting is None:
        specs = {"weight": (FLOATS, (*outer, columns))}
    elif form == BLOCKS:
        blocks = (*outer, columns // VALUES_PER_BLOCK)
        specs = {
            "weight": (BYTES, (*blocks, BYTES_PER_BLOCK)),
            "scales": (BYTES, blocks),
        }
    else:
        groups = (*outer, columns // setting.group_size)
        specs = {"weight": (WORDS, (*outer, columns * setting.bits // BITS_PER_WORD))}
        if setting.is_affine:
            specs |= {"scales": (FLOATS, groups), "biases": (FLOATS, groups)}
        else:
            specs |= {"scales": (BYTES, groups)}
    if matrix.has_bias:
        specs["bias"] = (FLOATS, outer)
    return specs


def require_tensor(
    name: str, spec: TensorSpec, stored: Mapping[str, StoredTensor]
) -> StoredTensor:
    """Find one tensor and check its dtype and shape."""
    dtypes, shape = spec
    if name not in stored:
        raise missing_tensor_error(
            name, f"({' or '.join(dtypes)}, shape {shape})", stored
        )
    tensor = stored[name]
    if tensor.dtype not in dtypes:
        advice = FP8_ADVICE if tensor.dtype.startswith("F8_E") else NOT_BF16
        raise CheckpointError(
            f"tensor `{tensor.name}` in `{tensor.file}` has dtype {tensor.dtype}, "
            f"expected {' or '.join(dtypes)}: {advice}"
        )
    if tensor.shape != shape:
        turned = tensor.shape == (*shape[:-2], *reversed(shape[-2:]))
        advice = "it is transposed, save it the other way" if turned else OTHER_CONFIG
        raise CheckpointError(
            f"tensor `{tensor.name}` in `{tensor.file}` has shape {tensor.shape}, "
            f"expected {shape}: {advice}"
        )
    return tensor


def missing_tensor_error(
    name: str, what: str, stored: Mapping[str, StoredTensor]
) -> CheckpointError:
    """Make the error for a tensor that is in no file."""
    files = sorted({tensor.file.name for tensor in stored.values()})
    where = f"`{files[0]}`"
    if len(files) > 1:
        where = f"{len(files)} files (`{files[0]}` to `{files[-1]}`)"
    return CheckpointError(
        f"tensor `{name}` {what} is missing from {where}: save the model again "
        "with all of its tensors, or add the file that has it"
    )


def check_unexpected(stored: Mapping[str, StoredTensor], used: set[str]) -> None:
    """Raise CheckpointError for tensors unknown to the model, except harmless ones."""
    extra = sorted(
        name for name in set(stored) - used if not HARMLESS_TENSORS.fullmatch(name)
    )
    if extra:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        tensor = stored[extra[0]]
        raise CheckpointError(
            f"tensor `{tensor.name}`{more} in `{tensor.file}` has no place in this "
            f"model: save the model without it, or {OTHER_CONFIG}"
        )
