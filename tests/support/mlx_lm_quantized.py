"""Folders of quantized models as mlx-lm itself writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tests.support import checkpoints


def write_with_mlx_lm(
    folder: Path,
    config: dict[str, Any],
    tensors: checkpoints.Tensors,
    mode: str,
    *,
    predicate: Callable[[str, Any], Any] | None = None,
) -> Path:
    """Let mlx-lm decode MXFP4 experts and quantize all it does in `mode`.

    `predicate` gives the settings of single modules, as mlx-lm's mixed recipes do.
    """
    from mlx_lm.utils import (
        dequantize_model,
        load_model,
        quantize_model,
        save_config,
        save_model,
    )

    source = checkpoints.write_folder(folder / "source", config, tensors)
    model, read = load_model(source)
    dequantize_model(model)
    plain = {key: value for key, value in read.items() if "quant" not in key}
    model, written = quantize_model(
        model, plain, None, None, mode=mode, quant_predicate=predicate
    )
    made = folder / "made"
    save_model(made, model)
    save_config(written, made / "config.json")
    return made


def decoded_by_mlx(folder: Path) -> checkpoints.Tensors:
    """Decode every matrix of such a folder with MLX, under transformers' names."""
    stored = mx.load(str(folder / "model.safetensors"))
    assert isinstance(stored, dict)
    table = json.loads((folder / "config.json").read_text())["quantization"]
    default = {key: table[key] for key in ("group_size", "bits", "mode")}
    seen: checkpoints.Tensors = {}
    for name, tensor in stored.items():
        path, _, kind = name.rpartition(".")
        if kind in ("scales", "biases"):
            continue
        if f"{path}.scales" in stored and kind == "weight":
            setting = {"mode": "affine", **(table.get(path) or default)}
            scales, biases = (
                floats
                if floats is None or floats.dtype == mx.uint8
                # MLX computes in the dtype of the scales.
                else floats.astype(mx.float32)
                for floats in (stored.get(f"{path}.{x}") for x in ("scales", "biases"))
            )
            assert scales is not None
            tensor = mx.dequantize(tensor, scales, biases, **setting, dtype=mx.float32)
        seen[name] = np.array(tensor.astype(mx.float32))
    return fuse_gate_and_up(seen)


def fuse_gate_and_up(seen: checkpoints.Tensors) -> checkpoints.Tensors:
    fused: checkpoints.Tensors = {}
    for name, x in seen.items():
        if ".experts." not in name:
            fused[name] = x
            continue
        path, _, kind = name.rpartition(".")
        suffix = "" if kind == "weight" else "_bias"
        if path.endswith("gate_proj"):
            pair = x, seen[name.replace("gate_proj", "up_proj")]
            x = np.stack(pair, axis=2).reshape(len(x), -1, *x.shape[2:])
            path = path.replace("gate_proj", "gate_up_proj")
        elif path.endswith("up_proj"):
            continue
        fused[path + suffix] = x.swapaxes(1, 2) if kind == "weight" else x
    return fused
