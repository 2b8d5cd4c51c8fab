"""Conversions to Hugging Face's layout: the source's bytes, or bfloat16."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.steps.affine import to_float32
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.hf import make_hf_plan
from tests.convert.test_convert import (
    CONFIG,
    IDS,
    LOGITS,
    TENSORS,
    decoded,
    expert_bytes,
    logits,
    raw_tensors,
    run,
)
from tests.support import oracle
from tests.support.checkpoints import to_bfloat16
from tests.support.conversions import contents, interrupt
from tests.support.layout_writers import WRITERS


def to_hf(source: Path, dst: Path) -> Path:
    convert(make_hf_plan(open_checkpoint(source), shard_bytes=300_000), dst)
    return dst


@pytest.fixture
def source(tmp_path: Path) -> Path:
    WRITERS["hf"](tmp_path / "source", CONFIG, TENSORS)
    return tmp_path / "source"


@pytest.mark.parametrize("experts", ["packed", "split"])
def test_a_lossless_folder_gives_the_source_back(
    source: Path, tmp_path: Path, experts: str
) -> None:
    ours = run(source, tmp_path / "ours", experts=experts)
    back = to_hf(ours, tmp_path / "back")
    assert raw_tensors(back) == raw_tensors(source)


@pytest.mark.parametrize("layout", ["original", "hf-sharded", "mlx-packed-lossless"])
def test_every_lossless_layout_gives_the_same_tensors(
    source: Path, tmp_path: Path, layout: str
) -> None:
    WRITERS[layout](tmp_path / "other", CONFIG, TENSORS)
    back = to_hf(tmp_path / "other", tmp_path / "back")
    assert raw_tensors(back) == raw_tensors(source)


def test_the_config_is_one_that_transformers_takes(
    source: Path, tmp_path: Path
) -> None:
    back = to_hf(run(source, tmp_path / "ours"), tmp_path / "back")
    raw = json.loads((back / "config.json").read_text())
    assert raw["quantization_config"] == CONFIG["quantization_config"]
    assert "quantization" not in raw
    assert ModelConfig.from_dict(raw) == ModelConfig.from_dict(CONFIG)
    assert open_checkpoint(back).layout.name == "hf"


@pytest.mark.parametrize("recipe", ["q8", "q4"])
def test_a_quantized_rest_becomes_bfloat16_and_says_so(
    source: Path, tmp_path: Path, recipe: str
) -> None:
    ours = run(source, tmp_path / "ours", recipe)
    back = to_hf(ours, tmp_path / "back")
    found = raw_tensors(back)
    expected = {
        name: to_bfloat16(tensor)
        for name, tensor in decoded(ours).items()
        if tensor.dtype == np.float32
    }
    seen = {
        name: to_float32(np.frombuffer(found[name], np.uint16), "BF16").reshape(x.shape)
        for name, x in expected.items()
    }
    np.testing.assert_equal(seen, expected)
    assert f"dequantize from {recipe[1:]} bits to bf16" in (
        (back / "README.md").read_text()
    )
    assert {name: found[name] for name in expert_bytes(TENSORS)} == (
        expert_bytes(TENSORS)
    )
    np.testing.assert_allclose(
        logits(back),
        oracle.logits({**TENSORS, **expected}, CONFIG, IDS),
        rtol=0,
        atol=LOGITS,
    )


def test_a_router_quantized_by_others_is_dense_again(tmp_path: Path) -> None:
    seen = WRITERS["mlx-split-mxfp4"](tmp_path / "source", CONFIG, TENSORS)
    back = to_hf(tmp_path / "source", tmp_path / "back")
    router = raw_tensors(back)["model.layers.1.mlp.router.weight"]
    expected = to_bfloat16(seen["model.layers.1.mlp.router.weight"])
    found = to_float32(np.frombuffer(router, np.uint16), "BF16")
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_affine_experts_are_refused(tmp_path: Path) -> None:
    WRITERS["mlx-split-affine"](tmp_path / "source", CONFIG, TENSORS)
    with pytest.raises(ConversionError, match="MXFP4 only"):
        make_hf_plan(open_checkpoint(tmp_path / "source"))


@pytest.mark.parametrize("pieces", [1, 23, 40])
def test_it_goes_on_where_it_was_stopped(
    source: Path, tmp_path: Path, pieces: int
) -> None:
    plan = make_hf_plan(
        open_checkpoint(run(source, tmp_path / "ours", "q8")), shard_bytes=300_000
    )
    interrupt(plan, tmp_path / "back", pieces)
    convert(plan, tmp_path / "back", resume=True)
    convert(plan, tmp_path / "undisturbed")
    assert contents(tmp_path / "back") == contents(tmp_path / "undisturbed")


def test_another_output_is_not_taken_for_the_same_conversion(
    source: Path, tmp_path: Path
) -> None:
    opened = open_checkpoint(source)
    interrupt(make_hf_plan(opened), tmp_path / "dst", 0)
    with pytest.raises(ConversionError, match="was started with another"):
        convert(make_plan(opened, RECIPES["lossless"]), tmp_path / "dst", resume=True)
