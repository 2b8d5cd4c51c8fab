"""Errors for wrong tensors, sizes, quantization and values name fault and remedy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_gptoss.checkpoint import check_values, open_checkpoint, read_header
from mlx_gptoss.checkpoint.notices import list_stale_tables
from mlx_gptoss.checkpoint.wrong_files import NOT_NUMBERS
from mlx_gptoss.errors import CheckpointError
from tests.support import checkpoints, layout_writers
from tests.support.faulty_checkpoints import (
    BLOCKS,
    CONFIG,
    LAYER,
    TENSORS,
    edit_config,
    hf,
    message,
)

ADVICE = "or take the `config.json` that was saved with these weights"
REMOVE = "remove that entry, the tensors themselves decide"


# Tensors


def test_missing_tensor(tmp_path: Path) -> None:
    hf(tmp_path, lambda tensors: tensors.pop(LAYER + "self_attn.sinks"))
    assert message(tmp_path) == (
        "tensor `model.layers.1.self_attn.sinks` (BF16 or F16 or F32, shape (2,)) is "
        "missing from `model.safetensors`: save the model again with all of its "
        "tensors, or add the file that has it"
    )


@pytest.mark.parametrize("name", sorted(set(TENSORS) - {"lm_head.weight"}))
def test_any_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    hf(tmp_path, lambda tensors: tensors.pop(name))
    assert message(tmp_path).startswith(f"tensor `{name}` (")


def test_missing_tensor_of_original_has_the_name_in_the_file(tmp_path: Path) -> None:
    layout_writers.write_original(tmp_path, CONFIG, TENSORS)
    edit_config(tmp_path, num_hidden_layers=3)
    edit_config(tmp_path, num_hidden_layers=2)
    stored = dict(read_header(tmp_path / "model.safetensors"))
    kept = {
        name: np.zeros(tensor.shape, np.uint8 if tensor.dtype == "U8" else np.float32)
        for name, tensor in stored.items()
        if name != "block.1.attn.qkv.weight"
    }
    checkpoints.save_tensors(tmp_path / "model.safetensors", kept)
    (tmp_path / "dtypes.json").unlink()
    assert message(tmp_path).startswith("tensor `block.1.attn.qkv.weight` (")


def test_wrong_shape(tmp_path: Path) -> None:
    hf(tmp_path, lambda tensors: tensors.update({BLOCKS: TENSORS[BLOCKS][:, :-1]}))
    assert message(tmp_path) == (
        f"tensor `{BLOCKS}` in `FOLDER/model.safetensors` has shape (5, 191, 6, 16), "
        f"expected (5, 192, 6, 16): {ADVICE[3:]}"
    )


def test_wrong_dtype(tmp_path: Path) -> None:
    name = LAYER + "mlp.router.weight"
    wrong = TENSORS[name].astype(np.uint8)
    hf(tmp_path, lambda tensors: tensors.update({name: wrong}))
    assert message(tmp_path) == (
        f"tensor `{name}` in `FOLDER/model.safetensors` has dtype U8, expected BF16 or "
        "F16 or F32: not supported, save the model as bf16"
    )


def test_unexpected_tensors(tmp_path: Path) -> None:
    extra = dict.fromkeys(["model.layers.1.extra", "zzz"], np.ones(3, np.float32))
    hf(tmp_path, lambda tensors: tensors.update(extra))
    assert message(tmp_path) == (
        "tensor `model.layers.1.extra` (and 1 more) in `FOLDER/model.safetensors` has "
        f"no place in this model: save the model without it, {ADVICE}"
    )


def test_config_with_fewer_layers_than_the_weights(tmp_path: Path) -> None:
    hf(tmp_path)
    edit_config(tmp_path, num_hidden_layers=1, layer_types=...)
    assert message(tmp_path) == (
        "`FOLDER` holds 2 layers, `config.json` says `num_hidden_layers` = 1: set it "
        f"to 2 (with 2 `layer_types`), {ADVICE}"
    )


def test_another_models_weights(tmp_path: Path) -> None:
    llama = {"model.layers.0.mlp.gate_proj.weight": np.ones((3, 2), np.float32)}
    checkpoints.write_folder(tmp_path, CONFIG, llama)
    assert message(tmp_path) == (
        "`FOLDER` has no gpt-oss weights: the first of its tensors is "
        "`model.layers.0.mlp.gate_proj.weight`; give a gpt-oss checkpoint"
    )


def test_file_without_tensors(tmp_path: Path) -> None:
    checkpoints.write_folder(tmp_path, CONFIG, {})
    assert message(tmp_path) == (
        "`FOLDER` has no gpt-oss weights; give a gpt-oss checkpoint"
    )


def test_sizes_that_mxfp4_cannot_have(tmp_path: Path) -> None:
    hf(tmp_path)
    edit_config(tmp_path, hidden_size=100, num_hidden_layers=1, layer_types=...)
    blocks = BLOCKS.replace(".1.", ".0.")
    kept = {blocks: TENSORS[blocks]}  # without those that tell the size
    checkpoints.save_tensors(tmp_path / "model.safetensors", kept)
    assert message(tmp_path) == (
        "`config.json` has `hidden_size` = 100, not a multiple of 32 as MXFP4 "
        "experts require"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": -192},
        {"num_attention_heads": 3, "num_key_value_heads": 2},
        {"vocab_size": 1 << 50},
        {"num_hidden_layers": 1 << 30, "layer_types": ...},
        {"hidden_size": 1 << 20, "intermediate_size": 1 << 20},
        {"head_dim": 0},
    ],
)
def test_impossible_sizes(changes: dict[str, Any], tmp_path: Path) -> None:
    hf(tmp_path)
    edit_config(tmp_path, **changes)
    assert message(tmp_path).startswith("`config.json` ")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 64},
        {"vocab_size": 300},
        {"num_local_experts": 4},
        {"head_dim": 32},
    ],
)
def test_sizes_of_another_model(changes: dict[str, Any], tmp_path: Path) -> None:
    hf(tmp_path)
    edit_config(tmp_path, **changes)
    assert ADVICE in message(tmp_path)


# Quantization


@pytest.fixture
def q8(tmp_path: Path) -> Path:
    layout_writers.write_mlx_packed(tmp_path, CONFIG, TENSORS)
    return tmp_path


def edit_quantization(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    edit_config(folder, quantization=raw["quantization"] | changes)


def test_setting_that_the_tensors_contradict(q8: Path) -> None:
    edit_quantization(q8, lm_head={"group_size": 64, "bits": 4})
    assert message(q8) == (
        "`config.json` has `quantization.lm_head` = affine in 4 bits, groups of 64, "
        "but `lm_head.weight` in `FOLDER/model.safetensors` is affine in 8 bits, "
        f"groups of 64: {REMOVE}"
    )


def test_module_said_to_be_quantized_that_is_not(tmp_path: Path) -> None:
    layout_writers.write_mlx_lossless(tmp_path, CONFIG, TENSORS)
    edit_quantization(tmp_path, lm_head={"group_size": 64, "bits": 4})
    assert list(list_stale_tables(open_checkpoint(tmp_path))) == [
        "`config.json` has a setting of quantization for `lm_head`, which is not "
        "quantized: used as stored"
    ]


def test_module_said_to_be_dense_that_is_not(q8: Path) -> None:
    edit_quantization(q8, lm_head=False)
    assert message(q8) == (
        "`config.json` has `quantization.lm_head` = false, but `lm_head.weight` in "
        f"`FOLDER/model.safetensors` is affine in 8 bits, groups of 64: {REMOVE}"
    )


def test_packed_experts_said_to_be_affine(q8: Path) -> None:
    path = "model.layers.0.mlp.experts.up_proj"
    edit_quantization(q8, **{path: {"group_size": 64, "bits": 4}})
    assert message(q8) == (
        f"`config.json` has `quantization.{path}` = affine in 4 bits, groups of 64, "
        f"but these experts are stored as MXFP4: {REMOVE}"
    )


@pytest.mark.parametrize("kind", ["weight", "scales", "biases"])
def test_missing_piece_of_a_quantized_matrix(kind: str, tmp_path: Path) -> None:
    words, _ = layout_writers.affine(TENSORS["lm_head.weight"], 8, 64)
    pieces = {f"lm_head.{name}": x for name, x in words.items() if name != kind}
    stored = {name: x for name, x in TENSORS.items() if name != "lm_head.weight"}
    checkpoints.write_folder(tmp_path, CONFIG, stored | pieces)
    assert message(tmp_path).startswith(f"tensor `lm_head.{kind}` ")


def test_quantization_nobody_packs(tmp_path: Path) -> None:
    pieces = {
        "lm_head.weight": np.zeros((301, 48), np.uint32),
        "lm_head.scales": np.zeros((301, 12), np.uint8),
    }
    checkpoints.write_folder(tmp_path, CONFIG, TENSORS | pieces)
    assert message(tmp_path) == (
        "tensor `lm_head.weight` in `FOLDER/model.safetensors` has shape (301, 48) and "
        "its scales (U8) have shape (301, 12): no supported quantization packs 192 "
        "columns like that (affine, mxfp4, mxfp8, nvfp4), convert the original again"
    )


# Values


@pytest.mark.parametrize(
    ("name", "place", "value", "what"),
    [
        (
            LAYER + "mlp.experts.down_proj_scales",
            (4, 7, 2),
            255,
            "a scale of 255 (NaN)",
        ),
        ("model.embed_tokens.weight", (300, 191), np.inf, "a non-finite value"),
        (LAYER + "self_attn.sinks", (1,), np.nan, "a non-finite value"),
        ("model.norm.weight", (5,), -np.inf, "a non-finite value"),
    ],
)
def test_values_no_sound_model_has(
    name: str, place: tuple[int, ...], value: float, what: str, tmp_path: Path
) -> None:
    tensors = TENSORS | {name: TENSORS[name].copy()}
    if np.isnan(value):  # the writer's rounding is for numbers
        tensors[name].view(np.uint32)[place] = 0x7FC00000
    else:
        tensors[name][place] = value
    checkpoints.write_folder(tmp_path, CONFIG, tensors)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError) as error:
        check_values(checkpoint)
    assert str(error.value) == (
        f"tensor `{name}` in `{tmp_path}/model.safetensors` has {what} at {place}: "
        f"{NOT_NUMBERS}"
    )


def test_byte_255_in_blocks_is_two_good_values(tmp_path: Path) -> None:
    tensors = TENSORS | {BLOCKS: np.full_like(TENSORS[BLOCKS], 255)}
    checkpoints.write_folder(tmp_path, CONFIG, tensors)
    seen: list[tuple[int, int]] = []
    check_values(
        open_checkpoint(tmp_path),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] > 0
