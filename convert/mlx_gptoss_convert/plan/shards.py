"""Lay out safetensors files: which tensor is in which file, and at which offset.

The header of a file is padded with spaces so that data starts on a page. Tensors are
sorted by the largest power of two, up to a page, that divides their size, in descending
order, so each starts on a multiple of it: a tensor of whole pages starts on a page,
without holes or padding tensors. The layout depends on the tensors only.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlx_gptoss.checkpoint.safetensors_header import LENGTH_BYTES
from mlx_gptoss_convert.steps.step import OutputTensor

PAGE = 16 * 1024  # on Apple silicon
SHARD_BYTES = 5 * 1024**3


@dataclass(frozen=True)
class Shard:
    """One file: its complete header, and the offset of each tensor in the file."""

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
    """Distribute tensors over as few files of `shard_bytes` as their order allows.

    The tensors of a bundle stay in one file, which exceeds the limit only if the bundle
    does. `framework` is the `format` that the file declares: "mlx" or "pt".
    """
    groups: list[list[OutputTensor]] = []
    free = 0
    for bundle in bundles:
        needed = sum(tensor.nbytes for tensor in bundle)
        if not groups or needed > free:
            groups.append([])
            free = shard_bytes
        groups[-1].extend(bundle)
        free -= needed
    count = len(groups)
    return tuple(
        lay_out(_file_name(i, count), group, framework=framework)
        for i, group in enumerate(groups, start=1)
    )


def lay_out(
    name: str, tensors: Sequence[OutputTensor], *, framework: str = "mlx"
) -> Shard:
    """Order the tensors of one file by alignment and build its header."""
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
    """Return the largest power of two, up to a page, that divides the tensor's size."""
    return math.gcd(tensor.nbytes, PAGE)


def index_json(shards: Sequence[Shard]) -> str:
    """Return the index, which maps every tensor to its file."""
    names = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(names.items())),
    }
    return json.dumps(index, indent=2) + "\n"


def _file_name(number: int, count: int) -> str:
    if count == 1:
        return "model.safetensors"
    return f"model-{number:05d}-of-{count:05d}.safetensors"
