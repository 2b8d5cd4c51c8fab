"""NVFP4 of modelopt and of compressed-tensors, decoded or as records of codes.

The names and meaning of the tensors are in `mlx_gptoss.format.foreign_forms`. Values
are computed in float32 and rounded once, to bfloat16. A record is a row of codes and
the scales of its groups: what is needed to write the same codes as MXFP4. Peak memory:
twice the rows that are read; where they are stored transposed, the codes of one matrix
besides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.block_formats import E4M3_VALUES
from mlx_gptoss.format.dtypes import RAW_DTYPES, cast
from mlx_gptoss.format.foreign_forms import (
    ACTIVATION_SCALE,
    COMPRESSED_SCALE,
    MODELOPT_SCALE,
    NVFP4_GROUP,
)
from mlx_gptoss.format.layout import DTYPE_BYTES, FLOATS
from mlx_gptoss.format.mxfp4 import BYTE_VALUES
from mlx_gptoss_convert.read.packed_values import CODES_PER_BYTE, decode_groups
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

FLOAT = "BF16"  # what values are rounded to
FLOAT32 = np.dtype(np.float32)
SCALE_BYTES = 4  # of a group in a record: float32


@dataclass(frozen=True)
class Nvfp4Rows:
    """Decodes one matrix, or a stack of them; a `ByteDecoder`.

    `codes` and `scales` are (..., rows, columns / 2 or 16), or with the last two axes
    exchanged if `is_transposed`. `total` is the scale of all, or of each of the stack;
    if `is_reciprocal`, its reciprocal: division rounds as the library does. With
    `as_records`, rows of codes and float32 scales are read instead of values.
    """

    codes: SourceTensor
    scales: SourceTensor
    total: tuple[float, ...]
    rows: int
    columns: int
    is_transposed: bool = False
    is_reciprocal: bool = False
    as_records: bool = False
    name = "NVFP4"

    @property
    def row_bytes(self) -> int:
        if self.as_records:
            return record_bytes(self.columns)
        return self.columns * DTYPE_BYTES[FLOAT]

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the bytes `start` to `stop` of the rows; `read` is not used."""
        first, last = start // self.row_bytes, -(-stop // self.row_bytes)
        found = [
            self.matrix_rows(
                matrix,
                max(first - matrix * self.rows, 0),
                min(last - matrix * self.rows, self.rows),
            )
            for matrix in range(first // self.rows, -(-last // self.rows))
        ]
        rows = found[0] if len(found) == 1 else np.concatenate(found)
        raw = rows.reshape(-1).view(np.uint8)
        skipped = start - first * self.row_bytes
        return raw[skipped : skipped + stop - start]

    def matrix_rows(self, matrix: int, first: int, last: int) -> np.ndarray:
        """Return rows of one matrix, as records or as values."""
        with TensorReader() as reader:
            codes, raw = (
                self.part_rows(reader, stored, matrix, first, last)
                for stored in (self.codes, self.scales)
            )
        total = np.float32(self.total[matrix if len(self.total) > 1 else 0])
        groups = E4M3_VALUES[raw]
        scales = groups / total if self.is_reciprocal else groups * total
        if self.as_records:
            return np.concatenate([codes, scales.view(np.uint8)], axis=1)
        values = decode_groups(
            codes.reshape(-1), BYTE_VALUES, scales.reshape(-1), NVFP4_GROUP, FLOAT
        )
        return values.reshape(len(codes), -1)

    def part_rows(
        self,
        reader: TensorReader,
        stored: SourceTensor,
        matrix: int,
        first: int,
        last: int,
    ) -> np.ndarray:
        """Read rows of the codes or of the scales of one matrix as bytes."""
        size = prod(stored.shape[-2:])
        if self.is_transposed:
            raw = reader.read(stored, matrix * size, (matrix + 1) * size)
            turned = raw.reshape(stored.shape[-2:]).T[first:last]
            return np.ascontiguousarray(turned)
        width = stored.shape[-1]
        begin = matrix * size
        raw = reader.read(stored, begin + first * width, begin + last * width)
        return raw.reshape(-1, width)


def record_bytes(columns: int) -> int:
    """Bytes of a record: its codes, and a float32 for each group."""
    return columns // CODES_PER_BYTE + columns // NVFP4_GROUP * SCALE_BYTES


def decode_records(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode codes (rows, columns / 2) and scales (rows, columns / 16) to float32."""
    values = BYTE_VALUES.view(np.uint64)[codes, 0].view(np.float32)
    grouped = values.reshape(*scales.shape, NVFP4_GROUP) * scales[..., None]
    return grouped.reshape(values.shape)


def as_records(stored: SourceTensor) -> SourceTensor | None:
    """Present a weight as records, U8 (..., rows, bytes); None if it is not NVFP4."""
    if stored.parts:
        parts = [as_records(part) for part in stored.parts]
        found = tuple(part for part in parts if part is not None)
        if len(found) < len(parts):
            return None
        size = found[0].shape[-1]
        return replace(
            stored, dtype="U8", shape=(*stored.shape[:-1], size), parts=found
        )
    decoder = stored.decoder
    if not isinstance(decoder, Nvfp4Rows):
        return None
    size = record_bytes(decoder.columns)
    return replace(
        stored,
        dtype="U8",
        shape=(*stored.shape[:-1], size),
        decoder=replace(decoder, as_records=True),
    )


def decode_modelopt(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Present all weights of a modelopt checkpoint as floats."""
    shown = without_activation_scales(stored)
    for name in list(shown):
        found = MODELOPT_SCALE.fullmatch(name)
        if found is None:
            continue
        path, joint = found["weight"], found["joint"]
        weight = f"{path}.weight" if joint == "." else path
        scales = f"{path}{joint}weight_scale"
        total = read_floats(require(shown.pop(name, None), name))
        made = decoded_matrix(
            require(shown.pop(weight, None), weight),
            require(shown.pop(scales, None), scales),
            total,
            is_transposed=joint == "_",
        )
        shown[f"{path}.weight"] = made
        if joint == "_" and f"{path}_bias" in shown:
            shown[f"{path}.bias"] = shown.pop(f"{path}_bias")
    return shown


def decode_compressed(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Present all weights of a compressed-tensors checkpoint as floats."""
    shown = without_activation_scales(stored)
    for name in list(shown):
        found = COMPRESSED_SCALE.fullmatch(name)
        if found is None:
            continue
        path = found["path"]
        total = read_floats(shown.pop(name))
        if not total.all():
            raise CheckpointError(
                f"tensor `{name}` in `{stored[name].file}` is zero, and values are "
                "divided by it: save the model again"
            )
        codes, scales = f"{path}.weight_packed", f"{path}.weight_scale"
        shown[f"{path}.weight"] = decoded_matrix(
            require(shown.pop(codes, None), codes),
            require(shown.pop(scales, None), scales),
            total,
            is_reciprocal=True,
        )
    return shown


def without_activation_scales(
    stored: Mapping[str, StoredTensor],
) -> dict[str, StoredTensor]:
    return {k: x for k, x in stored.items() if not ACTIVATION_SCALE.fullmatch(k)}


def require(tensor: StoredTensor | None, name: str) -> StoredTensor:
    if tensor is None:
        raise CheckpointError(
            f"tensor `{name}` of an NVFP4 matrix is missing: save the model again "
            "with all of its tensors, or add the file that has it"
        )
    return tensor


def read_floats(stored: StoredTensor) -> np.ndarray:
    """Read the scales of whole matrices, one or a few floats, as float32."""
    with TensorReader() as reader:
        source = SourceTensor.from_checkpoint(stored.name, stored)
        raw = reader.read(replace(source, shape=(stored.count,)), 0, stored.nbytes)
    if stored.dtype in FLOATS:
        values = cast(raw.view(RAW_DTYPES[stored.dtype]), stored.dtype, FLOAT32)
        if np.isfinite(values).all():
            return values.reshape(-1)
    raise CheckpointError(
        f"tensor `{stored.name}` in `{stored.file}` is not one or a few finite floats, "
        "as the scales of whole matrices are: save the model again"
    )


def decoded_matrix(
    codes: StoredTensor,
    scales: StoredTensor,
    total: np.ndarray,
    *,
    is_transposed: bool = False,
    is_reciprocal: bool = False,
) -> DecodedTensor:
    """Present a matrix as bfloat16; raises CheckpointError if its parts do not fit."""
    *stack, rows, half = codes.shape if len(codes.shape) > 1 else (0, *codes.shape)
    if is_transposed:
        rows, half = half, rows
    columns = half * CODES_PER_BYTE
    groups = columns // NVFP4_GROUP
    expected = (*stack, *((groups, rows) if is_transposed else (rows, groups)))
    fits = codes.dtype == "U8" and scales.dtype in ("F8_E4M3", "U8")
    fits = fits and columns % NVFP4_GROUP == 0
    if not fits or scales.shape != expected or len(total) not in (1, prod(stack)):
        raise CheckpointError(
            f"tensor `{codes.name}` in `{codes.file}` is {codes.dtype} of shape "
            f"{codes.shape}, its scales are {scales.dtype} of shape {scales.shape}: "
            f"expected U8 and F8_E4M3 of shape {expected}, as NVFP4 has them"
        )
    shape = (*stack, rows, columns)
    return DecodedTensor(
        name=codes.name,
        file=codes.file,
        dtype=FLOAT,
        shape=shape,
        offset=codes.offset,
        nbytes=prod(shape) * DTYPE_BYTES[FLOAT],
        decoder=Nvfp4Rows(
            SourceTensor.from_checkpoint(codes.name, codes),
            SourceTensor.from_checkpoint(scales.name, scales),
            tuple(map(float, total)),
            rows,
            columns,
            is_transposed,
            is_reciprocal,
        ),
    )
