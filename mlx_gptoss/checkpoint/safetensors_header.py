"""Read and check safetensors headers; the tensors are neither mapped nor allocated.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors'
bytes without gaps. Knows nothing of gpt-oss.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mlx_gptoss.checkpoint.wrong_files import (
    CUT_SHORT,
    FAULTY_WRITER,
    describe_start,
)
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.layout import DTYPE_BYTES

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20  # gpt-oss-120b takes less than 1 MB over all its files
MAX_DIMENSION = 1 << 62
MAX_RANK = 8
START_BYTES = 32  # of which a file of another kind is known


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: `offset` counts from the start of the file, in bytes."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def parts(self) -> "tuple[StoredTensor, ...]":
        """The tensors whose bytes, one after another, are those of this one."""
        return (self,)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file.

    Raises CheckpointError if the file is missing, truncated, longer than its header
    describes, or if the header is invalid.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = read_header_text(file.read(LENGTH_BYTES), file, size, path)
    except FileNotFoundError as error:
        raise CheckpointError(f"`{path}` is missing: download it") from error
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {error.strerror}") from error
    start = LENGTH_BYTES + len(text)
    entries = parse_entries(text, path)
    entries.pop("__metadata__", None)
    tensors = {
        name: read_entry(name, entry, path, start) for name, entry in entries.items()
    }
    check_offsets(tensors, path, start, size)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Read the `__metadata__` of a file whose header is valid; {} for none."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = read_header_text(file.read(LENGTH_BYTES), file, size, path)
    found = parse_entries(text, path).get("__metadata__")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def read_header_text(length_bytes: bytes, file: Any, size: int, path: Path) -> bytes:
    """Check the length, then read that many bytes of JSON."""
    if len(length_bytes) < LENGTH_BYTES:
        raise CheckpointError(
            f"`{path}` has {size} bytes, too few for a safetensors file: {CUT_SHORT}"
        )
    length = int.from_bytes(length_bytes, "little")
    beginning = file.read(min(length, START_BYTES))
    # A header begins with a brace; the length before it may look like anything.
    found = None if beginning[:1] == b"{" else describe_start(length_bytes + beginning)
    if found is not None:
        raise CheckpointError(f"`{path}` {found}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"`{path}` declares a header of {length} bytes, at most "
            f"{MAX_HEADER_BYTES} are allowed: it is no safetensors file, take the "
            "weights that were published with the model"
        )
    text = beginning + file.read(length - len(beginning))
    if len(text) < length:
        raise CheckpointError(
            f"`{path}` declares a header of {length} bytes but has only {size} bytes "
            f"in total: {CUT_SHORT}"
        )
    return text


def parse_entries(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            raise ValueError("a name occurs twice")
        if not all(name.isprintable() for name in entries):
            raise ValueError("a name is not printable")
        return entries

    try:
        entries = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` has a corrupt header ({error}): {FAULTY_WRITER}"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"`{path}` has a corrupt header (not a JSON object): {FAULTY_WRITER}"
        )
    return entries


def read_entry(name: str, entry: Any, path: Path, start: int) -> StoredTensor:
    """Parse one tensor's entry; check dtype, shape and offsets against each other."""
    where = f"tensor `{name}` in `{path}`"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where} is described by {entry!r:.40}: {FAULTY_WRITER}")
    dtype, shape = entry.get("dtype"), entry.get("shape")
    offsets = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(
            f"{where} has dtype {dtype!r:.40}, which is not supported: save the model "
            "as bf16"
        )
    if not is_size_list(shape, MAX_RANK):
        raise CheckpointError(f"{where} has shape {shape!r:.80}: {FAULTY_WRITER}")
    if not is_size_list(offsets, 2) or len(offsets) != 2:
        raise CheckpointError(
            f"{where} has data_offsets {offsets!r:.80}: {FAULTY_WRITER}"
        )
    begin, end = offsets
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != nbytes:
        raise CheckpointError(
            f"{where} has {end - begin} bytes, expected {nbytes} for {dtype} of shape "
            f"{tuple(shape)}: {FAULTY_WRITER}"
        )
    return StoredTensor(name, path, dtype, tuple(shape), start + begin, nbytes)


def is_size_list(value: Any, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of at most `most` non-negative integers."""
    if not isinstance(value, list) or len(value) > most:
        return False
    return all(type(size) is int and 0 <= size <= MAX_DIMENSION for size in value)


def check_offsets(
    tensors: dict[str, StoredTensor], path: Path, start: int, size: int
) -> None:
    """Require that the tensors fill the file without gap or overlap."""
    end = start
    for tensor in sorted(tensors.values(), key=lambda x: (x.offset, x.nbytes)):
        if tensor.offset != end:
            what = "overlaps another" if tensor.offset < end else "leaves a gap"
            raise CheckpointError(
                f"tensor `{tensor.name}` in `{path}` begins at byte {tensor.offset}, "
                f"expected {end} (it {what}): {FAULTY_WRITER}"
            )
        end += tensor.nbytes
    if end > size:
        raise CheckpointError(
            f"`{path}` has {size} bytes, its header expects {end}: {CUT_SHORT}"
        )
    if end < size:
        raise CheckpointError(
            f"`{path}` has {size} bytes, {size - end} more than its header describes: "
            f"{FAULTY_WRITER}"
        )
