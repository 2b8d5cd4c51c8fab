"""The checkpoint contract: which tensors a model has, and how they may be stored."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss.config import Quantization

PACKED = "packed"
SPLIT = "split"


@dataclass(frozen=True)
class Structure:
    """How the weights lie in memory; decided at opening, obeyed by the model.

    `quantization` maps module paths ("model.layers.0.self_attn.q_proj", "lm_head",
    "model.layers.0.mlp.experts.gate_up_proj") to settings; a path left out is dense.
    `experts` is "packed" (one gate_up_proj, rows interleaved: even gate, odd up) or
    "split" (gate_proj and up_proj apart).
    """

    quantization: Mapping[str, Quantization]
    experts: str


def fuses_qkv(structure: Structure, layer: int) -> bool:
    """Say whether q, k and v share one setting and so lie in memory as one matrix."""
    attention = f"model.layers.{layer}.self_attn"
    settings = [structure.quantization.get(f"{attention}.{x}_proj") for x in "qkv"]
    return settings[0] == settings[1] == settings[2]
