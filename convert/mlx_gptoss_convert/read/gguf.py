"""GGUF files: the container read with bounds, and the header of a new one.

A file is a header of typed keys and tensor descriptions, then the tensors' bytes, each
on a multiple of `general.alignment`. Knows the container, nothing of gpt-oss. Reading
keeps the metadata in memory, which for a vocabulary of 200,000 tokens takes about
0.1 GB; the reader on PyPI takes ten times that, and minutes, so it only judges tests.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss_convert.read.gguf_kinds import UNSUPPORTED_TYPES

MAGIC = b"GGUF"
VERSION = 3
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 200,000 tokens takes about 15 MB
MAX_TENSORS = 1 << 20
MAX_ITEMS = 1 << 24  # of one list
MAX_NAME = 256  # characters of a key or a tensor's name
MAX_RANK = 4
LENGTH_BYTES = 8  # before every string
MAX_DEPTH = 2  # arrays of arrays

# Type numbers of metadata values.
STRING, ARRAY, BOOL = 8, 9, 7
UINT32, INT32, FLOAT32, UINT64 = 4, 5, 6, 10
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    UINT32: "I",
    INT32: "i",
    FLOAT32: "f",
    BOOL: "?",
    UINT64: "Q",
    11: "q",
    12: "d",
}
DAMAGED = "the file is damaged, download it again"


@dataclass(frozen=True)
class GgmlType:
    """How ggml stores values: a name, and bytes for a block of so many values."""

    name: str
    number: int
    block: int
    nbytes: int


F32 = GgmlType("F32", 0, 1, 4)
F16 = GgmlType("F16", 1, 1, 2)
Q8_0 = GgmlType("Q8_0", 8, 32, 34)
BF16 = GgmlType("BF16", 30, 1, 2)
MXFP4 = GgmlType("MXFP4", 39, 32, 17)
TYPES = {kind.number: kind for kind in (F32, F16, Q8_0, BF16, MXFP4)}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: `shape` with rows first (ggml counts from the other end)."""

    name: str
    ggml_type: GgmlType
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    file: Path

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.ggml_type.block * self.ggml_type.nbytes


@dataclass(frozen=True)
class GgufHeader:
    """The header of one file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data_start: int


class HeaderReader:
    """Reads typed values from a file's head; every step is checked against its end."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self.at = 0
        self.size = path.stat().st_size
        self._file = file

    def take(self, count: int) -> bytes:
        if count > min(self.size, MAX_HEADER_BYTES) - self.at:
            raise self.truncated()
        self.at += count
        return self._file.read(count)

    def truncated(self) -> CheckpointError:
        return CheckpointError(f"`{self.path}` ends inside its header: {DAMAGED}")

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def texts(self, count: int) -> list[str]:
        """Read many strings, as `text` does but without its ceremony."""
        found, read = [], self._file.read
        limit = min(self.size, MAX_HEADER_BYTES)
        for _ in range(count):
            length = int.from_bytes(read(LENGTH_BYTES), "little")
            self.at += LENGTH_BYTES + length
            if self.at > limit:
                raise self.truncated()
            found.append(read(length).decode("utf-8", errors="replace"))
        return found

    def name(self) -> str:
        length = self.number("Q")
        raw = self.take(length) if length <= MAX_NAME else b"\n"
        name = raw.decode("utf-8", errors="replace")
        if not name.isprintable():
            raise CheckpointError(
                f"`{self.path}` has a name that is none near byte {self.at}: {DAMAGED}"
            )
        return name

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY and depth < MAX_DEPTH:
            inner, count = self.number("I"), self.number("Q")
            if count > MAX_ITEMS:
                raise CheckpointError(
                    f"`{self.path}` has a list of {count} values: {DAMAGED}"
                )
            if inner in NUMBERS:
                size = struct.calcsize(NUMBERS[inner])
                raw = self.take(count * size)
                return list(struct.unpack(f"<{count}{NUMBERS[inner]}", raw))
            if inner == STRING:
                return self.texts(count)
            return [self.value(inner, depth + 1) for _ in range(count)]
        if kind not in NUMBERS:
            raise CheckpointError(
                f"`{self.path}` has a metadata value of unknown type {kind}: {DAMAGED}"
            )
        return self.number(NUMBERS[kind])


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of one file; check that every tensor lies inside it.

    Raises CheckpointError for what is no GGUF, is cut short, or holds tensors stored in
    a way that is not read here.
    """
    try:
        with path.open("rb") as file:
            return read_header(HeaderReader(file, path))
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {error.strerror}") from error


def read_header(cursor: HeaderReader) -> GgufHeader:
    path = cursor.path
    if cursor.size < len(MAGIC) or cursor.take(len(MAGIC)) != MAGIC:
        raise CheckpointError(f"`{path}` is not a GGUF file: download it again")
    version = cursor.number("I")
    if version not in VERSIONS:
        raise CheckpointError(
            f"`{path}` is GGUF version {version}, versions {VERSIONS} are read: "
            "convert it with a current llama.cpp"
        )
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.name()
        metadata[key] = cursor.value(cursor.number("I"))
    return read_tensors(cursor, metadata, tensors)


def read_tensors(
    cursor: HeaderReader, metadata: Mapping[str, Any], count: int
) -> GgufHeader:
    path = cursor.path
    if count > MAX_TENSORS:
        raise CheckpointError(f"`{path}` announces {count} tensors: {DAMAGED}")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment <= 0:
        raise CheckpointError(
            f"`{path}` has `general.alignment` = {alignment!r}: {DAMAGED}"
        )
    found = [read_description(cursor) for _ in range(count)]
    start = cursor.at + -cursor.at % alignment
    tensors: dict[str, GgufTensor] = {}
    for name, kind, shape, offset in found:
        tensor = GgufTensor(name, kind, shape, start + offset, path)
        if tensor.offset + tensor.nbytes > cursor.size:
            raise CheckpointError(
                f"tensor `{name}` ends beyond `{path}` ({cursor.size} bytes): {DAMAGED}"
            )
        if name in tensors:
            raise CheckpointError(f"`{path}` has `{name}` twice: {DAMAGED}")
        tensors[name] = tensor
    return GgufHeader(path, metadata, tensors, start)


def read_description(
    cursor: HeaderReader,
) -> tuple[str, GgmlType, tuple[int, ...], int]:
    name, rank = cursor.name(), cursor.number("I")
    if not 0 < rank <= MAX_RANK:
        raise CheckpointError(
            f"tensor `{name}` in `{cursor.path}` has {rank} axes: {DAMAGED}"
        )
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number not in TYPES:
        names = ", ".join(kind.name for kind in TYPES.values())
        stored_as = UNSUPPORTED_TYPES.get(number, f"ggml type {number}")
        raise CheckpointError(
            f"tensor `{name}` in `{cursor.path}` is stored as {stored_as}, read are "
            f"{names}: use a GGUF of which all tensors are those, or the safetensors "
            "files"
        )
    kind = TYPES[number]
    if not all(shape) or shape[-1] % kind.block:
        raise CheckpointError(
            f"tensor `{name}` in `{cursor.path}` has shape {shape}, which {kind.name} "
            f"cannot have: {DAMAGED}"
        )
    return name, kind, shape, offset


@dataclass(frozen=True)
class GgufOutput:
    """A tensor to be written."""

    name: str
    ggml_type: GgmlType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.ggml_type.block * self.ggml_type.nbytes


def encode_header(
    metadata: Mapping[str, tuple[int, Any]], tensors: Sequence[GgufOutput]
) -> tuple[bytes, dict[str, int]]:
    """Write a whole header; `metadata` gives a type number and a value by key.

    Returns it with where in the file each tensor belongs: in the given order, each on
    the next multiple of ALIGNMENT.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, (kind, value) in metadata.items():
        parts += [encode_text(key), struct.pack("<I", kind), encode_value(kind, value)]
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


def encode_value(kind: int, value: Any) -> bytes:
    """Write one value; a list's type is that of its first item."""
    if kind == STRING:
        return encode_text(value)
    if kind == ARRAY:
        inner = STRING if isinstance(value[0], str) else INT32
        items = [encode_value(inner, item) for item in value]
        return struct.pack("<IQ", inner, len(value)) + b"".join(items)
    return struct.pack("<" + NUMBERS[kind], value)
