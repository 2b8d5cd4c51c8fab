"""Whole conversions: every layout to an MLX folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import MLX_PACKED, PACKED, matrices
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES, Recipe, affine
from mlx_gptoss_convert.plan.shards import PAGE
from mlx_gptoss_convert.steps.affine import AffineRows, decode_affine
from mlx_gptoss_convert.write.conversion import convert
from tests.support import oracle
from tests.support.checkpoints import hf_config, random_tensors, write_folder
from tests.support.layout_writers import WRITERS, write_hf, write_split_mxfp4

# Columns are whole groups of 64, which mlx-lm and the affine writers need.
CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128)
TENSORS = random_tensors(CONFIG, seed=5)
IDS = [7, 290, 0, 11, 11, 42, 199, 3, 54, 8, 120, 77]
LOGITS = 5e-4  # float32 against the float64 oracle, on logits of about 4

# Root mean square change of logits of rms 1 in these random two-layer models. They
# have no redundancy and flip experts easily, so a trained model changes less.
CHANGES = {"q8": 0.05, "q6": 0.2, "q4": 0.6}


def write_source(folder: Path, layout: str) -> dict[str, np.ndarray]:
    return WRITERS[layout](folder, CONFIG, TENSORS)


def run(
    source: Path, dst: Path, recipe: str | Recipe = "lossless", **options: Any
) -> Path:
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    convert(make_plan(open_checkpoint(source), chosen, **options), dst)
    return dst


def logits(folder: Path, ids: list[int] = IDS) -> np.ndarray:
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    return np.array(model(mx.array([ids]))[0])


def raw_tensors(folder: Path) -> dict[str, bytes]:
    """Read the bytes of every tensor of a folder, by stored name."""
    found: dict[str, bytes] = {}
    for path in folder.glob("*.safetensors"):
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            found[name] = raw[start + first : start + last]
    return found


def expert_bytes(tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {
        name: tensor.tobytes()
        for name, tensor in tensors.items()
        if name.endswith(("_blocks", "_scales"))
    }


@pytest.mark.parametrize("recipe", CHANGES)
def test_a_quantized_rest_computes_what_its_values_say(
    tmp_path: Path, recipe: str
) -> None:
    write_source(tmp_path / "source", "hf")
    result = run(tmp_path / "source", tmp_path / "result", recipe)
    expected = oracle.logits(decoded(result), CONFIG, IDS)
    np.testing.assert_allclose(logits(result), expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("recipe", CHANGES)
def test_a_quantized_rest_stays_close(tmp_path: Path, recipe: str) -> None:
    write_source(tmp_path / "source", "hf")
    result = run(tmp_path / "source", tmp_path / "result", recipe)
    before = oracle.logits(TENSORS, CONFIG, IDS)
    change = np.sqrt(np.mean((logits(result) - before) ** 2) / np.mean(before**2))
    assert LOGITS < change < CHANGES[recipe], change


def decoded(folder: Path) -> dict[str, np.ndarray]:
    """Replace quantized tensors of a folder by their decoded values."""
    found, tensors = raw_tensors(folder), dict(TENSORS)
    for path, setting in open_checkpoint(folder).structure.quantization.items():
        if ".experts." in path:
            continue
        rows = len(TENSORS[f"{path}.weight"])
        types = {"weight": np.uint32, "scales": np.uint16, "biases": np.uint16}
        encoded = AffineRows(
            *(
                np.frombuffer(found[f"{path}.{kind}"], dtype).reshape(rows, -1)
                for kind, dtype in types.items()
            )
        )
        tensors[f"{path}.weight"] = decode_affine(
            encoded, bits=setting.bits, group_size=setting.group_size, dtype="BF16"
        )
    return tensors


def test_bits_that_are_lost_are_not_bought_back(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "hf")
    q4 = run(tmp_path / "source", tmp_path / "q4", "q4")
    again = run(q4, tmp_path / "again", "q8")
    assert raw_tensors(again) == raw_tensors(q4)


def test_more_bits_than_the_recipe_are_lowered(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "hf")
    q8 = run(tmp_path / "source", tmp_path / "q8", "q8")
    q4 = run(q8, tmp_path / "q4", "q4")
    setting = open_checkpoint(q4).structure.quantization["lm_head"]
    expected = oracle.logits(decoded(q4), CONFIG, IDS)
    assert setting == affine(4)
    np.testing.assert_allclose(logits(q4), expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("recipe", ["lossless", "q8"])
@pytest.mark.parametrize("experts", ["packed", "split"])
def test_stock_mlx_lm_opens_the_result(
    tmp_path: Path, recipe: str, experts: str
) -> None:
    from mlx_lm.utils import load_model as load_stock

    write_source(tmp_path / "source", "hf")
    result = run(tmp_path / "source", tmp_path / "result", recipe, experts=experts)
    stock, _ = load_stock(result)
    stock.set_dtype(mx.float32)
    found = np.array(stock(mx.array([IDS]))[0])
    # mlx-lm rounds the bounds of YaRN's ramp, an error that grows with the position;
    # within these few positions it moves logits by a few thousandths.
    np.testing.assert_allclose(found, logits(result), rtol=0, atol=0.02)


def test_split_and_back_again_is_byte_exact(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "hf")
    packed = run(tmp_path / "source", tmp_path / "packed")
    split = run(packed, tmp_path / "split", experts="split")
    back = run(split, tmp_path / "back")
    assert raw_tensors(back) == raw_tensors(packed)


def test_dense_experts_can_be_written_split(tmp_path: Path) -> None:
    seen = write_source(tmp_path / "source", "dense")
    result = run(tmp_path / "source", tmp_path / "result", experts="split")
    assert open_checkpoint(result).layout.name == "mlx-split"
    expected = oracle.logits(seen, CONFIG, IDS)
    np.testing.assert_allclose(logits(result), expected, rtol=0, atol=LOGITS)


def test_lossy_blocks_are_counted(tmp_path: Path) -> None:
    seen = write_source(tmp_path / "source", "dense")
    name = "model.layers.1.mlp.experts.down_proj"
    seen[name][0, :32, 0] = np.linspace(
        -1, 1, 32
    )  # 32 values that FP4's fifteen cannot represent
    plain = {key: value for key, value in CONFIG.items() if "quant" not in key}
    write_folder(tmp_path / "edited", plain, seen)
    result = run(tmp_path / "edited", tmp_path / "result")
    report = json.loads((result / "conversion.json").read_text())
    assert report["lossy_blocks"] == {f"{name}_blocks": 1}
    assert "1 of " in (result / "README.md").read_text()


def test_the_config_says_every_setting_with_its_mode(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "original")
    result = run(tmp_path / "source", tmp_path / "result", "q8")
    raw = json.loads((result / "config.json").read_text())
    settings = {
        key: value for key, value in raw["quantization"].items() if "." in key
    } | {"lm_head": raw["quantization"]["lm_head"]}
    experts = [key for key in settings if ".experts." in key]
    assert {settings[key]["mode"] for key in experts} == {"mxfp4"}
    assert {settings[key]["mode"] for key in set(settings) - set(experts)} == {"affine"}
    assert "quantization_config" not in raw
    before = open_checkpoint(tmp_path / "source").config
    assert ModelConfig.from_dict(raw) == before


def test_the_small_files_come_along(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    WRITERS["original-in-repository"](folder, CONFIG, TENSORS)
    for name in ("tokenizer.json", "LICENSE", "chat_template.jinja"):
        (folder / name).write_text(name)
    (folder / "original" / "tokenizer_config.json").write_text("{}")
    result = run(folder, tmp_path / "result")
    assert sorted(path.name for path in result.iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "conversion.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_same_source_and_recipe_give_the_same_bytes(tmp_path: Path) -> None:
    write_source(tmp_path / "one", "hf")
    write_source(tmp_path / "two", "hf")
    first, second = (
        {
            path.name: path.read_bytes()
            for path in run(tmp_path / name, tmp_path / f"{name}-out", "q4").iterdir()
        }
        for name in ("one", "two")
    )
    assert first == second


def test_columns_without_a_group_stay_dense(tmp_path: Path) -> None:
    config = hf_config(
        num_hidden_layers=1, num_attention_heads=3, head_dim=20, num_key_value_heads=3
    )
    tensors = random_tensors(config, seed=1)
    write_hf(tmp_path / "source", config, tensors)
    result = run(tmp_path / "source", tmp_path / "result", "q8")
    found = open_checkpoint(result).structure.quantization
    assert "model.layers.0.self_attn.o_proj" not in found  # 60 columns
    assert found["model.layers.0.self_attn.q_proj"] == affine(8)


def test_shards_are_cut_by_size_and_found_by_the_index(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "hf")
    result = run(tmp_path / "source", tmp_path / "result", shard_bytes=400_000)
    names = sorted(path.name for path in result.glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    expected = oracle.logits(TENSORS, CONFIG, IDS)
    np.testing.assert_allclose(logits(result), expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize(("layers", "experts"), [(24, 32), (36, 128)])
def test_expert_blocks_of_the_published_shapes_are_whole_pages(
    layers: int, experts: int
) -> None:
    config = ModelConfig.from_dict(
        hf_config(
            num_hidden_layers=layers,
            num_local_experts=experts,
            hidden_size=2880,
            intermediate_size=2880,
            num_attention_heads=64,
            num_key_value_heads=8,
            vocab_size=201088,
        )
    )
    stacks = [m for m in matrices(config, PACKED) if m.part == "experts"]
    assert len(stacks) == 2 * layers
    assert not [m for m in stacks if np.prod(m.shape) // 2 % PAGE]
    assert MLX_PACKED.expert_form == "blocks"


def test_broken_values_stop_the_conversion(tmp_path: Path) -> None:
    tensors = dict(TENSORS)
    name = "model.layers.0.mlp.experts.down_proj_scales"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0, 0] = 255
    write_hf(tmp_path / "source", CONFIG, tensors)
    with pytest.raises(ConversionError, match="not finite"):
        run(tmp_path / "source", tmp_path / "result")
    assert not (tmp_path / "result").exists()


def test_a_router_quantized_by_others_is_kept(tmp_path: Path) -> None:
    write_split_mxfp4(tmp_path / "source", CONFIG, TENSORS)
    result = run(tmp_path / "source", tmp_path / "result", "lossless")
    found = open_checkpoint(result).structure.quantization
    assert found["model.layers.0.mlp.router"].bits == 8
