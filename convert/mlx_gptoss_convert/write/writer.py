"""Safetensors files of our own: aligned, written in pieces, renamed when complete.

A shard's header is padded with spaces so that data starts on a page, and tensors lie
in falling order of the largest power of two (up to a page) that divides their size, so
that each of them starts on a multiple of it: a tensor of whole pages starts on a page,
with no hole and no pad tensor. The bytes depend on the tensors alone.
Knows names, shapes and bytes; nothing of models or of where bytes come from.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.files import sync_folder
from mlx_gptoss.format.layout import DTYPE_BYTES

PAGE = 16 * 1024  # Apple silicon's
SHARD_BYTES = 5 * 1024**3
LENGTH_BYTES = 8  # the header's own length comes first
SYNC_BYTES = 64 * 1024**2
UNFINISHED = ".part"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class OutputTensor:
    """What a tensor is called and how it is stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One file: its whole header, and where in the file each tensor begins."""

    name: str
    header: bytes
    tensors: tuple[OutputTensor, ...]
    offsets: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        ends = (self.offsets[x.name] + x.nbytes for x in self.tensors)
        return max(ends, default=len(self.header))


def plan_shards(
    bundles: Iterable[Sequence[OutputTensor]],
    shard_bytes: int = SHARD_BYTES,
    *,
    framework: str = "mlx",
) -> tuple[Shard, ...]:
    """Lay tensors into as few files of about `shard_bytes` as their order allows.

    The tensors of one bundle stay in one file; only a bundle larger than the limit
    makes a larger file. `framework` is who the file says it is for: "mlx" or "pt".
    """
    groups: list[list[OutputTensor]] = []
    room = 0
    for bundle in bundles:
        needed = sum(tensor.nbytes for tensor in bundle)
        if not groups or needed > room:
            groups.append([])
            room = shard_bytes
        groups[-1].extend(bundle)
        room -= needed
    count = len(groups)
    return tuple(
        lay_out(_file_name(i, count), group, framework=framework)
        for i, group in enumerate(groups, start=1)
    )


def lay_out(
    name: str, tensors: Sequence[OutputTensor], *, framework: str = "mlx"
) -> Shard:
    """Order the tensors of one file by alignment and write its header."""
    ordered = tuple(sorted(tensors, key=tensor_alignment, reverse=True))  # stable
    entries: dict[str, object] = {"__metadata__": {"format": framework}}
    starts: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.nbytes
        starts[tensor.name] = start
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % PAGE)
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return Shard(name, header, ordered, offsets)


def tensor_alignment(tensor: OutputTensor) -> int:
    """Return the boundary the tensor starts on: the power of two its size holds."""
    return math.gcd(tensor.nbytes, PAGE)


def index_json(shards: Sequence[Shard]) -> str:
    """Write the index that names every tensor's file."""
    names = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(names.items())),
    }
    return json.dumps(index, indent=2) + "\n"


class ShardFile:
    """A shard being written: pieces go to their place in any order.

    It lies beside its name with the ending `.part` until `finish` has brought it to
    the disk and renamed it. A thread brings to the disk what there is every now and
    then, so that the disk works while the next pieces are made.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.shard = shard
        self.path = folder / shard.name
        self.unfinished = folder / (shard.name + UNFINISHED)
        if self.path.exists():
            self.path.rename(self.unfinished)  # finished once, but not as it should be
        flags = os.O_RDWR | os.O_CREAT
        self._descriptor = os.open(self.unfinished, flags, 0o644)
        try:
            os.ftruncate(self._descriptor, shard.nbytes)
            write_all(self._descriptor, shard.header, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def write(self, tensor: str, offset: int, piece: memoryview) -> None:
        """Write bytes of `tensor` at `offset` from its start."""
        write_all(self._descriptor, piece, self.shard.offsets[tensor] + offset)
        self._unsynced += piece.nbytes
        if self._unsynced > SYNC_BYTES and (not self._syncing or self._syncing.done()):
            self._unsynced = 0
            self._wait_for_sync()
            self._syncing = self._syncer.submit(os.fsync, self._descriptor)

    def _wait_for_sync(self) -> None:
        """Raise what the last sync met: the system reports an error only once."""
        if self._syncing is not None:
            self._syncing.result()

    def finish(self) -> None:
        """Bring everything to the disk, then give the file its name."""
        self._wait_for_sync()
        os.fsync(self._descriptor)
        self.close()
        self.unfinished.rename(self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._syncer.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1


def existing_path(folder: Path, shard: Shard) -> Path | None:
    """Find what there is of a shard, finished or not."""
    names = (shard.name, shard.name + UNFINISHED)
    return next((folder / name for name in names if (folder / name).exists()), None)


def write_all(descriptor: int, piece: bytes | memoryview, offset: int) -> None:
    """Write every byte of `piece` at `offset`; the system may take some at a time."""
    left = memoryview(piece).cast("B")
    while left:
        written = os.pwrite(descriptor, left, offset)
        left = left[written:]
        offset += written


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number:05d}-of-{count:05d}.safetensors"
