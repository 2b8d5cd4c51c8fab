"""Locate the bytes of each expert: a few ranges in the checkpoint's own files.

A stack of E matrices in a safetensors file has expert e at `offset + e * nbytes`. An
expert has four ranges if gate and up are packed, six if they are split, and half as
many more if its weights are affine (biases beside scales). Opens no files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StackedTensor:
    """One stacked tensor of a layer; `nbytes` is the size of one expert in it.

    `dtype` is as stored; floats may have another dtype in memory.
    """

    name: str
    file: Path
    offset: int
    nbytes: int
    dtype: str


@dataclass(frozen=True)
class ExpertRecords:
    """The experts of one layer: stacks by parameter, such as `down_proj.scales`."""

    layer: int
    experts: int
    stacks: Mapping[str, StackedTensor]

    @property
    def record_bytes(self) -> int:
        """Bytes of one expert in its file, without its bias."""
        return sum(stack.nbytes for stack in self.stacks.values())

    def dtypes(self, projection: str) -> dict[str, str]:
        """Return the stored dtypes of a projection by kind of tensor."""
        found = (name.partition(".") for name in self.stacks)
        return {
            kind: self.stacks[f"{path}.{kind}"].dtype
            for path, _, kind in found
            if path == projection
        }

    @property
    def files(self) -> list[Path]:
        return list(dict.fromkeys(stack.file for stack in self.stacks.values()))

    def byte_ranges(self, expert: int) -> Iterator[tuple[str, StackedTensor, int]]:
        """Yield parameter, stack and file offset of every byte range of one expert."""
        for name, stack in self.stacks.items():
            yield name, stack, stack.offset + expert * stack.nbytes
