"""Checkpoints of quantizing tools, by their names, dtypes and `config.json`; all zeros.

A tool's row gives what a linear layer of (rows, columns) is stored as, by suffix, and
the `quantization_config` that it writes, as published checkpoints have it. Everything
else is as in Hugging Face's dense checkpoint, with one linear layer per expert, which
these tools make of the stacks first.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.checkpoints import hf_config

Entry = tuple[str, tuple[int, ...]]  # dtype and shape
Linear = Callable[[int, int], Mapping[str, Entry]]

BYTES = {"BF16": 2, "F16": 2, "I16": 2, "F32": 4, "I32": 4, "U32": 4, "I64": 8}
CONFIG = hf_config(
    num_hidden_layers=1,
    hidden_size=64,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    num_local_experts=3,
    num_experts_per_tok=2,
)
GROUP = 32


@dataclass(frozen=True)
class Tool:
    """How a tool stores a linear layer, its settings, and files beside the weights."""

    linear: Linear
    settings: Mapping[str, Any] | None
    says: str
    key: str = "quantization_config"
    files: Mapping[str, str] = field(default_factory=dict)


def write_zeros(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a safetensors file of zeros with these dtypes and shapes."""
    header, at = {}, 0
    for name, (dtype, shape) in entries.items():
        end = at + math.prod(shape) * BYTES.get(dtype, 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def write_tool(folder: Path, tool: Tool) -> Path:
    """Write a checkpoint as a tool has it."""
    config = {k: x for k, x in CONFIG.items() if k != "quantization_config"}
    if tool.settings is not None:
        config[tool.key] = tool.settings
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in tool.files.items():
        (folder / name).write_text(text)
    write_zeros(folder / "model.safetensors", entries_of(tool.linear))
    return folder


def entries_of(linear: Linear) -> dict[str, Entry]:
    size, vocabulary = CONFIG["hidden_size"], CONFIG["vocab_size"]
    experts, inner = CONFIG["num_local_experts"], CONFIG["intermediate_size"]
    heads, groups = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    width = CONFIG["head_dim"]
    layer = "model.layers.0."
    found: dict[str, Entry] = {
        "model.embed_tokens.weight": ("BF16", (vocabulary, size)),
        "lm_head.weight": ("BF16", (vocabulary, size)),
        "model.norm.weight": ("BF16", (size,)),
        f"{layer}input_layernorm.weight": ("BF16", (size,)),
        f"{layer}post_attention_layernorm.weight": ("BF16", (size,)),
        f"{layer}self_attn.sinks": ("BF16", (heads,)),
        f"{layer}mlp.router.weight": ("BF16", (experts, size)),
        f"{layer}mlp.router.bias": ("BF16", (experts,)),
    }
    modules = {
        "self_attn.q_proj": (heads * width, size),
        "self_attn.k_proj": (groups * width, size),
        "self_attn.v_proj": (groups * width, size),
        "self_attn.o_proj": (size, heads * width),
        **{f"mlp.experts.gate_up_projs.{e}": (2 * inner, size) for e in range(experts)},
        **{f"mlp.experts.down_projs.{e}": (size, inner) for e in range(experts)},
    }
    for name, (rows, columns) in modules.items():
        found[f"{layer}{name}.bias"] = ("BF16", (rows,))
        for suffix, entry in linear(rows, columns).items():
            found[f"{layer}{name}.{suffix}"] = entry
    return found


def packed_columns(rows: int, columns: int, *, index: bool) -> dict[str, Entry]:
    """Return GPTQ's tensors of 4 bits: eight codes of a column in a word."""
    found: dict[str, Entry] = {
        "qweight": ("I32", (columns // 8, rows)),
        "qzeros": ("I32", (columns // GROUP, rows // 8)),
        "scales": ("F16", (columns // GROUP, rows)),
    }
    return found | ({"g_idx": ("I32", (columns,))} if index else {})


def float8(scales: Mapping[str, Entry]) -> Linear:
    return lambda rows, columns: {"weight": ("F8_E4M3", (rows, columns)), **scales}


def group_settings(form: str, **weights: Any) -> dict[str, Any]:
    """Return `quantization_config` as compressed-tensors writes it."""
    return {
        "config_groups": {
            "group_0": {
                "format": form,
                "input_activations": None,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {
                    "dynamic": False,
                    "observer": "minmax",
                    "symmetric": True,
                    **weights,
                },
            }
        },
        "format": form,
        "global_compression_ratio": None,
        "ignore": ["lm_head", "re:.*router"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "version": "0.12.2",
    }


MODELOPT_FP8 = {
    "producer": {"name": "modelopt", "version": "0.35.0"},
    "quantization": {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["lm_head", "model.layers.0.mlp.router"],
    },
}
SCALARS: dict[str, Entry] = {"weight_scale": ("F32", ()), "input_scale": ("F32", ())}
TOOLS = {
    "exl3": Tool(
        lambda rows, columns: {
            "trellis": ("I16", (columns // 16, rows // 16, 64)),
            "suh": ("F16", (columns,)),
            "svh": ("F16", (rows,)),
        },
        {
            "quant_method": "exl3",
            "version": "0.0.6",
            "bits": 4.0,
            "head_bits": 6,
            "calibration": {"rows": 100, "cols": 2048},
            "out_scales": "auto",
        },
        "EXL3 (ExLlamaV3)",
    ),
    "gptq": Tool(
        lambda rows, columns: packed_columns(rows, columns, index=True),
        {
            "bits": 4,
            "checkpoint_format": "gptq",
            "desc_act": False,
            "group_size": GROUP,
            "lm_head": False,
            "meta": {"damp_percent": 0.01, "quantizer": ["gptqmodel:5.0.0"]},
            "pack_dtype": "int32",
            "quant_method": "gptq",
            "sym": True,
            "true_sequential": True,
        },
        "GPTQ",
    ),
    "awq": Tool(  # twhitworth/gpt-oss-120b-awq-w4a16
        lambda rows, columns: {
            "qweight": ("I32", (columns, rows // 8)),
            "qzeros": ("I32", (columns // GROUP, rows // 8)),
            "scales": ("F16", (columns // GROUP, rows)),
        },
        {
            "bits": 4,
            "group_size": GROUP,
            "modules_to_not_convert": ["router", "lm_head"],
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        },
        "AWQ",
    ),
    "compressed-w4a16": Tool(
        lambda rows, columns: {
            "weight_packed": ("I32", (rows, columns // 8)),
            "weight_scale": ("BF16", (rows, columns // GROUP)),
            "weight_shape": ("I64", (2,)),
        },
        group_settings(
            "pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP
        ),
        "compressed-tensors (not as NVFP4)",
    ),
    "compressed-fp8": Tool(  # KJML/gpt-oss-20b-FP8-Dynamic
        lambda rows, columns: {
            "weight": ("F8_E4M3", (rows, columns)),
            "weight_scale": ("BF16", (rows, 1)),
        },
        group_settings("float-quantized", num_bits=8, type="float", strategy="channel"),
        "compressed-tensors (not as NVFP4)",
    ),
    "modelopt-fp8": Tool(
        float8(SCALARS),
        {**MODELOPT_FP8["quantization"], "quant_method": "modelopt"},
        "modelopt (not as NVFP4)",
        files={"hf_quant_config.json": json.dumps(MODELOPT_FP8)},
    ),
    "modelopt-fp8-without-a-word": Tool(  # before it wrote to `config.json`
        float8(SCALARS),
        None,
        "quantized to FP8, FP4 or integers (compressed-tensors, ModelOpt, Quark)",
        files={"hf_quant_config.json": json.dumps(MODELOPT_FP8)},
    ),
    "fbgemm": Tool(
        lambda rows, columns: {
            "weight": ("F8_E4M3", (rows, columns)),
            "weight_scale": ("BF16", (rows, 1)),
        },
        {
            "activation_scale_ub": 1200.0,
            "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.router"],
            "quant_method": "fbgemm_fp8",
        },
        "FP8 of FBGEMM",
    ),
    "fp8-blocks": Tool(
        float8({"weight_scale_inv": ("F32", (1, 1))}),
        {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "by FP8, which",
    ),
    "auto-round": Tool(  # Intel/gpt-oss-20b-int4-AutoRound
        lambda rows, columns: packed_columns(rows, columns, index=False),
        {
            "autoround_version": "0.6.1.dev",
            "bits": 4,
            "block_name_to_quantize": "model.layers",
            "data_type": "int",
            "extra_config": {"model.layers.0.mlp.router": {"bits": 16}},
            "group_size": GROUP,
            "packing_format": "auto_round:auto_gptq",
            "quant_method": "auto-round",
            "sym": True,
        },
        "Intel AutoRound",
    ),
    "auto-round-mxfp8": Tool(  # LeaderboardModel1/gpt-oss-20b-AutoRound-MXFP8
        lambda rows, columns: {
            "weight": ("F8_E4M3", (rows, columns)),
            "weight_scale": ("U8", (rows, columns // 32)),
        },
        group_settings(
            "mxfp8-quantized",
            num_bits=8,
            type="float",
            strategy="group",
            group_size=32,
            scale_dtype="torch.uint8",
        )
        | {"provider": "auto-round"},
        "compressed-tensors (not as NVFP4)",
    ),
    "quark": Tool(  # amd/gpt-oss-120b-w-mxfp4-a-fp8
        lambda rows, columns: {
            "weight": ("U8", (rows, columns // 2)),
            "weight_scale": ("U8", (rows, columns // 32)),
            "input_scale": ("F32", ()),
        },
        {
            "algo_config": None,
            "exclude": ["lm_head", "model.layers.0.mlp.router"],
            "export": {"pack_method": "reorder", "weight_format": "real_quantized"},
            "global_quant_config": {
                "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"},
                "weight": {
                    "dtype": "fp4",
                    "group_size": 32,
                    "qscheme": "per_group",
                    "scale_format": "e8m0",
                },
            },
            "layer_quant_config": {},
            "quant_method": "quark",
            "quant_mode": "eager_mode",
        },
        "AMD Quark (`mxfp4_fp8`",
    ),
    "hqq": Tool(
        lambda rows, columns: {
            "W_q": ("U8", (rows * columns // 128, 64)),
            "scale": ("BF16", (rows * columns // 64, 1)),
            "zero": ("BF16", (rows * columns // 64, 1)),
        },
        {
            "quant_config": {
                "weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}
            },
            "quant_method": "hqq",
            "skip_modules": ["lm_head"],
        },
        "HQQ",
    ),
    "torchao": Tool(
        lambda rows, columns: {
            "_weight_qdata": ("U8", (rows, columns // 2)),
            "_weight_scale": ("BF16", (rows, columns // GROUP)),
            "_weight_zero_point": ("BF16", (rows, columns // GROUP)),
        },
        {
            "include_input_output_embeddings": False,
            "modules_to_not_convert": None,
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_data": {"group_size": GROUP},
                    "_type": "Int4WeightOnlyConfig",
                    "_version": 2,
                }
            },
        },
        "torchao",
    ),
    "bitsandbytes-8": Tool(
        lambda rows, columns: {
            "weight": ("I8", (rows, columns)),
            "SCB": ("F32", (rows,)),
            "weight_format": ("U8", ()),
        },
        {
            "_load_in_4bit": False,
            "_load_in_8bit": True,
            "llm_int8_skip_modules": None,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": False,
            "load_in_8bit": True,
            "quant_method": "bitsandbytes",
        },
        "bitsandbytes in 8 bits",
    ),
    "turboquant": Tool(  # newzyerror/gpt-oss-20b-tq3
        lambda rows, columns: {
            "weight": ("U32", (rows, -(-columns // 10))),
            "scales": ("F16", (rows, columns // 64)),
            "codebook": ("F16", (8,)),
            "signs": ("F16", (columns,)),
        },
        {
            "mode": "turboquant",
            "bits": 3,
            "group_size": 64,
            "rotation": "hadamard",
            "rotation_seed": 42,
            "use_qjl": False,
        },
        "quantized by TurboQuant for MLX",
        key="quantization",
    ),
}
