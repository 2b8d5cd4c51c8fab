"""Read the matrices of a checkpoint as floats, whatever its layout.

Matrices are named by their packed canonical path: the rows of
`model.layers.0.mlp.experts.gate_up_proj` are interleaved even if the files have
separate gate and up projections, or one after the other. Peak memory: one expert or
one slice of rows in float32.
"""

from collections.abc import Iterator

import numpy as np

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.format.block_formats import decode_blocks
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import IN_OUT, JOINED, SPLIT, Matrix
from mlx_gptoss_convert.read.gguf_types import GgmlType
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import AffineRows, decode_affine, to_float32
from mlx_gptoss_convert.steps.codecs import CODEC_SLICE_BYTES, as_elements
from mlx_gptoss_convert.steps.merged import ggml_type

FUSED = "gate_up_proj"
PARTS = ("gate_proj", "up_proj")  # their rows alternate in the fused projection


class MatrixReader:
    """Decodes tensors of an opened checkpoint on demand."""

    def __init__(self, checkpoint: Checkpoint, source: TensorReader) -> None:
        self.checkpoint = checkpoint
        self.source = source

    def stored(self, name: str) -> SourceTensor:
        return SourceTensor.from_checkpoint(name, self.checkpoint.tensors[name])

    def paths(self, path: str) -> list[str]:
        """Return the stored projections whose alternating rows make up `path`."""
        if self.checkpoint.layout.experts != SPLIT or not path.endswith(FUSED):
            return [path]
        return [path.removesuffix(FUSED) + part for part in PARTS]

    def setting(self, path: str) -> Quantization | None:
        """Return how a stored matrix is packed; None means dense."""
        return self.checkpoint.structure.quantization.get(path)

    def expert_setting(self, path: str) -> Quantization | None:
        """Return how a projection is packed; None if dense, or gate unlike up."""
        settings = {self.setting(part) for part in self.paths(path)}
        return settings.pop() if len(settings) == 1 else None

    def storage(self, path: str) -> tuple[Quantization | None, str]:
        """Return how a matrix outside the experts is stored or decoded."""
        return self.setting(path), self.stored(f"{path}.weight").dtype

    def ggml_type(self, path: str) -> GgmlType | None:
        """Return the type that a matrix outside the experts is decoded from, if any."""
        return ggml_type(self.stored(f"{path}.weight"))

    def packed_expert(self, path: str, kind: str, expert: int) -> np.ndarray:
        """Read one expert as bytes (rows, bytes of a row), with gate and up fused."""
        return fuse([self.packed_rows(x, kind, expert) for x in self.paths(path)])

    def packed_rows(self, part: str, kind: str, expert: int) -> np.ndarray:
        """Read one expert of a stored projection as bytes (rows, bytes of a row)."""
        stored = self.stored(f"{part}.{kind}")
        start = expert * stored.row_bytes
        raw = self.source.read(stored, start, start + stored.row_bytes)
        return raw.reshape(stored.shape[1], -1)

    def expert(self, path: str, expert: int) -> np.ndarray:
        """Decode the weight of one expert to float32 (out, in)."""
        parts = [self.expert_rows(part, expert) for part in self.paths(path)]
        return fuse(np.split(parts[0], 2) if self.is_joined(path) else parts)

    def is_joined(self, path: str) -> bool:
        """Whether the rows of gate are stored before those of up."""
        return self.checkpoint.layout.experts == JOINED and path.endswith(FUSED)

    def expert_rows(self, part: str, expert: int) -> np.ndarray:
        """Decode one expert of a stored projection to float32 (out, in)."""
        setting = self.setting(part)
        kinds = (
            kind
            for kind in ("weight", "scales", "biases")
            if f"{part}.{kind}" in self.checkpoint.tensors
        )
        packed = {kind: self.packed_rows(part, kind, expert) for kind in kinds}
        if setting is None:
            stored = self.stored(f"{part}.weight")
            matrix = to_float32(as_elements(packed["weight"], stored), stored.dtype)
            matrix = matrix.reshape(stored.shape[1:])
            is_transposed = self.checkpoint.layout.expert_form == IN_OUT
            return matrix.T if is_transposed else matrix
        if not setting.is_affine:
            return decode_blocks(packed["weight"], packed["scales"], setting.mode)
        return self.affine_rows(part, packed, setting)

    def rows(self, matrix: Matrix) -> Iterator[np.ndarray]:
        """Decode a matrix outside the experts in slices of float32 rows.

        Slices depend on the shape only, so those of two checkpoints can be paired.
        """
        path, (count, columns) = matrix.path, matrix.shape
        setting = self.setting(path)
        kinds = ("weight",) if setting is None else ("weight", "scales", "biases")
        parts = {
            kind: self.stored(f"{path}.{kind}")
            for kind in kinds
            if f"{path}.{kind}" in self.checkpoint.tensors
        }
        step = max(1, CODEC_SLICE_BYTES // (2 * columns))
        for start in range(0, count, step):
            stop = min(start + step, count)
            raw = {
                kind: self.source.read(
                    part, start * part.row_bytes, stop * part.row_bytes
                ).reshape(stop - start, -1)
                for kind, part in parts.items()
            }
            if setting is None:
                dtype = parts["weight"].dtype
                yield to_float32(as_elements(raw["weight"], parts["weight"]), dtype)
            elif not setting.is_affine:
                yield decode_blocks(raw["weight"], raw["scales"], setting.mode)
            else:
                yield self.affine_rows(path, raw, setting)

    def affine_rows(
        self, path: str, raw: dict[str, np.ndarray], setting: Quantization
    ) -> np.ndarray:
        scales = self.stored(f"{path}.scales")
        return decode_affine(
            AffineRows(
                raw["weight"].view(np.uint32),
                as_elements(raw["scales"], scales),
                as_elements(raw["biases"], scales),
            ),
            bits=setting.bits,
            group_size=setting.group_size,
            dtype=scales.dtype,
        )

    def floats(self, name: str) -> np.ndarray:
        """Read a small tensor of floats (norms, sinks, biases) as float32, flat."""
        stored = self.stored(name)
        raw = self.source.read(stored, 0, stored.nbytes)
        return to_float32(as_elements(raw, stored), stored.dtype)

    def bias(self, path: str) -> np.ndarray:
        """Read a bias as float32 (..., out), with gate and up fused."""
        halves = []
        for part in self.paths(path):
            stored = self.stored(f"{part}.bias")
            halves.append(self.floats(stored.name).reshape(-1, stored.shape[-1]))
        if self.is_joined(path):
            halves = np.split(halves[0], 2, axis=-1)
        return np.stack(halves, axis=-1).reshape(halves[0].shape[0], -1)


def fuse(parts: list[np.ndarray]) -> np.ndarray:
    """Let the rows of gate and up (n, m) alternate: (2 n, m); one part stays."""
    return np.stack(parts, axis=1).reshape(-1, parts[0].shape[1])
