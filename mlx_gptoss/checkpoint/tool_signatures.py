"""Recognize other tools by tensor names, and suggest a remedy.

A table of patterns with meaning and remedy. Knows names, not shapes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MERGE = (
    "merge them first (PEFT: `merge_and_unload()`, then `save_pretrained`; mlx-lm: "
    "`mlx_lm.fuse --dequantize`)"
)
USE_SOURCE = "not supported, use the checkpoint it was quantized from"
EXPORT = "export it under Hugging Face's names"


@dataclass(frozen=True)
class ToolSignature:
    """A pattern in a tensor's name, what it means, and the remedy."""

    pattern: re.Pattern[str]
    what: str
    advice: str


def signature(pattern: str, what: str, advice: str) -> ToolSignature:
    return ToolSignature(re.compile(pattern), what, advice)


SIGNATURES = (
    signature(
        r"\.(lora_[ABab]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|"
        r"modules_to_save|original_module)(\.|$)",
        "belongs to LoRA adapters that were saved unmerged",
        MERGE,
    ),
    signature(
        r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB)$|\.quant_state\.",
        "belongs to weights quantized by bitsandbytes",
        USE_SOURCE,
    ),
    signature(r"\.g_idx$", "belongs to weights quantized by GPTQ", USE_SOURCE),
    signature(
        r"\.(qweight|qzeros)$",
        "belongs to weights quantized by AWQ or GPTQ",
        USE_SOURCE,
    ),
    signature(
        r"[._](weight_packed|weight_shape|weight_zero_point|weight_global_scale|"
        r"weight_scale|weight_scale_2|weight_scale_inv|scale_inv|input_scale|"
        r"input_global_scale)$",
        "belongs to weights quantized to FP8, FP4 or integers (compressed-tensors, "
        "ModelOpt, Quark)",
        USE_SOURCE,
    ),
    signature(
        r"\.global_scale$",
        "is a tensor scale of NVFP4 (mlx-lm's `global_scale`), which is not computed",
        "quantize the model without it",
    ),
    signature(
        r"\.(codebook|signs)$",
        "belongs to weights quantized by TurboQuant for MLX",
        USE_SOURCE,
    ),
    signature(r"[._]weight_qdata$", "is quantized by torchao", USE_SOURCE),
    signature(
        r"\.(W_q|q_weight|trellis|suh|svh)$", "is quantized (HQQ or EXL)", USE_SOURCE
    ),
    signature(
        r"\.mlp\.experts\.\d+\.",
        "is a single expert, but gpt-oss stacks the experts of a layer",
        f"{EXPORT} (`mlp.experts.gate_up_proj`, all experts in one tensor)",
    ),
    signature(
        r"(^|\.)(vision_tower|vision_model|visual|multi_modal_projector)\.",
        "belongs to the pictures' part of a multimodal model",
        "save only its text model",
    ),
    signature(
        r"\.block_sparse_moe\.",
        "has a name of Mixtral",
        "give a gpt-oss checkpoint",
    ),
    signature(
        r"\.(w13|w2)_(weight|bias)|\.self_attn\.qkv_proj\.",
        "has a name that vLLM gives to fused weights",
        "give the checkpoint that vLLM loaded",
    ),
    signature(
        r"(^|\.)(linear_qkv|linear_fc[12]|linear_proj|word_embeddings|self_attention)\.",
        "has a name of Megatron or NeMo",
        EXPORT,
    ),
    signature(
        r"^blk\.\d+\.",
        "has a name of llama.cpp",
        "convert the GGUF itself: `mlx-gptoss convert FILE.gguf DST`",
    ),
)

# Prefix of a model inside another, whose other parts would be lost.
OUTER_MODELS = {"language_model.": ("a multimodal model", "save only its text model")}
LAYER_NAME = re.compile(r"(model\.layers|block)\.\d+\.")
PREFIXED_LAYER_NAME = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:model\.)?(?:layers|block)\.\d+\."
    r"(?:self_attn|mlp|attn|input_layernorm|post_attention_layernorm)\b"
)


def find_signature(names: Iterable[str]) -> tuple[str, str] | None:
    """Find a tensor named by another tool; return its name, and meaning and remedy."""
    ordered = sorted(names)
    for known in SIGNATURES:
        name = next((name for name in ordered if known.pattern.search(name)), None)
        if name is not None:
            return name, f"{known.what}: {known.advice}"
    return find_prefix(ordered)


def find_prefix(names: list[str]) -> tuple[str, str] | None:
    """Find a prefix on the layers' names, or that `model.` is missing."""
    if any(LAYER_NAME.match(name) for name in names):
        return None
    for name in names:
        found = PREFIXED_LAYER_NAME.match(name)
        if found is None:
            continue
        prefix = found["prefix"]
        if not prefix:
            return name, (
                "lacks the prefix `model.`, as if the model was saved without its "
                "head: save the whole model (`GptOssForCausalLM`)"
            )
        for part, (outer, advice) in OUTER_MODELS.items():
            if part in prefix:
                return name, f"has the prefix `{prefix}`, which {outer} adds: {advice}"
        return name, f"has the prefix `{prefix}`: save the model without it"
    return None
