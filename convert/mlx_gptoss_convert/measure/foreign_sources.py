"""Write random checkpoints as other tools store them, to measure their conversion.

    gguf       Q4_K where rows have 256 values, else Q8_0; experts in MXFP4
    gguf-q8    the same with experts in Q8_0
    nf4        bitsandbytes with quantized scales, one tensor an expert, as Unsloth's
    nvfp4      modelopt's cast of MXFP4: stacks of experts, the rest in bfloat16

Bytes are noise, scales are of a sensible size. Peak memory: CHUNK_BYTES, a few times.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlx_gptoss.files import storage_errors
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.dtypes import float32_to_bfloat16
from mlx_gptoss.format.file_names import CONFIG
from mlx_gptoss.format.foreign_forms import NVFP4_GROUP
from mlx_gptoss.format.layout import (
    DTYPE_BYTES,
    EXPERTS,
    PACKED,
    ROUTER,
    SPLIT,
    Matrix,
    matrices,
    vectors,
)
from mlx_gptoss.format.mxfp4 import E8M0_BIAS
from mlx_gptoss_convert.read.gguf_names import GGUF
from mlx_gptoss_convert.read.gguf_settings import config_to_metadata
from mlx_gptoss_convert.read.gguf_types import F32, MXFP4, Q8_0, TYPES, GgmlType
from mlx_gptoss_convert.write.gguf_header import GgufOutput, encode_header

Fill = Callable[[np.random.Generator, int], np.ndarray]  # (units, bytes of a unit)

CHUNK_BYTES = 2**22
STD = 0.02
BLOCK, NESTED = 64, 256  # of bitsandbytes: values, and scales, that share a scale
CAST_SCALE = 7 << 3  # 1 in E4M3; casts have the same for both groups of a block
Q4_K = next(kind for kind in TYPES if kind.name == "Q4_K")


@dataclass(frozen=True)
class Entry:
    """A tensor to write: `fill` makes that many units of `unit` bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fill: Fill
    unit: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def noise(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.integers(0, 256, (count, 1), np.uint8)


def bfloat16_noise(draw: np.random.Generator, count: int) -> np.ndarray:
    values = draw.standard_normal(count, np.float32) * np.float32(STD)
    return float32_to_bfloat16(values).view(np.uint8).reshape(count, 2)


def float32_noise(draw: np.random.Generator, count: int) -> np.ndarray:
    """Make float32 that are exactly bfloat16, as llama.cpp's converter widens them."""
    wide = np.zeros((count, 4), np.uint8)
    wide[:, 2:] = bfloat16_noise(draw, count)
    return wide


def constant(*values: Any) -> Fill:
    """Repeat the bytes of one value, or write all of them once."""
    raw = np.array(values).reshape(len(values), -1).view(np.uint8)
    return lambda draw, count: np.resize(raw, (count, raw.shape[1]))


def block_noise(kind: GgmlType) -> Fill:
    """Make blocks of a ggml type with codes of noise and small scales."""
    scales: dict[GgmlType, np.ndarray] = {
        Q8_0: np.array([STD / 64], np.float16),
        Q4_K: np.array([STD / 512, STD / 64], np.float16),  # of scales, of minima
        MXFP4: np.array([E8M0_BIAS - 7], np.uint8),
    }
    first = scales[kind].view(np.uint8)

    def fill(draw: np.random.Generator, count: int) -> np.ndarray:
        blocks = draw.integers(0, 256, (count, kind.nbytes), np.uint8)
        blocks[:, : len(first)] = first
        return blocks

    return fill


def write_source(folder: Path, raw: Mapping[str, Any], form: str) -> Path:
    """Write a checkpoint of this `config.json` in one of FORMS to the new `folder`."""
    config = ModelConfig.from_dict(raw, quiet=True)
    with storage_errors(folder):
        folder.mkdir(parents=True)
        FORMS[form](folder, config)
        if form not in GGUF_EXPERTS:
            said = {k: x for k, x in raw.items() if k != "quantization_config"}
            (folder / CONFIG).write_text(json.dumps(said))
    return folder


def write_entries(file: BinaryIO, entries: Iterable[Entry]) -> None:
    draw = np.random.default_rng(0)
    for entry in entries:
        count = entry.nbytes // entry.unit
        step = max(1, CHUNK_BYTES // entry.unit)
        for start in range(0, count, step):
            file.write(entry.fill(draw, min(step, count - start)).tobytes())


def write_safetensors(folder: Path, entries: Iterable[Entry]) -> None:
    found, header, at = list(entries), {}, 0
    for entry in found:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": [at, at + entry.nbytes],
        }
        at += entry.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        write_entries(file, found)


def plain_entries(
    config: ModelConfig, is_quantized: Callable[[Matrix], bool]
) -> Iterator[Entry]:
    """Yield the tensors that Hugging Face's dense layout has, but for experts."""
    for matrix in matrices(config, PACKED):
        if matrix.part != EXPERTS and not is_quantized(matrix):
            yield Entry(
                f"{matrix.path}.weight", "BF16", matrix.shape, bfloat16_noise, 2
            )
        if matrix.part != EXPERTS and matrix.has_bias:
            yield Entry(
                f"{matrix.path}.bias", "BF16", matrix.shape[:-1], bfloat16_noise, 2
            )
    for vector in vectors(config):
        yield Entry(vector.name, "BF16", vector.shape, bfloat16_noise, 2)


def write_nf4(folder: Path, config: ModelConfig) -> None:
    write_safetensors(folder, nf4_entries(config))


def nf4_entries(config: ModelConfig) -> Iterator[Entry]:
    def is_quantized(matrix: Matrix) -> bool:
        return ".self_attn." in matrix.path

    yield from plain_entries(config, is_quantized)
    for matrix in matrices(config, PACKED):
        if is_quantized(matrix):
            yield from nf4_weight(f"{matrix.path}.weight", matrix.shape)
        if matrix.part != EXPERTS:
            continue
        experts, rows, columns = matrix.shape
        for expert in range(experts):
            name = f"{matrix.path}s.{expert}"
            yield from nf4_weight(f"{name}.weight", (rows, columns))
            yield Entry(f"{name}.bias", "BF16", (rows,), bfloat16_noise, 2)


def nf4_state(shape: tuple[int, ...], offset: float) -> np.ndarray:
    """Return the `quant_state` of a weight in nf4 whose scales are quantized: bytes."""
    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": "bfloat16",
        "shape": shape,
        "nested_blocksize": NESTED,
        "nested_dtype": "float32",
        "nested_offset": offset,
    }
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


def nf4_weight(name: str, shape: tuple[int, ...]) -> Iterator[Entry]:
    """Yield a weight of bitsandbytes in nf4 with quantized scales."""
    count = math.prod(shape)
    blocks = -(-count // BLOCK)
    text = nf4_state(shape, STD)
    outer = -(-blocks // NESTED)
    codes, scales = (np.linspace(-1, 1, n, dtype=np.float32) for n in (16, 256))
    yield Entry(name, "U8", (count // 2, 1), noise, 1)
    yield Entry(f"{name}.absmax", "U8", (blocks,), noise, 1)
    yield Entry(f"{name}.quant_map", "F32", (16,), constant(*codes), 4)
    yield Entry(
        f"{name}.nested_absmax", "F32", (outer,), constant(np.float32(STD / 2)), 4
    )
    yield Entry(f"{name}.nested_quant_map", "F32", (256,), constant(*scales), 4)
    yield Entry(
        f"{name}.quant_state.bitsandbytes__nf4", "U8", text.shape, constant(*text), 1
    )


def write_nvfp4(folder: Path, config: ModelConfig) -> None:
    write_safetensors(folder, nvfp4_entries(config))


def nvfp4_entries(config: ModelConfig) -> Iterator[Entry]:
    yield from plain_entries(config, lambda matrix: False)
    for matrix in matrices(config, PACKED):
        if matrix.part != EXPERTS:
            continue
        path, (experts, rows, columns) = matrix.path, matrix.shape
        groups = (experts, columns // NVFP4_GROUP, rows)
        yield Entry(path, "U8", (experts, columns // 2, rows), noise, 1)
        yield Entry(
            f"{path}_weight_scale", "F8_E4M3", groups, constant(np.uint8(CAST_SCALE)), 1
        )
        yield Entry(
            f"{path}_weight_scale_2", "F32", (1,), constant(np.float32(2**-5)), 4
        )
        yield Entry(f"{path}_bias", "BF16", (experts, rows), bfloat16_noise, 2)


def write_gguf(folder: Path, config: ModelConfig, experts: GgmlType) -> None:
    entries = list(gguf_entries(config, experts))
    outputs = [GgufOutput(entry.name, kind, shape) for entry, kind, shape in entries]
    header, offsets = encode_header(config_to_metadata(config), outputs)
    with (folder / "model.gguf").open("wb") as file:
        file.write(header)
        for entry, _, _ in entries:
            file.write(bytes(offsets[entry.name] - file.tell()))
            write_entries(file, [entry])


def gguf_entries(
    config: ModelConfig, experts: GgmlType
) -> Iterator[tuple[Entry, GgmlType, tuple[int, ...]]]:
    def described(
        name: str, kind: GgmlType, shape: tuple[int, ...]
    ) -> tuple[Entry, GgmlType, tuple[int, ...]]:
        fill = float32_noise if kind == F32 else block_noise(kind)
        size = math.prod(shape) // kind.block * kind.nbytes
        entry = Entry(GGUF.stored_name(name), "U8", (size,), fill, kind.nbytes)
        return entry, kind, shape

    for matrix in matrices(config, SPLIT):
        kind = Q4_K if matrix.shape[-1] % Q4_K.block == 0 else Q8_0
        kind = {EXPERTS: experts, ROUTER: F32}.get(matrix.part, kind)
        yield described(f"{matrix.path}.weight", kind, matrix.shape)
        if matrix.has_bias:
            yield described(f"{matrix.path}.bias", F32, matrix.shape[:-1])
    for vector in vectors(config):
        yield described(vector.name, F32, vector.shape)


GGUF_EXPERTS = {"gguf": MXFP4, "gguf-q8": Q8_0}
FORMS: dict[str, Callable[[Path, ModelConfig], None]] = {
    "gguf": lambda folder, config: write_gguf(folder, config, MXFP4),
    "gguf-q8": lambda folder, config: write_gguf(folder, config, Q8_0),
    "nf4": write_nf4,
    "nvfp4": write_nvfp4,
}
