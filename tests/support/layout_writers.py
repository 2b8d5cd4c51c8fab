"""One set of random tensors written in every layout a checkpoint may have.

Each writer takes a folder, a config and tensors under Hugging Face's names (see
`checkpoints`) and returns the tensors a reader must see: the same ones, or what is left
of them where the layout is lossy.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from tests.support import checkpoints, oracle

Tensors = dict[str, np.ndarray]
Config = Mapping[str, Any]

EXPERTS = ".mlp.experts."
MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
ORIGINAL_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
}
ORIGINAL_LAYER_NAMES = {
    "input_layernorm.weight": "attn.norm.scale",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def write_hf(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write one file with MXFP4 experts, as transformers 4 does."""
    checkpoints.write_folder(folder, config, tensors)
    return tensors


def write_rope_parameters(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write the config as transformers 5 does."""
    config = dict(config)
    scaling = config.pop("rope_scaling")
    config["rope_parameters"] = scaling | {"rope_theta": config.pop("rope_theta")}
    return write_hf(folder, config | {"dtype": "bfloat16"}, tensors)


def write_sharded(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write three shards and an index; like OpenAI, count them from 0 to 2 of 2."""
    checkpoints.write_folder(folder, config, {})
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    names = sorted(tensors)
    for shard in range(3):
        file = f"model-{shard:05}-of-00002.safetensors"
        part = {name: tensors[name] for name in names[shard::3]}
        checkpoints.save_tensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def write_original(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write OpenAI's own form: fused qkv, its own names, config keys, dtypes.json."""
    stored: Tensors = {ORIGINAL_NAMES[n]: tensors[n] for n in ORIGINAL_NAMES}
    for n in range(config["num_hidden_layers"]):
        layer, block = f"model.layers.{n}.", f"block.{n}."
        for name, original in ORIGINAL_LAYER_NAMES.items():
            stored[block + original] = tensors[layer + name]
        for kind in ("weight", "bias"):
            rows = [tensors[f"{layer}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            stored[f"{block}attn.qkv.{kind}"] = np.concatenate(rows)
    checkpoints.write_folder(folder, original_config(config), stored)
    kinds = {"blocks": "FP4", "scales": "UE8"}
    dtypes = {name: kinds.get(name.rpartition(".")[2], "BF16") for name in stored}
    (folder / "dtypes.json").write_text(json.dumps(dtypes))
    return tensors


def original_config(config: Config) -> dict[str, Any]:
    """Spell a config with the keys of `original/config.json`."""
    same = (
        "num_hidden_layers vocab_size hidden_size intermediate_size swiglu_limit "
        "head_dim num_attention_heads num_key_value_heads sliding_window rope_theta"
    )
    scaling = config["rope_scaling"]
    return {key: config[key] for key in same.split()} | {
        "num_experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "initial_context_length": scaling["original_max_position_embeddings"],
        "rope_scaling_factor": scaling["factor"],
        "rope_ntk_alpha": scaling["beta_slow"],
        "rope_ntk_beta": scaling["beta_fast"],
    }


def write_original_in_repository(
    folder: Path, config: Config, tensors: Tensors
) -> Tensors:
    """Write a repository of which only `original/` was downloaded."""
    (folder / "original").mkdir(parents=True)
    (folder / "README.md").write_text("gpt-oss")
    return write_original(folder / "original", config, tensors)


def write_dense(
    folder: Path,
    config: Config,
    tensors: Tensors,
    *,
    suffix: str = "",
    dtype: type = np.uint16,
) -> Tensors:
    """Write experts dense, (experts, in, out), as fine-tunes have them.

    `suffix` "_blocks" is what transformers 5 writes; `dtype` uint16 means bfloat16.
    """
    dense = dense_experts(tensors)
    stored = {
        name + suffix if is_dense_expert(name) else name: tensor
        for name, tensor in dense.items()
    }
    plain = {key: value for key, value in config.items() if "quant" not in key}
    if dtype == np.uint16:
        checkpoints.write_folder(folder, plain, stored)
        return dense
    checkpoints.write_folder(folder, plain, {})
    cast = {name: tensor.astype(dtype) for name, tensor in stored.items()}
    save_file(cast, folder / "model.safetensors")
    return {name: tensor.astype(dtype) for name, tensor in dense.items()}


def write_dense_blocks(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    return write_dense(folder, config, tensors, suffix="_blocks")


def write_float32(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    return write_dense(folder, config, tensors, dtype=np.float32)


def write_float16(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    return write_dense(folder, config, tensors, dtype=np.float16)


def write_unsloth(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write linear layers for every expert, under the prefix that PEFT adds."""
    dense, stored = dense_experts(tensors), {}
    for name, tensor in dense.items():
        found = re.fullmatch(r"(.*\.experts\.\w+_proj)(_bias)?", name)
        plain = name.replace(".router.", ".router.linear.")
        stored |= (
            {plain: tensor}
            if found is None
            else {
                f"{found[1]}s.{e}.{'bias' if found[2] else 'weight'}": x.T
                for e, x in enumerate(tensor)
            }
        )
    plain = {key: value for key, value in config.items() if "quant" not in key}
    wrapped = {f"base_model.model.{name}": x for name, x in stored.items()}
    checkpoints.write_folder(folder, plain, wrapped)
    return dense


def write_single_experts(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write gate and up of every expert, in three shards, with a stale config."""
    stored: Tensors = {}
    for name, tensor in split_dense(tensors).items():
        found = re.fullmatch(r"(.*\.experts)\.(\w+_proj\.\w+)", name)
        stored |= (
            {name: tensor}
            if found is None
            else {f"{found[1]}.{e}.{found[2]}": x for e, x in enumerate(tensor)}
        )
    wrapped = {
        name.replace(".mlp.", "._fsdp_wrapped_module.mlp."): x
        for name, x in stored.items()
    }
    return write_sharded(folder, config, wrapped) and tensors


def is_dense_expert(name: str) -> bool:
    return name.endswith((EXPERTS + "gate_up_proj", EXPERTS + "down_proj"))


def dense_experts(tensors: Tensors) -> Tensors:
    """Decode the experts to (experts, in, out); exact in bfloat16."""
    dense: Tensors = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix("_blocks")
        if name.endswith("_blocks"):
            values = oracle.mxfp4_decode(tensor, tensors[f"{stem}_scales"])
            values = values.astype(np.float32).swapaxes(1, 2)
            dense[stem] = np.ascontiguousarray(values)
        elif not name.endswith("_scales"):
            dense[name] = tensor
    return dense


def write_mlx_packed(
    folder: Path,
    config: Config,
    tensors: Tensors,
    *,
    bits: Callable[[str], int] = lambda path: 8,
    modules: bool = True,
) -> Tensors:
    """Write our own layout: experts as they are, the rest affine (0 bits: dense)."""
    stored, seen = dict(tensors), dict(tensors)
    settings: dict[str, Any] = {"group_size": 64, "bits": 8}
    for n in range(config["num_hidden_layers"]):
        for name in ("gate_proj", "up_proj", "down_proj"):
            settings[f"model.layers.{n}{EXPERTS}{name}"] = MXFP4
    for path in quantizable(config):
        if bits(path):
            packed, values = affine(tensors[f"{path}.weight"], bits(path), 64)
            seen[f"{path}.weight"] = values
            del stored[f"{path}.weight"]
            stored |= {f"{path}.{kind}": x for kind, x in packed.items()}
        if modules and bits(path) != settings["bits"]:
            setting = {"group_size": 64, "bits": bits(path)}
            settings[path] = setting if bits(path) else False
    return mlx_folder(folder, config, stored, settings, seen)


def write_mlx_lossless(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    return write_mlx_packed(folder, config, tensors, bits=lambda path: 0)


def write_mlx_mixed(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Give v another setting than q and k, so that they cannot be fused."""
    bits = {"v_proj": 4, "o_proj": 6, "lm_head": 4, "embed_tokens": 0}
    return write_mlx_packed(
        folder,
        config,
        tensors,
        bits=lambda path: bits.get(path.rpartition(".")[2], 8),
    )


def quantizable(config: Config) -> list[str]:
    """List what recipes quantize: attention, embedding, lm_head."""
    layers = range(config["num_hidden_layers"])
    attention = [f"model.layers.{n}.self_attn.{x}_proj" for n in layers for x in "qkvo"]
    return ["model.embed_tokens", "lm_head", *attention]


def affine(
    weight: np.ndarray, bits: int, group_size: int
) -> tuple[Tensors, np.ndarray]:
    """Quantize with bfloat16 scales: the packed tensors, and the values they mean."""
    source = mx.array(weight).astype(mx.bfloat16)
    packed = mx.quantize(source, group_size=group_size, bits=bits)
    words, scales, biases = packed[0], *(x.astype(mx.float32) for x in packed[1:])
    values = mx.dequantize(words, scales, biases, group_size=group_size, bits=bits)
    kinds = ("weight", "scales", "biases")
    stored = {
        k: np.array(x) for k, x in zip(kinds, (words, scales, biases), strict=True)
    }
    return stored, np.array(values)


def mlx_folder(
    folder: Path,
    config: Config,
    stored: Tensors,
    settings: Mapping[str, Any],
    seen: Tensors,
) -> Tensors:
    both = {"quantization": settings, "quantization_config": settings}
    checkpoints.write_folder(folder, {**config, **both}, stored)
    return seen


def write_split_mxfp4(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write mlx-community's MXFP4 form: words, gate and up apart, the router 8-bit."""
    stored, seen = split_experts(tensors), dict(tensors)
    settings: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    written: Tensors = {}
    for name, tensor in stored.items():
        blocks = EXPERTS in name and name.endswith(".weight")
        written[name] = words(tensor) if blocks else tensor
    for n in range(config["num_hidden_layers"]):
        path = f"model.layers.{n}.mlp.router"
        packed, values = affine(tensors[f"{path}.weight"], 8, 64)
        seen[f"{path}.weight"] = values
        written |= {f"{path}.{kind}": x for kind, x in packed.items()}
        settings[path] = {"group_size": 64, "bits": 8}
    return mlx_folder(folder, config, written, settings, seen)


def words(blocks: np.ndarray) -> np.ndarray:
    """See blocks (E, rows, G, 16) as MLX does: (E, rows, 4 G) uint32."""
    return blocks.view(np.uint32).reshape(*blocks.shape[:2], -1)


def split_experts(tensors: Tensors) -> Tensors:
    """Part gate and up rows; `.weight` holds the blocks."""
    stored: Tensors = {}
    kinds = {"blocks": "weight", "scales": "scales", "bias": "bias"}
    for name, tensor in tensors.items():
        stem, _, suffix = name.rpartition("_")
        if EXPERTS not in name:
            stored[name] = tensor
        elif "gate_up_proj" in name:
            for part, first in (("gate_proj", 0), ("up_proj", 1)):
                path = stem.replace("gate_up_proj", part)
                rows = np.ascontiguousarray(tensor[:, first::2])
                stored[f"{path}.{kinds[suffix]}"] = rows
        else:
            stored[f"{stem}.{kinds[suffix]}"] = tensor
    return stored


def write_split_dense(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write gate and up apart and dense, (experts, out, in)."""
    plain = {key: value for key, value in config.items() if "quant" not in key}
    checkpoints.write_folder(folder, plain, split_dense(tensors))
    return tensors


def split_dense(tensors: Tensors) -> Tensors:
    """Part gate and up rows, and decode the experts."""
    stored = split_experts(tensors)
    for name in [name for name in stored if name.endswith("scales")]:
        scales, weight = stored.pop(name), name.replace("scales", "weight")
        values = oracle.mxfp4_decode(stored[weight], scales)
        stored[weight] = values.astype(np.float32)
    return stored


def write_split_affine(
    folder: Path,
    config: Config,
    tensors: Tensors,
    *,
    bits: Callable[[str], int] = lambda path: 8,
) -> Tensors:
    """Write every matrix affine in 8 bits, as an `mlx_lm.convert -q` would."""
    stored: Tensors = {}
    settings: dict[str, Any] = {"group_size": 32, "bits": 8}
    seen = dense_experts(tensors)
    parts = split_experts(tensors)
    for name in [name for name in parts if name.endswith(".weight")]:
        path, weight = name.removesuffix(".weight"), parts.pop(name)
        if EXPERTS in name:
            scales = parts.pop(f"{path}.scales")
            weight = oracle.mxfp4_decode(weight, scales).astype(np.float32)
        if weight.ndim == 1:
            stored[name] = weight
            continue
        packed, values = affine(weight, bits(path), 32)
        stored |= {f"{path}.{kind}": x for kind, x in packed.items()}
        if bits(path) != settings["bits"]:
            settings[path] = {"group_size": 32, "bits": bits(path)}
        merge(seen, path, values)
    return mlx_folder(folder, config, stored | parts, settings, seen)


def write_split_mixed(folder: Path, config: Config, tensors: Tensors) -> Tensors:
    """Write the experts of the first layer in fewer bits, as mixed recipes do."""
    few = f"model.layers.0{EXPERTS}"
    return write_split_affine(
        folder, config, tensors, bits=lambda path: 4 if path.startswith(few) else 8
    )


def merge(seen: Tensors, path: str, values: np.ndarray) -> None:
    """Put what a reader sees back under Hugging Face's name."""
    if EXPERTS not in path:
        seen[f"{path}.weight"] = values
    elif path.endswith("down_proj"):
        seen[path] = values.swapaxes(1, 2)
    else:
        fused = path.replace("gate_proj", "gate_up_proj").replace(".up_", ".gate_up_")
        first = 0 if path.endswith("gate_proj") else 1
        seen[fused] = seen[fused].copy()
        seen[fused][:, :, first::2] = values.swapaxes(1, 2)


WRITERS = {
    "hf": write_hf,
    "hf-rope-parameters": write_rope_parameters,
    "hf-sharded": write_sharded,
    "original": write_original,
    "original-in-repository": write_original_in_repository,
    "dense": write_dense,
    "dense-blocks": write_dense_blocks,
    "dense-float32": write_float32,
    "dense-float16": write_float16,
    "unsloth": write_unsloth,
    "single-experts": write_single_experts,
    "mlx-packed": write_mlx_packed,
    "mlx-packed-lossless": write_mlx_lossless,
    "mlx-packed-mixed": write_mlx_mixed,
    "mlx-split-mxfp4": write_split_mxfp4,
    "mlx-split-dense": write_split_dense,
    "mlx-split-affine": write_split_affine,
    "mlx-split-mixed": write_split_mixed,
}
AFFINE = {"mlx-split-affine", "mlx-split-mixed"}  # their experts are no MXFP4
DENSE = {  # their experts are MXFP4 values, decoded
    "dense",
    "dense-blocks",
    "dense-float32",
    "dense-float16",
    "mlx-split-dense",
    "unsloth",
    "single-experts",
}
