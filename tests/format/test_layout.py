"""The tables against what OpenAI published: counts, names and bytes of both sizes."""

from math import prod
from typing import Any

import pytest

from mlx_gptoss.checkpoint.matching import matrix_specs
from mlx_gptoss.format.config import MXFP4, ModelConfig, Quantization
from mlx_gptoss.format.layout import (
    DENSE,
    DENSE_BLOCKS,
    DTYPE_BYTES,
    EXPERTS,
    HF,
    LAYOUTS,
    MLX_PACKED,
    MLX_SPLIT,
    ORIGINAL,
    PARTS,
    Layout,
    Structure,
    detect_layout,
    fuses_qkv,
    matrices,
    part_table,
    vectors,
)


def published(layers: int, experts: int) -> ModelConfig:
    raw: dict[str, Any] = {
        "num_hidden_layers": layers,
        "num_experts": experts,
        "experts_per_token": 4,
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "head_dim": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "sliding_window": 128,
    }
    return ModelConfig.from_dict(raw)


def stored_bytes(config: ModelConfig, layout: Layout) -> dict[str, int]:
    """Bytes of every stored tensor, experts MXFP4, the rest bfloat16."""
    sizes: dict[str, int] = {}
    for matrix in matrices(config, layout.experts):
        setting = MXFP4 if matrix.part == EXPERTS else None
        specs = matrix_specs(matrix, setting, layout, matrix.shape[-2])
        for kind, (dtypes, shape) in specs.items():
            name = layout.stored_name(f"{matrix.path}.{kind}")
            size = prod(shape) * DTYPE_BYTES[dtypes[0]]
            sizes[name] = sizes.get(name, 0) + size
    for vector in vectors(config):
        sizes[layout.stored_name(vector.name)] = prod(vector.shape) * 2
    return sizes


@pytest.mark.parametrize(
    ("layers", "experts", "layout", "tensors", "total"),
    [
        (24, 32, HF, 459, 13_761_264_768),
        (36, 128, HF, 687, 65_248_815_744),
        (24, 32, ORIGINAL, 363, 13_761_264_768),
        (36, 128, ORIGINAL, 543, 65_248_815_744),
        (24, 32, MLX_SPLIT, 459 + 24 * 3, 13_761_264_768),
    ],
)
def test_published_counts_and_bytes(
    layers: int, experts: int, layout: Layout, tensors: int, total: int
) -> None:
    sizes = stored_bytes(published(layers, experts), layout)
    assert (len(sizes), sum(sizes.values())) == (tensors, total)


def test_names_in_files() -> None:
    experts = "model.layers.11.mlp.experts."
    q_bias = "model.layers.11.self_attn.q_proj.bias"
    names = [f"{experts}gate_up_proj.weight", f"{experts}down_proj.bias", q_bias]
    assert {
        layout.name: [layout.stored_name(name) for name in names]
        for layout in (HF, ORIGINAL, DENSE, DENSE_BLOCKS)
    } == {
        "hf": [f"{experts}gate_up_proj_blocks", f"{experts}down_proj_bias", q_bias],
        "original": [
            "block.11.mlp.mlp1_weight.blocks",
            "block.11.mlp.mlp2_bias",
            "block.11.attn.qkv.bias",
        ],
        "dense": [f"{experts}gate_up_proj", f"{experts}down_proj_bias", q_bias],
        "dense-blocks": [
            f"{experts}gate_up_proj_blocks",
            f"{experts}down_proj_bias",
            q_bias,
        ],
    }


GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
BLOCKS = {f"{GATE_UP}_blocks": ("U8", (5, 192, 6, 16))}
DETECTED: list[tuple[dict[str, tuple[str, tuple[int, ...]]], bool, Layout | None]] = [
    (BLOCKS, False, HF),
    (BLOCKS, True, MLX_PACKED),
    (BLOCKS | {"lm_head.scales": ("BF16", (301, 3))}, False, MLX_PACKED),
    ({f"{GATE_UP}_blocks": ("BF16", (5, 192, 192))}, False, DENSE_BLOCKS),
    ({f"{GATE_UP}_blocks": ("F32", (5, 192, 192))}, True, DENSE_BLOCKS),
    ({GATE_UP: ("BF16", (5, 192, 192))}, False, DENSE),
    ({"block.0.attn.sinks": ("BF16", (6,))}, False, ORIGINAL),
    (
        {"model.layers.0.mlp.experts.gate_proj.weight": ("U32", (5, 96, 24))},
        True,
        MLX_SPLIT,
    ),
    ({"model.layers.0.mlp.gate_proj.weight": ("BF16", (96, 192))}, False, None),
    ({}, False, None),
]


@pytest.mark.parametrize(("tensors", "mlx", "layout"), DETECTED)
def test_layout_is_detected_by_dtype_and_rank(
    tensors: dict[str, tuple[str, tuple[int, ...]]], mlx: bool, layout: Layout | None
) -> None:
    assert detect_layout(tensors, mlx=mlx) == layout


def test_layouts_have_different_names() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_every_tensor_has_a_known_part() -> None:
    assert set(part_table().values()) == set(PARTS)


def test_qkv_fuses_when_all_three_share_one_setting() -> None:
    q8, q4 = Quantization(8, 64, "affine"), Quantization(4, 64, "affine")
    paths = [f"model.layers.0.self_attn.{x}_proj" for x in "qkv"]
    same = Structure(dict.fromkeys(paths, q8), "packed")
    mixed = Structure(dict(zip(paths, (q8, q8, q4), strict=True)), "packed")
    partly = Structure({paths[0]: q8}, "packed")
    dense = Structure({}, "packed")
    fused = [fuses_qkv(structure, 0) for structure in (same, mixed, partly, dense)]
    assert fused == [True, False, False, True]
