"""A small checkpoint with a tokenizer, and its conversions to and from GGUF.

The package `gguf` of llama.cpp's project judges the files.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from gguf.quants import dequantize

from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.gguf_tokenizer import PRE_TOKENIZERS
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE, make_gguf_plan
from mlx_gptoss_convert.write.hf import make_hf_plan
from tests.support.checkpoints import (
    hf_config,
    random_tensors,
)
from tests.support.layout_writers import WRITERS

CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128, swiglu_limit=7.0)


TENSORS = random_tensors(CONFIG, seed=11)


NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
    "model.layers.1.input_layernorm.weight": "blk.1.attn_norm.weight",
    "model.layers.0.post_attention_layernorm.weight": (
        "blk.0.post_attention_norm.weight"
    ),
    "model.layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
    "model.layers.1.self_attn.k_proj.bias": "blk.1.attn_k.bias",
    "model.layers.1.self_attn.o_proj.weight": "blk.1.attn_output.weight",
    "model.layers.1.self_attn.sinks": "blk.1.attn_sinks.weight",
    "model.layers.1.mlp.router.weight": "blk.1.ffn_gate_inp.weight",
    "model.layers.1.mlp.router.bias": "blk.1.ffn_gate_inp.bias",
    "model.layers.1.mlp.experts.down_proj_bias": "blk.1.ffn_down_exps.bias",
}


def write_tokenizer(path: Path, pre: str = "smollm") -> None:
    """Write a byte-level vocabulary of a few words, with a special token."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "ab", "abc", "Ġd"]
    raw = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": len(tokens) + i,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, content in enumerate(("<|return|>", "<|end|>", "<|call|>"))
        ],
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["a", "b"], ["ab", "c"], ["Ġ", "d"]],
        },
    }
    path.write_text(json.dumps(raw))


def write_source(folder: Path, layout: str = "hf") -> Path:
    WRITERS[layout](folder, CONFIG, TENSORS)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def to_gguf(source: Path, dst: Path, recipe: str = "lossless") -> Path:
    opened = open_source(source)
    plan = make_gguf_plan(opened.checkpoint, RECIPES[recipe], files=opened.files)
    convert(plan, dst)
    return dst


def to_mlx(source: Path, dst: Path, recipe: str = "lossless", **options: Any) -> Path:
    opened = open_source(source)
    plan = make_plan(opened.checkpoint, RECIPES[recipe], files=opened.files, **options)
    convert(plan, dst)
    return dst


def to_hf(source: Path, dst: Path) -> Path:
    opened = open_source(source)
    convert(make_hf_plan(opened.checkpoint, files=opened.files), dst)
    return dst


def read_by_judge(folder: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(folder / FILE)
    return {tensor.name: tensor for tensor in reader.tensors}


def values_by_judge(tensor: Any) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type)
