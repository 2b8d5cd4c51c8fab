"""Pairs of LoRA tensors in a file, in any order of axes, and the update they make.

Knows tensors and orders; nothing of names.

Dimensions: r rank, E experts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.checkpoint.adapters.update import (
    WeightUpdate,
    join_halves,
    stack_experts,
)
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tensor_reads import (
    open_files,
    read_values,
    split_into_chunks,
)
from mlx_gptoss.checkpoint.value_checks import mark_invalid
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.dtypes import cast

Factors = tuple[np.ndarray, np.ndarray]  # a (..., in, r) and b (..., r, out)
GATE, UP = "gate", "up"


@dataclass(frozen=True)
class FactorOrder:
    """How a layout stores A and B.

    `sizes` maps their shapes, and the number of experts, to (rank, in, out), or None if
    they do not belong together. `arrange` turns both into a (..., in, r), b (..., r,
    out).
    """

    sizes: Callable[
        [tuple[int, ...], tuple[int, ...], int], tuple[int, int, int] | None
    ]
    arrange: Callable[[np.ndarray, np.ndarray, int], Factors]


@dataclass(frozen=True)
class StoredPair:
    """A and B of one LoRA in a file: an update, or a part of one.

    `part` is "" for the whole matrix, "gate" or "up" for that half of gate_up_proj, or
    the number of the expert it belongs to. `scale` is the adapter's own.
    """

    a: StoredTensor
    b: StoredTensor
    order: FactorOrder
    experts: int  # 0 for a matrix that is no stack of experts
    rank: int
    scale: float
    part: str = ""


def _linear(
    a: tuple[int, ...], b: tuple[int, ...], _: int
) -> tuple[int, int, int] | None:
    return (a[0], a[1], b[0]) if len(a) == len(b) == 2 and a[0] == b[1] else None


def _linear_mlx(
    a: tuple[int, ...], b: tuple[int, ...], _: int
) -> tuple[int, int, int] | None:
    return (a[1], a[0], b[1]) if len(a) == len(b) == 2 and a[1] == b[0] else None


def _experts(
    a: tuple[int, ...], b: tuple[int, ...], experts: int
) -> tuple[int, int, int] | None:
    if not (len(a) == len(b) == 2 and a[0] == b[1]) or not experts or a[0] % experts:
        return None
    return a[0] // experts, a[1], b[0]


def _experts_turned(
    a: tuple[int, ...], b: tuple[int, ...], experts: int
) -> tuple[int, int, int] | None:
    found = _experts(a, b, experts)
    return found and (found[0], found[2], found[1])


def _experts_mlx(
    a: tuple[int, ...], b: tuple[int, ...], experts: int
) -> tuple[int, int, int] | None:
    fit = len(a) == len(b) == 3 and a[0] == b[0] == experts and a[1] == b[2]
    return (a[1], a[2], b[1]) if fit else None


# torch's Linear: A (r, in), B (out, r).
LINEAR = FactorOrder(_linear, lambda a, b, _: (a.T, b.T))
# mlx-lm: A (in, r), B (r, out).
LINEAR_MLX = FactorOrder(_linear_mlx, lambda a, b, _: (a, b))
# PEFT on a stack of experts: A (E * r, in), the rows of an expert together; B (out,
# r * E), the columns of a rank together.
EXPERTS_PEFT = FactorOrder(
    _experts,
    lambda a, b, E: (
        a.reshape(E, -1, a.shape[1]).swapaxes(1, 2),
        b.reshape(b.shape[0], -1, E).transpose(2, 1, 0),
    ),
)
# The same with in and out exchanged: PEFT takes experts for (E, out, in) unless they
# say `is_transposed`, which gpt-oss's do only since transformers 5.
EXPERTS_TURNED = FactorOrder(
    _experts_turned,
    lambda a, b, E: (
        b.reshape(b.shape[0], -1, E).transpose(2, 0, 1),
        a.reshape(E, -1, a.shape[1]),
    ),
)
# mlx-lm: A (E, r, in), B (E, out, r).
EXPERTS_MLX = FactorOrder(
    _experts_mlx, lambda a, b, _: (a.swapaxes(1, 2), b.swapaxes(1, 2))
)


def read_update(
    pairs: Sequence[StoredPair], shape: tuple[int, ...], scale: float
) -> WeightUpdate:
    """Read the pairs of one update of a weight of `shape`, and join them."""
    found = {pair.part: read_pair(pair, scale) for pair in pairs}
    if "" in found:
        return found[""]
    if GATE in found or UP in found:
        return join_halves(found.get(GATE), found.get(UP))
    return stack_experts([(int(part), x) for part, x in found.items()], shape[0])


def read_pair(pair: StoredPair, scale: float) -> WeightUpdate:
    stored_a, stored_b = read_floats(pair.a), read_floats(pair.b)
    a, b = pair.order.arrange(stored_a, stored_b, pair.experts)
    return WeightUpdate(
        np.ascontiguousarray(a),
        np.ascontiguousarray(b) * np.float32(pair.scale * scale),
    )


def read_floats(tensor: StoredTensor) -> np.ndarray:
    """Read a tensor as float32. Raises CheckpointError for NaN and infinity."""
    values = np.empty(tensor.count, np.float32)
    with open_files([tensor.file]) as files:
        for chunk in split_into_chunks(tensor):
            stored = read_values(files[tensor.file], chunk)
            bad = mark_invalid(tensor.dtype, stored)
            if bad.any():
                raise not_finite_error(tensor, chunk.start + int(bad.argmax()))
            values[chunk.start : chunk.stop] = cast(
                stored, tensor.dtype, np.dtype(np.float32)
            )
    return values.reshape(tensor.shape)


def not_finite_error(tensor: StoredTensor, flat: int) -> CheckpointError:
    place = tuple(int(i) for i in np.unravel_index(flat, tensor.shape))
    return CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` has a non-finite value at {place}: "
        "its training diverged or the file is damaged, use an earlier save"
    )
