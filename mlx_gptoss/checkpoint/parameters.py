"""List the parameters of a model in memory, each with its stored tensors.

Floats take the compute dtype; quantized weights stay words and bytes. q, k and v are
concatenated by rows if they share one setting; dense experts are (experts, in, out).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.format.layout import (
    BITS_PER_WORD,
    EXPERTS,
    LAYER_NUMBER,
    PLAIN,
    Layout,
    Matrix,
    Structure,
    fuses_qkv,
    matrices,
    part_table,
    vectors,
)

FLOAT, WORD, BYTE = "float", "word", "byte"
WORD_BYTES, BYTE_BYTES = 4, 1
KINDS = ("weight", "scales", "biases", "bias")


@dataclass(frozen=True)
class Parameter:
    """One array of the model: its `sources`, one after another.

    `form` is FLOAT, WORD (uint32) or BYTE (uint8). If `transposed`, each expert is
    stored as (out, in) and is (in, out) in memory.
    """

    name: str
    part: str
    form: str
    shape: tuple[int, ...]
    sources: tuple[StoredTensor, ...]
    transposed: bool = False

    def nbytes(self, float_bytes: int) -> int:
        width = {FLOAT: float_bytes, WORD: WORD_BYTES, BYTE: BYTE_BYTES}[self.form]
        return prod(self.shape) * width


def part_of(name: str) -> str:
    """Return the part that a canonical tensor name belongs to."""
    return part_table()[LAYER_NUMBER.sub(".{n}.", name, count=1)]


def list_parameters(
    config: ModelConfig,
    structure: Structure,
    layout: Layout,
    tensors: Mapping[str, StoredTensor],
) -> Iterator[Parameter]:
    """List all parameters in the order of the model."""
    by_path = {matrix.path: matrix for matrix in matrices(config, structure.experts)}
    for matrix in by_path.values():
        path, _, name = matrix.path.rpartition(".")
        number = LAYER_NUMBER.search(matrix.path)
        fused = name in ("q_proj", "k_proj", "v_proj") and (
            number is None or fuses_qkv(structure, int(number[1]))
        )
        if not fused:
            yield from list_matrix_parameters(
                [matrix], matrix.path, structure, layout, tensors
            )
        elif name == "q_proj":
            three = [by_path[f"{path}.{x}_proj"] for x in "qkv"]
            yield from list_matrix_parameters(
                three, f"{path}.qkv_proj", structure, layout, tensors
            )
    for vector in vectors(config):
        yield Parameter(
            vector.name, vector.part, FLOAT, vector.shape, (tensors[vector.name],)
        )


def list_matrix_parameters(
    members: list[Matrix],
    path: str,
    structure: Structure,
    layout: Layout,
    tensors: Mapping[str, StoredTensor],
) -> Iterator[Parameter]:
    """List weight, scales, biases and bias of matrices concatenated by rows."""
    first = members[0]
    setting = structure.quantization.get(first.path)
    rows = sum(matrix.shape[-2] for matrix in members)
    shape = (*first.shape[:-2], rows, first.shape[-1])
    dense_experts = first.part == EXPERTS and setting is None
    for kind in KINDS:
        if f"{first.path}.{kind}" not in tensors:
            continue
        form, in_memory = memory_form(kind, shape, setting, in_out=dense_experts)
        yield Parameter(
            name=f"{path}.{kind}",
            part=first.part,
            form=form,
            shape=in_memory,
            sources=tuple(
                part
                for matrix in members
                for part in tensors[f"{matrix.path}.{kind}"].parts
            ),
            transposed=dense_experts
            and kind == "weight"
            and layout.expert_form == PLAIN,
        )


def memory_form(
    kind: str, shape: tuple[int, ...], setting: Quantization | None, *, in_out: bool
) -> tuple[str, tuple[int, ...]]:
    """Return form and shape in memory of one tensor of a matrix (..., out, in)."""
    *outer, columns = shape
    if kind == "bias":
        return FLOAT, tuple(outer)
    if setting is None:
        *stack, rows = outer
        return FLOAT, (*stack, columns, rows) if in_out else shape
    if kind == "weight":
        return WORD, (*outer, columns * setting.bits // BITS_PER_WORD)
    form = FLOAT if setting.is_affine else BYTE
    return form, (*outer, columns // setting.group_size)
