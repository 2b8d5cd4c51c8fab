"""Tiny models as bitsandbytes, modelopt and compressed-tensors write them.

    pip install torch==2.13.0 bitsandbytes==0.50.2 compressed-tensors==0.20.1 \\
        nvidia-modelopt==0.47.0
    python -m tests.support.packed_goldens

writes tests/golden/packed_forms anew; tests only read it. Each folder has a checkpoint
and `decoded.json`: the sha256 of every weight's bfloat16 bytes, (rows, columns), as the
library itself dequantizes it on a CPU.
"""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import checkpoints, oracle

FOLDER = Path(__file__).parents[1] / "golden" / "packed_forms"
CONFIG = checkpoints.hf_config(
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    hidden_size=64,
    intermediate_size=64,
    num_local_experts=3,
    vocab_size=64,
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=21)
EXPERTS = "model.layers.0.mlp.experts."
LINEAR = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkvo"]


def bf16(values: np.ndarray) -> Any:
    torch = import_module("torch")

    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)


def plain() -> dict[str, Any]:
    """Return every tensor but the experts' blocks and scales."""
    return {
        name: bf16(x)
        for name, x in TENSORS.items()
        if not name.endswith(("_blocks", "_scales"))
    }


def expert_values(part: str) -> Any:
    blocks, scales = (TENSORS[f"{EXPERTS}{part}_{x}"] for x in ("blocks", "scales"))
    return bf16(oracle.mxfp4_decode(blocks, scales).astype(np.float32))


def digest(values: Any) -> str:
    torch = import_module("torch")

    positive = values.to(torch.bfloat16) + 0  # modelopt has no negative zero
    raw = positive.contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def save(
    name: str,
    tensors: dict[str, Any],
    decoded: dict[str, Any],
    settings: Mapping[str, object],
) -> None:
    save_file = import_module("safetensors.torch").save_file

    folder = FOLDER / name
    folder.mkdir(exist_ok=True, parents=True)
    whole = {key: x.contiguous() for key, x in tensors.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    config = CONFIG | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    sums = {key: digest(x) for key, x in decoded.items()}
    (folder / "decoded.json").write_text(json.dumps(sums, indent=1) + "\n")


def make_bitsandbytes() -> None:
    """Write what Unsloth's `-bnb-4bit` checkpoints have: linear layers for experts."""
    bnb = import_module("bitsandbytes.functional")

    tensors, decoded = plain(), {}
    weights = {name: tensors.pop(name) for name in LINEAR}
    for part in ("gate_up_proj", "down_proj"):
        biases = tensors.pop(f"{EXPERTS}{part}_bias")
        for e, values in enumerate(expert_values(part)):
            weights[f"{EXPERTS}{part}s.{e}.weight"] = values
            tensors[f"{EXPERTS}{part}s.{e}.bias"] = biases[e]
    for kind in ("weight", "bias"):
        router = f"model.layers.0.mlp.router.{kind}"
        tensors[router.replace("router.", "router.linear.")] = tensors.pop(router)
    for number, (name, values) in enumerate(weights.items()):
        packed, state = bnb.quantize_4bit(
            values, quant_type="nf4", compress_statistics=number % 3 != 0
        )
        tensors[name] = packed
        for key, part in state.as_dict(packed=True).items():
            tensors[f"{name}.{key}"] = part
        decoded[name] = bnb.dequantize_4bit(packed, state)
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    save("bitsandbytes", tensors, decoded, settings)


def make_modelopt() -> None:
    """Write stacks of experts cast from MXFP4, and attention calibrated to NVFP4."""
    torch = import_module("torch")
    cast = import_module("modelopt.torch.export.shard_cast_utils")
    quantized = import_module("modelopt.torch.quantization.qtensor").NVFP4QTensor

    tensors, decoded = plain(), {}
    for name in LINEAR:
        values = tensors[name]
        made, scales, total = quantized.quantize(values, 16, try_tensorrt=False)
        tensors[name] = made._quantized_data
        tensors[f"{name}_scale"], tensors[f"{name}_scale_2"] = scales, total
        tensors[name.replace("weight", "input_scale")] = torch.tensor(1.0)
        decoded[name] = made.dequantize(
            scale=scales, double_scale=total, block_sizes={-1: 16}
        )
    for part in ("gate_up_proj", "down_proj"):
        blocks, found = (
            torch.from_numpy(TENSORS[f"{EXPERTS}{part}_{x}"])
            for x in ("blocks", "scales")
        )
        flat = blocks.reshape(*found.shape[:-1], -1)
        packed, scales, total, count, exact = cast.quantize_mxfp4_to_nvfp4_lossless(
            flat, found, cast.mxfp4_kmax(found), "cpu"
        )
        assert count == exact, f"{count=} {exact=}"
        # As `maybe_transpose_expert_weight_dimensions` exports them.
        tensors[EXPERTS + part] = packed.transpose(-2, -1)
        tensors[f"{EXPERTS}{part}_weight_scale"] = scales.transpose(-2, -1)
        tensors[f"{EXPERTS}{part}_weight_scale_2"] = total
        decoded[EXPERTS + part] = expert_values(part)
    save("modelopt", tensors, decoded, {"quant_method": "modelopt"})


def make_compressed() -> None:
    """Write linear layers for experts, as llm-compressor has them."""
    torch = import_module("torch")
    compressors = import_module("compressed_tensors.compressors.nvfp4.base")
    compressor = compressors.NVFP4PackedCompressor
    quantization = import_module("compressed_tensors.quantization")

    tensors, decoded = plain(), {}
    weights = {name: tensors.pop(name) for name in LINEAR}
    for part in ("gate_up_proj", "down_proj"):
        biases = tensors.pop(f"{EXPERTS}{part}_bias")
        for e, values in enumerate(expert_values(part)):
            halves = {"down_proj": slice(None)}
            if part != "down_proj":
                halves = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}
            for name, rows in halves.items():
                path = f"{EXPERTS}experts.{e}.{name}"
                weights[f"{path}.weight"] = values[rows]
                tensors[f"{path}.bias"] = biases[e][rows]
    arguments = quantization.QuantizationArgs(
        num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    for name, values in weights.items():
        largest = values.abs().max().float()
        total = (448 * 6 / largest).reshape(1)
        if ".experts." in name:  # a power of two, and block scales that are
            total = 2 ** torch.floor(torch.log2(total))
        groups = values.float().reshape(len(values), -1, 16).abs().amax(-1)
        scales = groups / 6
        if ".experts." in name:
            scales = 2 ** torch.floor(torch.log2(groups.clamp(min=2**-60)) - 2)
        made = compressor.compress(
            {
                "weight": values,
                "weight_scale": (scales * total).to(torch.float8_e4m3fn).float(),
                "weight_global_scale": total,
            },
            scheme,
        )
        for key, part in made.items():
            tensors[name.replace("weight", key)] = part
        back = compressor.decompress(made, scheme)
        decoded[name] = back["weight"]
    settings = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    save("compressed", tensors, decoded, settings)


if __name__ == "__main__":
    make_bitsandbytes()
    make_modelopt()
    make_compressed()
