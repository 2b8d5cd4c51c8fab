"""Where the bytes of an expert lie: a few runs in the checkpoint's own files.

A stack of E matrices in a safetensors file holds expert e at `offset + e * nbytes`.
With packed gate and up an expert has four runs, with split ones six; affine weights
have biases beside their scales, so half as many more. Knows files and numbers; opens
nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StackedTensor:
    """One stacked tensor of a layer: `nbytes` are those of one expert.

    `dtype` is as stored; floats may lie in memory in another one.
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
        """Bytes of one expert in its file, without the biases of its rows."""
        return sum(stack.nbytes for stack in self.stacks.values())

    def dtypes(self, projection: str) -> dict[str, str]:
        """Give the stored dtypes of `down_proj` and the like by the kind of tensor."""
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
        """Give parameter, stack and file offset of every run of one expert."""
        for name, stack in self.stacks.items():
            yield name, stack, stack.offset + expert * stack.nbytes
