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
from fnmatch import fnmatch
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
    "bitsandbytes": "bitsandbytes in 8 bits",
    "compressed-tensors": "compressed-tensors (not as NVFP4)",
    "modelopt": "modelopt (not as NVFP4)",
}

# Files of other runtimes, by pattern: a graph compiled for one of them, or weights in
# its own order, never gpt-oss's tensors by name.
RUNTIMES = {
    "*.onnx": "ONNX, for ONNX Runtime",  # with genai_config.json, model.onnx.data
    "openvino_model.xml": "OpenVINO's graph",  # with openvino_model.bin
    "mlc-chat-config.json": "MLC LLM's shards",  # params_shard_N.bin
    "*.engine": "a TensorRT-LLM engine",
    "*.litertlm": "LiteRT-LM's",
    "*.tflite": "LiteRT's",
    "*.mlpackage": "a Core ML package",
}
USE_OTHER = (
    "use a checkpoint of safetensors or a GGUF, such as `openai/gpt-oss-20b` or the "
    "one it was made from"
)


def describe_runtime(names: Collection[str]) -> str | None:
    """Describe a folder with these files if another runtime's model is in it."""
    for pattern, what in RUNTIMES.items():
        name = next((name for name in sorted(names) if fnmatch(name, pattern)), None)
        if name is not None:
            return f"is {what} (`{name}`), which is not read here: {USE_OTHER}"
    return None


# Models that were derived from gpt-oss and are computed otherwise.
OTHER_MODELS = {
    "gpt_oss_puzzle": (
        "gpt-oss-puzzle, NVIDIA's pruned gpt-oss with attention windows that differ "
        "from layer to layer, which is not computed here: use `openai/gpt-oss-120b`, "
        "from which it was made"
    ),
}


def describe_other_model(raw: Mapping[str, Any]) -> str | None:
    """Describe a model derived from gpt-oss, by its `config.json`; None for others."""
    kind = raw.get("model_type")
    if "block_configs" in raw and kind == "gpt_oss":
        kind = "gpt_oss_puzzle"
    return OTHER_MODELS.get(kind) if isinstance(kind, str) else None


def describe_method(raw: Mapping[str, Any]) -> str | None:
    """Describe the `quant_method` of `config.json`; None for MXFP4 and for none."""
    settings = raw.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = cast("Mapping[str, Any]", settings).get("quant_method")
    if not isinstance(method, str) or method == "mxfp4":
        return None
    return METHODS.get(method.lower(), f"a method named `{method:.40}`")
