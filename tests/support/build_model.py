"""Build a GptOss from Hugging Face tensors in memory, without files."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.format.config import MXFP4, ModelConfig
from mlx_gptoss.format.layout import PACKED, Structure
from mlx_gptoss.model.gpt_oss import GptOss


def build(
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    dtype: mx.Dtype = mx.float32,
) -> GptOss:
    """Return the model with fused qkv, and experts packed or dense like the tensors."""
    parsed = ModelConfig.from_dict(config)
    packed = [
        name.removesuffix("_blocks") for name in tensors if name.endswith("_blocks")
    ]
    structure = Structure(dict.fromkeys(packed, MXFP4), PACKED)
    weights = {
        name: x if x.dtype in (mx.uint8, mx.uint32) else x.astype(dtype)
        for name, x in parameters(parsed, tensors).items()
    }
    return fill(GptOss(parsed, structure), weights)


def fill(model: GptOss, weights: dict[str, mx.array]) -> GptOss:
    """Load all parameters of a model, checking shapes and kinds."""
    model.load_weights(list(weights.items()), strict=True)
    mx.eval(model.parameters())
    return model


def parameters(
    config: ModelConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, mx.array]:
    """Rename tensors and join q, k, v by rows; blocks are MLX's words unchanged."""
    weights: dict[str, mx.array] = {}
    for name, tensor in tensors.items():
        if name.endswith("_blocks"):
            words = np.ascontiguousarray(tensor).view(np.uint32)
            words = words.reshape(*tensor.shape[:2], -1)
            weights[name.replace("_blocks", ".weight")] = mx.array(words)
        elif name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            weights[name + ".weight"] = mx.array(tensor)
        elif ".experts." in name:
            where, _, kind = name.rpartition("_")
            weights[f"{where}.{kind}"] = mx.array(tensor)
        elif not any(f".{x}_proj." in name for x in "qkv"):
            weights[name] = mx.array(tensor)
    for n in range(config.num_hidden_layers):
        attention = f"model.layers.{n}.self_attn"
        for kind in ("weight", "bias"):
            joined = [tensors[f"{attention}.{x}_proj.{kind}"] for x in "qkv"]
            weights[f"{attention}.qkv_proj.{kind}"] = mx.array(np.concatenate(joined))
    return weights
