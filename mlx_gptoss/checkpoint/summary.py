"""Summarize an opened checkpoint for `inspect`, as plain values ready for JSON."""

from collections import Counter, defaultdict
from math import prod
from typing import Any

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import PARTS, Matrix, matrices, vectors


def summarize(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return files, sizes, bytes by part and quantization by part."""
    config = checkpoint.config
    return {
        "folder": str(checkpoint.folder),
        "layout": checkpoint.layout.name,
        "layout_title": checkpoint.layout.title,
        "experts": checkpoint.structure.experts,
        "files": {path.name: path.stat().st_size for path in checkpoint.files},
        "tensors": len(checkpoint.tensors),
        "parameters": count_parameters(checkpoint),
        "bytes": sum(checkpoint.bytes_by_part.values()),
        "bytes_by_part": checkpoint.bytes_by_part,
        "quantization": quantization_by_part(checkpoint),
        "num_hidden_layers": config.num_hidden_layers,
        "sliding_layers": config.layer_types.count("sliding_attention"),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_local_experts": config.num_local_experts,
        "experts_by_layer": list(config.experts_by_layer),
        "num_experts_per_tok": config.num_experts_per_tok,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "labels": list(config.labels),
    }


def count_parameters(checkpoint: Checkpoint) -> int:
    """Count the parameters of a model, biases and norms included."""
    config, experts = checkpoint.config, checkpoint.structure.experts
    total = sum(prod(vector.shape) for vector in vectors(config))
    for matrix in matrices(config, experts):
        total += prod(matrix.shape) + matrix.has_bias * prod(matrix.shape[:-1])
    return total


def quantization_by_part(checkpoint: Checkpoint) -> dict[str, dict[str, int]]:
    """Count the matrices of each part by storage."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for matrix in matrices(checkpoint.config, checkpoint.structure.experts):
        counts[matrix.part][describe_storage(checkpoint, matrix)] += 1
    return {part: dict(counts[part]) for part in PARTS if part in counts}


def describe_storage(checkpoint: Checkpoint, matrix: Matrix) -> str:
    """Name the storage of a matrix: `mxfp4`, `affine 8-bit group 64` or `BF16`."""
    setting = checkpoint.structure.quantization.get(matrix.path)
    if setting is None:
        return checkpoint.tensors[f"{matrix.path}.weight"].dtype
    return describe_quantization(setting)


def describe_quantization(setting: Quantization) -> str:
    if not setting.is_affine:
        return setting.mode
    return f"affine {setting.bits}-bit group {setting.group_size}"
