"""Every layout opens as what it is and computes what the oracle computes."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import load_model, open_checkpoint, summarize
from mlx_gptoss.format.config import MXFP4, Quantization
from mlx_gptoss.format.layout import fuses_qkv
from tests.support import checkpoints, layout_writers, oracle

# Float32 with sums in another order: 1e-5 is usual on logits of size about 4.
TOLERANCE = 5e-4
IDS = np.random.default_rng(3).integers(0, 301, 21).tolist()  # past the window of 8

LAYOUT_OF = {
    "hf": "hf",
    "hf-rope-parameters": "hf",
    "hf-sharded": "hf",
    "original": "original",
    "original-in-repository": "original",
    "dense": "dense",
    "dense-blocks": "dense-blocks",
    "dense-float32": "dense",
    "dense-float16": "dense",
    "unsloth": "single-experts",
    "single-experts": "single-experts-split",
    "mlx-packed": "mlx-packed",
    "mlx-packed-lossless": "mlx-packed",
    "mlx-packed-mixed": "mlx-packed",
    "mlx-split-mxfp4": "mlx-split",
    "mlx-split-dense": "mlx-split",
    "mlx-split-affine": "mlx-split",
    "mlx-split-mixed": "mlx-split",
}


def small_config() -> dict[str, object]:
    # q, k and v of 128, 64 and 64 rows; hidden and intermediate size differ.
    return checkpoints.hf_config(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
    )


@pytest.mark.parametrize("name", layout_writers.WRITERS)
def test_layout_computes_the_oracles_logits(name: str, tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config, seed=5)
    seen = layout_writers.WRITERS[name](tmp_path / "model", config, tensors)

    checkpoint = open_checkpoint(tmp_path / "model", strict=True)
    model = load_model(checkpoint, dtype=mx.float32)
    logits = np.array(model(mx.array([IDS]))[0])

    assert checkpoint.layout.name == LAYOUT_OF[name]
    expected = oracle.logits(seen, config, IDS)
    assert np.abs(logits - expected).max() < TOLERANCE


def structure_of(name: str, folder: Path) -> dict[str, object]:
    config = small_config()
    tensors = checkpoints.random_tensors(config, seed=5)
    layout_writers.WRITERS[name](folder / "model", config, tensors)
    checkpoint = open_checkpoint(folder / "model")
    return {
        "experts": checkpoint.structure.experts,
        "fused": fuses_qkv(checkpoint.structure, 0),
        "quantization": {
            path.replace("model.layers.0.", ""): setting
            for path, setting in checkpoint.structure.quantization.items()
            if "layers.1" not in path
        },
    }


def test_structure_of_mixed_settings_keeps_q_k_and_v_apart(tmp_path: Path) -> None:
    q8, q6, q4 = (Quantization(bits, 64, "affine") for bits in (8, 6, 4))
    assert structure_of("mlx-packed-mixed", tmp_path) == {
        "experts": "packed",
        "fused": False,
        "quantization": {
            "lm_head": q4,
            "self_attn.q_proj": q8,
            "self_attn.k_proj": q8,
            "self_attn.v_proj": q4,
            "self_attn.o_proj": q6,
            "mlp.experts.gate_up_proj": MXFP4,
            "mlp.experts.down_proj": MXFP4,
        },
    }


def test_structure_of_split_experts_follows_the_tensors(tmp_path: Path) -> None:
    assert structure_of("mlx-split-mxfp4", tmp_path) == {
        "experts": "split",
        "fused": True,
        "quantization": {
            "mlp.router": Quantization(8, 64, "affine"),
            "mlp.experts.gate_proj": MXFP4,
            "mlp.experts.up_proj": MXFP4,
            "mlp.experts.down_proj": MXFP4,
        },
    }


def test_settings_are_inferred_where_config_names_none(tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config)
    layout_writers.write_mlx_packed(
        tmp_path, config, tensors, bits=lambda path: 4, modules=False
    )
    structure = open_checkpoint(tmp_path).structure
    assert structure.quantization["lm_head"] == Quantization(4, 64, "affine")


def test_a_single_file_opens_with_its_config_beside_it(tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path)
    checkpoint = open_checkpoint(folder / "model.safetensors")
    assert checkpoint.files == (folder / "model.safetensors",)


def test_a_shard_opens_as_its_whole_checkpoint(tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config)
    layout_writers.write_sharded(tmp_path, config, tensors)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    assert len(open_checkpoint(shard).files) == 3


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path / "snapshot")
    blob = (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(blob)
    assert open_checkpoint(folder).layout.name == "hf"


def test_harmless_tensors_are_ignored(tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(32, np.float32)}
    checkpoints.write_folder(tmp_path, config, tensors | extra)
    assert len(open_checkpoint(tmp_path).tensors) == len(tensors)


def test_generation_config_adds_stop_tokens(tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path)
    text = '{"eos_token_id": [2, 7, 9], "do_sample": true}'
    (folder / "generation_config.json").write_text(text)
    assert open_checkpoint(folder).config.eos_token_ids == (2, 7, 9)


def test_fused_rows_of_original_are_byte_ranges(tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config)
    layout_writers.write_original(tmp_path, config, tensors)
    name = "model.layers.1.self_attn.k_proj.weight"
    stored = open_checkpoint(tmp_path).tensors[name]
    raw = stored.file.read_bytes()[stored.offset : stored.offset + stored.nbytes]
    bits = checkpoints.bfloat16_bits(tensors[name])
    found = (stored.name, stored.shape, stored.dtype, raw)
    assert found == ("block.1.attn.qkv.weight", (64, 192), "BF16", bits.tobytes())


def test_facts_give_bytes_and_quantization_of_every_part(tmp_path: Path) -> None:
    config = small_config()
    tensors = checkpoints.random_tensors(config)
    layout_writers.write_mlx_mixed(tmp_path, config, tensors)
    checkpoint = open_checkpoint(tmp_path)
    found = summarize(checkpoint)
    assert found["bytes"] == sum(found["bytes_by_part"].values())
    assert found["quantization"] == {
        "embedding": {"BF16": 1},
        "attention": {
            "affine 8-bit group 64": 4,
            "affine 4-bit group 64": 2,
            "affine 6-bit group 64": 2,
        },
        "router": {"BF16": 2},
        "experts": {"mxfp4": 4},
        "lm_head": {"affine 4-bit group 64": 1},
    }
    assert found["bytes_by_part"] == {
        "embedding": 301 * 192 * 2,
        "attention": 2
        * (
            192 * 192  # q, k: 8 bits
            + 192 * 3 * 4  # their scales and biases
            + 64 * 192 // 2  # v: 4 bits
            + 64 * 3 * 4
            + 192 * 128 * 6 // 8  # o: 6 bits
            + 192 * 2 * 4
            + (256 + 192 + 2) * 2  # biases, sinks
        ),
        "router": 2 * (5 * 192 + 5) * 2,
        "experts": 2
        * 5
        * (192 * 6 * 17 + 192 * 2 + 192 * 3 * 17 + 192 * 2),  # blocks, scales, biases
        "norms": 5 * 192 * 2,
        "lm_head": 301 * 192 // 2 + 301 * 3 * 4,
    }
