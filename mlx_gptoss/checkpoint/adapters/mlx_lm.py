"""mlx-lm's names and orders of adapter tensors."""

import re
from collections import defaultdict
from collections.abc import Mapping

from mlx_gptoss.checkpoint.adapters.factors import (
    EXPERTS_MLX,
    GATE,
    LINEAR_MLX,
    UP,
    StoredPair,
)
from mlx_gptoss.checkpoint.adapters.faults import (
    no_target_error,
    refused_tensor_error,
    shape_error,
    unpaired_error,
)
from mlx_gptoss.checkpoint.adapters.targets import target_matrices
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.format.config import ModelConfig

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[ab])")
HALF = re.compile(r"(.+\.mlp\.experts\.)(gate|up)_proj")


def mlx_lm_pairs(
    tensors: Mapping[str, StoredTensor],
    scale: float,
    config: ModelConfig,
    base: str | None,
) -> dict[str, list[StoredPair]]:
    """Find the update of every tensor; return pairs by module path.

    Raises CheckpointError for a tensor that is not part of a low-rank update, and for
    one that does not fit the model.
    """
    found: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        if match is None or match["module"] == "model.embed_tokens":
            raise refused_tensor_error(tensor)
        found[match["module"]][match["kind"]] = tensor
    pairs: dict[str, list[StoredPair]] = defaultdict(list)
    for module, factors in found.items():
        if len(factors) < 2:
            raise unpaired_error(module, factors)
        path, part = module_of(module)
        pair = make_pair(path, part, factors, scale, config, base)
        pairs[path].append(pair)
    return dict(pairs)


def module_of(module: str) -> tuple[str, str]:
    """Return the module path a name means, and "gate" or "up" for a half of it."""
    half = HALF.fullmatch(module)
    if half is None:
        return module, ""
    return f"{half[1]}gate_up_proj", GATE if half[2] == "gate" else UP


def make_pair(
    path: str,
    part: str,
    factors: Mapping[str, StoredTensor],
    scale: float,
    config: ModelConfig,
    base: str | None,
) -> StoredPair:
    """Check the shapes of two factors against the model."""
    a, b = factors["a"], factors["b"]
    matrix = target_matrices(config).get(path)
    if matrix is None or (path.endswith("gate_up_proj") and not part):
        raise no_target_error(a, path, config, base)
    *stack, rows, columns = matrix.shape
    order, experts = (EXPERTS_MLX, stack[0]) if stack else (LINEAR_MLX, 0)
    sizes = order.sizes(a.shape, b.shape, experts)
    expected = (columns, rows // 2 if part else rows)
    if sizes is None or not sizes[0] or sizes[1:] != expected:
        raise shape_error(a, b, matrix, base)
    return StoredPair(a, b, order, experts, sizes[0], scale, part)
