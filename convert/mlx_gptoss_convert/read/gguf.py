"""Read the header of a GGUF file, with bounds on everything it announces.

A file is a header of typed metadata values and tensor descriptions, followed by the
bytes of the tensors, each aligned to `general.alignment`. This module knows the
container, not gpt-oss. The metadata stays in memory, about 0.1 GB for a vocabulary of
200,000 tokens; the `gguf` package needs ten times that, and minutes, so only tests use
it.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlx_gptoss.checkpoint.safetensors_header import START_BYTES
from mlx_gptoss.checkpoint.wrong_files import (
    CUT_SHORT,
    FAULTY_WRITER,
    describe_start,
)
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss_convert.read.gguf_types import (
    OLLAMA_MXFP4,
    READABLE_TYPES,
    UNREADABLE_TYPES,
    GgmlType,
)

MAGIC = b"GGUF"
VERSION = 3
VERSIONS = (2, 3)
BIG_ENDIAN_VERSIONS = tuple(version << 24 for version in VERSIONS)
ALIGNMENT = 32
MAX_HEADER_BYTES = 256 << 20  # a vocabulary of 200,000 tokens takes about 15 MB
MAX_TENSORS = 1 << 20
MAX_ITEMS = 1 << 24  # in one array
MAX_NAME = 256  # bytes of a key or tensor name
MAX_RANK = 4
LENGTH_BYTES = 8  # length prefix of a string
MAX_DEPTH = 2  # arrays of arrays

# Type numbers of metadata values, and their `struct` formats.
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


@dataclass(frozen=True)
class GgufTensor:
    """One tensor. `shape` is in row-major order, the reverse of ggml's.

    `scales` are NVFP4's of the whole matrix, or of each of a stack.
    """

    name: str
    ggml_type: GgmlType
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    file: Path
    scales: tuple[float, ...] = (1.0,)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.ggml_type.block * self.ggml_type.nbytes


@dataclass(frozen=True)
class GgufHeader:
    """The metadata and tensors that the header of one file describes."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data_start: int


class HeaderReader:
    """Reads typed values from a header, checking each read against the file's end."""

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
        return CheckpointError(f"`{self.path}` ends inside its header: {CUT_SHORT}")

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def texts(self, count: int) -> list[str]:
        """Read `count` strings, faster than as many calls of `text`."""
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
                f"`{self.path}` has an invalid name near byte {self.at}: "
                f"{FAULTY_WRITER}"
            )
        return name

    def value(self, type_number: int, depth: int = 0) -> Any:
        """Read one metadata value; `depth` counts the arrays around it."""
        if type_number == STRING:
            return self.text()
        if type_number == ARRAY and depth < MAX_DEPTH:
            inner, count = self.number("I"), self.number("Q")
            if count > MAX_ITEMS:
                raise CheckpointError(
                    f"`{self.path}` has an array of {count} values: {FAULTY_WRITER}"
                )
            if inner in NUMBERS:
                size = struct.calcsize(NUMBERS[inner])
                raw = self.take(count * size)
                return list(struct.unpack(f"<{count}{NUMBERS[inner]}", raw))
            if inner == STRING:
                return self.texts(count)
            return [self.value(inner, depth + 1) for _ in range(count)]
        if type_number not in NUMBERS:
            raise CheckpointError(
                f"`{self.path}` has a metadata value of unknown type {type_number}: "
                f"{FAULTY_WRITER}"
            )
        return self.number(NUMBERS[type_number])


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of one file and check that every tensor is inside the file.

    Raises CheckpointError if the file is not a GGUF, is truncated, or has tensors of
    an unsupported type.
    """
    try:
        with path.open("rb") as file:
            return read_header(HeaderReader(file, path))
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {error.strerror}") from error


def read_header(reader: HeaderReader) -> GgufHeader:
    path = reader.path
    if reader.size < len(MAGIC) or reader.take(len(MAGIC)) != MAGIC:
        raise CheckpointError(f"`{path}` {describe_other_file(path)}")
    version = reader.number("I")
    if version in BIG_ENDIAN_VERSIONS:
        raise CheckpointError(
            f"`{path}` is a GGUF for big-endian machines, which is not read: use the "
            "usual file of this model"
        )
    if version not in VERSIONS:
        raise CheckpointError(
            f"`{path}` is GGUF version {version}, supported are {VERSIONS}: "
            "convert it with a current llama.cpp"
        )
    tensors, pairs = reader.number("Q"), reader.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = reader.name()
        metadata[key] = reader.value(reader.number("I"))
    return read_tensors(reader, metadata, tensors)


def describe_other_file(path: Path) -> str:
    """Say what a file is that does not begin as a GGUF does, and what to do."""
    with path.open("rb") as file:
        first = file.read(START_BYTES)
    if len(first) < len(MAGIC):
        return f"has {len(first)} bytes, too few for a GGUF: {CUT_SHORT}"
    return describe_start(first) or (
        f"begins with {first[: len(MAGIC)]!r}, not with `GGUF`: it is another kind of "
        "file, give the model's GGUF"
    )


def read_tensors(
    reader: HeaderReader, metadata: Mapping[str, Any], count: int
) -> GgufHeader:
    path = reader.path
    if count > MAX_TENSORS:
        raise CheckpointError(f"`{path}` announces {count} tensors: {FAULTY_WRITER}")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment <= 0:
        raise CheckpointError(
            f"`{path}` has `general.alignment` = {alignment!r}: {FAULTY_WRITER}"
        )
    found = [read_description(reader) for _ in range(count)]
    start = reader.at + -reader.at % alignment
    tensors: dict[str, GgufTensor] = {}
    for name, ggml_type, shape, offset in found:
        tensor = GgufTensor(name, ggml_type, shape, start + offset, path)
        if tensor.offset + tensor.nbytes > reader.size:
            raise CheckpointError(
                f"tensor `{name}` ends beyond `{path}` ({reader.size} bytes): "
                f"{CUT_SHORT}"
            )
        if name in tensors:
            raise CheckpointError(f"`{path}` has `{name}` twice: {FAULTY_WRITER}")
        tensors[name] = tensor
    return GgufHeader(path, metadata, tensors, start)


def read_description(
    reader: HeaderReader,
) -> tuple[str, GgmlType, tuple[int, ...], int]:
    name, rank = reader.name(), reader.number("I")
    if not 0 < rank <= MAX_RANK:
        raise CheckpointError(
            f"tensor `{name}` in `{reader.path}` has {rank} axes: {FAULTY_WRITER}"
        )
    shape = tuple(reader.number("Q") for _ in range(rank))[::-1]
    number, offset = reader.number("I"), reader.number("Q")
    if number not in READABLE_TYPES:
        raise CheckpointError(refused_type(name, reader.path, number))
    ggml_type = READABLE_TYPES[number]
    if not all(shape) or shape[-1] % ggml_type.block:
        raise CheckpointError(
            f"tensor `{name}` in `{reader.path}` has shape {shape}, which "
            f"{ggml_type.name} cannot have: {FAULTY_WRITER}"
        )
    return name, ggml_type, shape, offset


def refused_type(name: str, path: Path, number: int) -> str:
    """Say that a type is not read, which are, and what to do."""
    names = ", ".join(
        entry.name for entry in READABLE_TYPES.values() if entry != OLLAMA_MXFP4
    )
    if number not in UNREADABLE_TYPES:
        return (
            f"tensor `{name}` in `{path}` is stored as ggml type {number}, which is "
            f"unknown here, readable are {names}: use another GGUF of this model, or "
            "update mlx-gptoss"
        )
    return (
        f"tensor `{name}` in `{path}` is stored as {UNREADABLE_TYPES[number]}, "
        f"readable are {names}: use another GGUF of this model, with MXFP4 experts if "
        "there is one, or its safetensors files"
    )
