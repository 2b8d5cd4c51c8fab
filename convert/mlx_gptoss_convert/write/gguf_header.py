"""Encode the header of a new GGUF file: metadata, and where each tensor belongs."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss_convert.read.gguf import (
    ALIGNMENT,
    ARRAY,
    INT32,
    MAGIC,
    NUMBERS,
    STRING,
    VERSION,
)
from mlx_gptoss_convert.read.gguf_types import GgmlType


@dataclass(frozen=True)
class GgufOutput:
    """A tensor as the header of a new file describes it."""

    name: str
    ggml_type: GgmlType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.ggml_type.block * self.ggml_type.nbytes


def encode_header(
    metadata: Mapping[str, tuple[int, Any]], tensors: Sequence[GgufOutput]
) -> tuple[bytes, dict[str, int]]:
    """Encode a complete header; `metadata` maps keys to (type number, value).

    Returns the header and each tensor's offset in the file: tensors follow in the
    given order, each on the next multiple of ALIGNMENT.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, (number, value) in metadata.items():
        parts += [
            encode_text(key),
            struct.pack("<I", number),
            encode_value(number, value),
        ]
    starts: dict[str, int] = {}
    end = 0
    for tensor in tensors:
        starts[tensor.name] = end
        rank = len(tensor.shape)
        parts += [
            encode_text(tensor.name),
            struct.pack(f"<I{rank}Q", rank, *reversed(tensor.shape)),
            struct.pack("<IQ", tensor.ggml_type.number, end),
        ]
        end += tensor.nbytes + -tensor.nbytes % ALIGNMENT
    header = b"".join(parts)
    header += bytes(-len(header) % ALIGNMENT)
    return header, {name: len(header) + start for name, start in starts.items()}


def encode_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_value(type_number: int, value: Any) -> bytes:
    """Encode one value; the items of an array have the type of its first item."""
    if type_number == STRING:
        return encode_text(value)
    if type_number == ARRAY:
        inner = STRING if isinstance(value[0], str) else INT32
        items = [encode_value(inner, item) for item in value]
        return struct.pack("<IQ", inner, len(value)) + b"".join(items)
    return struct.pack("<" + NUMBERS[type_number], value)
