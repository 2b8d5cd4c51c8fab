"""Weights quantized by bitsandbytes in 4 bits, decoded to the floats they stand for.

The names and meaning of the tensors are in `mlx_gptoss.format.foreign_forms`. Values
are computed in float32 and rounded once, as bitsandbytes' CPU kernels do. Peak memory:
twice the values that are read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.foreign_forms import STATE, STATE_PARTS
from mlx_gptoss.format.layout import DTYPE_BYTES
from mlx_gptoss_convert.read.packed_values import (
    CODES_PER_BYTE,
    byte_values,
    decode_groups,
)
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, eq=False)
class BitsandbytesRows:
    """Decodes one weight; a `ByteDecoder`. `parts` are the tensors that describe it."""

    dtype: str
    count: int
    block: int
    nested_block: int
    offset: float
    parts: Mapping[str, SourceTensor]
    name = "bitsandbytes"

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the bytes `start` to `stop` of the floats; `read` reads the codes."""
        width = DTYPE_BYTES[self.dtype]
        first = start // width // self.block * self.block
        last = min(-(-stop // (width * self.block)) * self.block, self.count)
        packed = read(first // CODES_PER_BYTE, -(-last // CODES_PER_BYTE))
        with TensorReader() as reader:
            pairs = byte_values(self.floats(reader, "quant_map"), high_first=True)
            scales = self.scales(reader, first // self.block, -(-last // self.block))
        values = decode_groups(packed, pairs, scales, self.block, self.dtype)
        skipped = start - first * width
        return values.view(np.uint8)[skipped : skipped + stop - start]

    def scales(self, reader: TensorReader, first: int, last: int) -> np.ndarray:
        """Read the float32 scales of blocks `first` to `last`."""
        stored = self.parts["absmax"]
        if stored.dtype != "U8":
            return self.floats(reader, "absmax", first, last)
        codes = reader.read(stored, first, last)
        begin, end = first // self.nested_block, -(-last // self.nested_block)
        outer = np.repeat(
            self.floats(reader, "nested_absmax", begin, end), self.nested_block
        )
        skipped = first - begin * self.nested_block
        values = self.floats(reader, "nested_quant_map")[codes]
        return values * outer[skipped : skipped + len(codes)] + np.float32(self.offset)

    def floats(
        self, reader: TensorReader, kind: str, first: int = 0, last: int | None = None
    ) -> np.ndarray:
        stored = self.parts[kind]
        last = prod(stored.shape) if last is None else last
        return reader.read(stored, 4 * first, 4 * last).view(np.float32)


def decode_bitsandbytes(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Present all weights of a checkpoint as floats, the others as they are."""
    shown = dict(stored)
    for name in stored:
        found = STATE.fullmatch(name)
        if found is None:
            continue
        weight = found["weight"]
        described = {
            kind: shown.pop(f"{weight}.{kind}")
            for kind in STATE_PARTS
            if f"{weight}.{kind}" in shown
        }
        state = read_state(shown.pop(name))
        shown[weight] = decoded_weight(weight, stored, described, state)
    return shown


def read_state(stored: StoredTensor) -> dict[str, Any]:
    """Read the JSON that describes one weight."""
    with TensorReader() as reader:
        source = SourceTensor.from_checkpoint(stored.name, stored)
        raw = reader.read(source, 0, stored.nbytes)
    try:
        state = json.loads(raw.tobytes())
    except ValueError as error:
        raise CheckpointError(
            f"tensor `{stored.name}` in `{stored.file}` is not JSON ({error}), as "
            "bitsandbytes writes it: save the model again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"tensor `{stored.name}` in `{stored.file}` is {state!r:.40}, expected an "
            "object, as bitsandbytes writes it: save the model again"
        )
    return state


def decoded_weight(
    name: str,
    stored: Mapping[str, StoredTensor],
    described: Mapping[str, StoredTensor],
    state: Mapping[str, Any],
) -> DecodedTensor:
    """Present one weight as floats; raises CheckpointError if its parts do not fit."""
    weight = stored.get(name)
    dtype = DTYPES.get(str(state.get("dtype")))
    shape = read_sizes(state.get("shape"))
    count = prod(shape)
    block = read_sizes([state.get("blocksize")])
    nested = "absmax" in described and described["absmax"].dtype == "U8"
    outer = read_sizes([state.get("nested_blocksize") if nested else 1])
    offset = state.get("nested_offset", 0.0) if nested else 0.0
    if (
        weight is None
        or dtype is None
        or not (shape and block and outer)
        or block[0] % CODES_PER_BYTE
        or not isinstance(offset, int | float)
        or weight.nbytes != -(-count // CODES_PER_BYTE)
        or not has_parts(described, -(-count // block[0]), outer[0] if nested else None)
    ):
        raise CheckpointError(
            f"the tensors of `{name}` are not complete, or not as bitsandbytes writes "
            f"them ({state!r:.200}): save the model again"
        )
    rows = BitsandbytesRows(
        dtype=dtype,
        count=count,
        block=block[0],
        nested_block=outer[0],
        offset=float(offset),
        parts={
            kind: SourceTensor.from_checkpoint(part.name, part)
            for kind, part in described.items()
        },
    )
    return DecodedTensor(
        name=name,
        file=weight.file,
        dtype=dtype,
        shape=shape,
        offset=weight.offset,
        nbytes=count * DTYPE_BYTES[dtype],
        decoder=rows,
    )


def read_sizes(value: Any) -> tuple[int, ...]:
    """Return positive integers of a list; () if it is anything else."""
    found = value if isinstance(value, list) else []
    return tuple(found) if all(type(x) is int and x > 0 for x in found) else ()


def has_parts(
    described: Mapping[str, StoredTensor], blocks: int, nested_block: int | None
) -> bool:
    """Whether all scales and values are there, in float32 and as many as needed.

    `nested_block` is the number of scales that share one, None if they are not packed.
    """
    counts = {"absmax": blocks, "quant_map": 16}
    if nested_block is not None:
        counts |= {
            "nested_absmax": -(-blocks // nested_block),
            "nested_quant_map": 256,
        }
    dtypes = {"absmax": "F32" if nested_block is None else "U8"}
    return all(
        kind in described
        and described[kind].count == count
        and described[kind].dtype == dtypes.get(kind, "F32")
        for kind, count in counts.items()
    )
