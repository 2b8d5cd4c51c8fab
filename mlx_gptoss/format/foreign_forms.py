"""Quantized forms of other tools that are converted, and those that are refused.

Names and meaning of their tensors, as data with their source. `weight` is the module's
path with `.weight`, or the parameter's own name in a stack of experts.

bitsandbytes in 4 bits (bitsandbytes/functional.py, `QuantState.as_dict`), as Unsloth's
`-bnb-4bit` checkpoints have it; all of these follow `weight`:

    weight                         U8 (n / 2, 1)   two codes a byte, the first one high
    .absmax                        a scale per block: F32, or U8 if it is quantized, too
    .quant_map                     F32 (16)        the value of each code
    .nested_absmax, .nested_quant_map              scales and values of quantized scales
    .quant_state.bitsandbytes__nf4 (or __fp4)      JSON: shape, dtype, blocks, offset

NVFP4: FP4 codes (..., columns / 2), the first one low; an FP8 scale (E4M3) for 16 of
them, and one float for all:

    modelopt (export/unified_export_hf.py)      weight, weight_scale, weight_scale_2
                                                value = code * scale * scale_2
    compressed-tensors (compressors/nvfp4)      weight_packed, weight_scale,
                                                weight_global_scale
                                                value = code * scale / global_scale

modelopt keeps stacks of experts (experts, columns, rows) as transformers has them, and
names their scales `gate_up_proj_weight_scale`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(?:nf4|fp4)")
STATE_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
MODELOPT_SCALE = re.compile(r"(?P<weight>.+?)(?P<joint>[._])weight_scale_2")
COMPRESSED_SCALE = re.compile(r"(?P<path>.+)\.weight_global_scale")
# Scales of activations, which are computed in floats here.
ACTIVATION_SCALE = re.compile(
    r".+[._](?:input_scale|input_global_scale|output_scale|k_scale|v_scale)"
)
NVFP4_GROUP = 16


@dataclass(frozen=True)
class PackedForm:
    """A form that is decoded while converting: its title, and a name that shows it."""

    title: str
    shows: re.Pattern[str]


BITSANDBYTES = PackedForm("bitsandbytes in 4 bits", STATE)
MODELOPT = PackedForm("NVFP4 of modelopt", MODELOPT_SCALE)
COMPRESSED = PackedForm("NVFP4 of compressed-tensors", COMPRESSED_SCALE)
PACKED_FORMS = (BITSANDBYTES, MODELOPT, COMPRESSED)


def find_packed_form(names: Collection[str]) -> PackedForm | None:
    """Return the form of a checkpoint with these tensors, or None."""
    return next(
        (
            form
            for form in PACKED_FORMS
            if any(form.shows.fullmatch(name) for name in names)
        ),
        None,
    )


# What a `quant_method` of `config.json` stands for, if its weights are not converted.
USE_SOURCE = "use the checkpoint it was quantized from"
METHODS = {
    "quark": "AMD Quark (`mxfp4_fp8`: MXFP4 weights for activations in FP8)",
    "auto-round": "Intel AutoRound",
    "auto_round": "Intel AutoRound",
    "intel/auto-round": "Intel AutoRound",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 of FBGEMM",
    "hqq": "HQQ",
    "torchao": "torchao",
    "eetq": "EETQ",
    "exl2": "EXL2 (ExLlamaV2)",
    "exl3": "EXL3 (ExLlamaV3)",
    "quanto": "optimum-quanto",
    "aqlm": "AQLM",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "higgs": "HIGGS",
    "fp_quant": "FP-Quant",
    "bitnet": "BitNet",
    "sinq": "SINQ",
    "bitsandbytes": "bitsandbytes in 8 bits",
    "compressed-tensors": "compressed-tensors (not as NVFP4)",
    "modelopt": "modelopt (not as NVFP4)",
}

# Models that were derived from gpt-oss, or serve it, by `model_type`.
OTHER_MODELS = {
    "gpt_oss_puzzle": (
        "gpt-oss-puzzle, NVIDIA's pruned gpt-oss with attention windows that differ "
        "from layer to layer, which is not computed here: use `openai/gpt-oss-120b`, "
        "from which it was made"
    ),
    "tensorrt-llm": (
        "a checkpoint of TensorRT-LLM, cut for GPUs under its own names, which is not "
        "read here: use the one it was made from"
    ),
}
TENSORRT_KEYS = {"architecture", "mapping"}  # of TensorRT-LLM's own `config.json`
# Heads of speculative decoding: keys of their `config.json`, and parts of the names of
# their `architectures` (speculators, SpecForge, NVIDIA's, z-lab's DFlash).
DRAFT_KEYS = ("speculators_model_type", "speculators_config", "draft_vocab_size")
DRAFT_ARCHITECTURES = ("eagle", "dflash", "draft", "speculator", "medusa")


def describe_other_model(raw: Mapping[str, Any]) -> str | None:
    """Describe a model derived from gpt-oss, by its `config.json`; None for others."""
    kind = raw.get("model_type")
    if "block_configs" in raw and kind == "gpt_oss":
        kind = "gpt_oss_puzzle"
    if raw.keys() >= TENSORRT_KEYS:
        kind = "tensorrt-llm"
    if is_draft(raw):
        return (
            "a draft model, which guesses tokens for a larger one to check, and is not "
            f"used here: give {draft_target(raw)}"
        )
    return OTHER_MODELS.get(kind) if isinstance(kind, str) else None


def is_draft(raw: Mapping[str, Any]) -> bool:
    names = raw.get("architectures")
    listed = cast("list[object]", names) if isinstance(names, list) else []
    return any(key in raw for key in DRAFT_KEYS) or any(
        part in str(name).lower() for name in listed for part in DRAFT_ARCHITECTURES
    )


def draft_target(raw: Mapping[str, Any]) -> str:
    """Name the model that a draft model was made for, as far as it says so."""
    settings: Any = raw.get("speculators_config")
    target = settings.get("verifier") if isinstance(settings, Mapping) else None
    name = target.get("name_or_path") if isinstance(target, Mapping) else None
    return (
        f"`{name}`" if name and isinstance(name, str) else "the model it was made for"
    )


def describe_method(raw: Mapping[str, Any]) -> str | None:
    """Describe the `quant_method` of `config.json`; None for MXFP4 and for none."""
    settings = raw.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = cast("Mapping[str, Any]", settings).get("quant_method")
    if not isinstance(method, str) or method == "mxfp4":
        return None
    return METHODS.get(method.lower(), f"a method named `{method:.40}`")
