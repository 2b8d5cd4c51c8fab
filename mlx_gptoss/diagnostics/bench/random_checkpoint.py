"""Write a random gpt-oss checkpoint of a given size, in OpenAI's layout; no MLX.

Its weights are noise of realistic magnitude: fit for measuring speed and memory, not
for text. It has no tokenizer. Peak memory: one chunk of a tensor.
"""

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import scratch, storage_errors
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import CONFIG, INDEX
from mlx_gptoss.format.layout import (
    BYTES_PER_BLOCK,
    DTYPE_BYTES,
    EXPERTS,
    HF,
    PACKED,
    VALUES_PER_BLOCK,
    matrices,
    vectors,
)
from mlx_gptoss.format.mxfp4 import E8M0_BIAS
from mlx_gptoss.memory import format_bytes

CHUNK_VALUES = 2**22
SHARD_BYTES = 5 * 10**9
FP4_RMS = 2.93  # of the sixteen FP4 values, equally likely
PREFERRED_LAYERS = 4  # the largest shape with this many layers is used
MIN_LAYERS = 2  # one of each kind of attention
BIAS_STD = 0.02
NORM_STD = 0.05


@dataclass(frozen=True)
class CheckpointShape:
    """Sizes of a checkpoint, except its number of layers."""

    hidden_size: int
    num_local_experts: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int


SHAPES = (
    CheckpointShape(64, 4, 2, 1, 256),
    CheckpointShape(192, 8, 6, 2, 2048),
    CheckpointShape(768, 32, 12, 4, 16384),
    CheckpointShape(2880, 32, 64, 8, 201088),  # gpt-oss-20b
)


@dataclass(frozen=True)
class RandomTensor:
    """A stored tensor, and the distribution of its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def random_config(size: int) -> dict[str, Any]:
    """Choose the `config.json` of a checkpoint of at least `size` bytes."""
    for shape in reversed(SHAPES):
        layers = _layers_for(size, shape)
        if layers >= PREFERRED_LAYERS:
            return make_config(shape, layers)
    return make_config(SHAPES[0], max(MIN_LAYERS, _layers_for(size, SHAPES[0])))


def free_disk(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def write_random(
    folder: Path,
    size: int,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    free_disk: Callable[[Path], int] = free_disk,
) -> Path:
    """Write a random checkpoint of at least `size` bytes to the new `folder`.

    It is written beside the target and renamed when complete. Raises CheckpointError
    if the folder exists or the disk is too small.
    """
    return write_config(
        folder,
        random_config(size),
        seed=seed,
        shard_bytes=shard_bytes,
        free_disk=free_disk,
    )


def write_config(
    folder: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    free_disk: Callable[[Path], int] = free_disk,
) -> Path:
    """Write a random checkpoint with this `config.json`, like `write_random`."""
    if folder.exists():
        raise CheckpointError(f"`{folder}` exists already: choose another folder")
    tensors = list(stored_tensors(config))
    total = sum(tensor.nbytes for tensor in tensors)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    free = free_disk(folder.parent)
    if total > free:
        raise CheckpointError(
            f"a checkpoint of {format_bytes(total)} does not fit in `{folder.parent}`, "
            f"which has {format_bytes(free)} free: make room or ask for less"
        )
    with scratch(folder.parent) as inside, storage_errors(folder):
        made = inside / "model"
        made.mkdir()
        _write_weights(made, tensors, shard_bytes, np.random.default_rng(seed))
        (made / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        return made.rename(folder)


def stored_tensors(config: dict[str, Any]) -> Iterator[RandomTensor]:
    """List the tensors of a published checkpoint of this configuration."""
    model = ModelConfig.from_dict(config)
    for matrix in matrices(model, PACKED):
        width = matrix.shape[-1]
        weight = HF.stored_name(f"{matrix.path}.weight")
        if matrix.part == EXPERTS:
            blocks = (*matrix.shape[:-1], width // VALUES_PER_BLOCK)
            exponent = E8M0_BIAS - round(math.log2(FP4_RMS * math.sqrt(width)))
            scales = HF.stored_name(f"{matrix.path}.scales")
            yield RandomTensor(weight, "U8", (*blocks, BYTES_PER_BLOCK), 0, 0)
            yield RandomTensor(scales, "U8", blocks, exponent, 1)
        else:
            std = 1.0 if matrix.path.endswith("embed_tokens") else width**-0.5
            yield RandomTensor(weight, "BF16", matrix.shape, 0, std)
        if matrix.has_bias:
            bias = HF.stored_name(f"{matrix.path}.bias")
            yield RandomTensor(bias, "BF16", matrix.shape[:-1], 0, BIAS_STD)
    for vector in vectors(model):
        sinks = vector.name.endswith("sinks")
        mean, std = (0.0, 1.0) if sinks else (1.0, NORM_STD)
        yield RandomTensor(HF.stored_name(vector.name), "BF16", vector.shape, mean, std)


def _layers_for(size: int, shape: CheckpointShape) -> int:
    one, two = (
        sum(tensor.nbytes for tensor in stored_tensors(make_config(shape, layers)))
        for layers in (1, 2)
    )
    layer = two - one
    return math.ceil((size - (one - layer)) / layer)


def make_config(shape: CheckpointShape, layers: int) -> dict[str, Any]:
    """Return the `config.json` of a published model of this shape and depth."""
    kinds = ("sliding_attention", "full_attention")
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": shape.vocab_size - 1,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": shape.hidden_size,
        "layer_types": [kinds[layer % 2] for layer in range(layers)],
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": shape.num_attention_heads,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "num_local_experts": shape.num_local_experts,
        "output_router_logits": False,
        "pad_token_id": shape.vocab_size - 2,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def _write_weights(
    folder: Path,
    tensors: list[RandomTensor],
    shard_bytes: int,
    rng: np.random.Generator,
) -> None:
    shards = _shards(tensors, shard_bytes)
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in _from_one(shards)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            _write_header(file, shard)
            for tensor in shard:
                for chunk in _values(tensor, rng):
                    file.write(chunk)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": {
                tensor.name: name
                for name, shard in zip(names, shards, strict=True)
                for tensor in shard
            },
        }
        (folder / INDEX).write_text(json.dumps(index))


def _from_one(items: list[Any]) -> range:
    return range(1, len(items) + 1)


def _shards(tensors: list[RandomTensor], shard_bytes: int) -> list[list[RandomTensor]]:
    shards: list[list[RandomTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def _write_header(file: BinaryIO, tensors: list[RandomTensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)


def _values(tensor: RandomTensor, rng: np.random.Generator) -> Iterator[bytes]:
    count = math.prod(tensor.shape)
    for start in range(0, count, CHUNK_VALUES):
        size = min(CHUNK_VALUES, count - start)
        if tensor.dtype == "BF16":
            values = rng.standard_normal(size, np.float32) * np.float32(tensor.std)
            bits = (values + np.float32(tensor.mean)).view(np.uint32)
            yield (bits >> 16).astype("<u2").tobytes()  # the upper half is bfloat16
        elif tensor.std:
            low, high = int(tensor.mean - tensor.std), int(tensor.mean + tensor.std)
            yield rng.integers(low, high + 1, size, np.uint8).tobytes()
        else:
            yield rng.bytes(size)
