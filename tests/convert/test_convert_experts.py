"""Experts requantized: 3 bits, back to MXFP4, half precision, forced or refused."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.format.config import MXFP4
from mlx_gptoss_convert.measure.matrices import MatrixReader
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import (
    EXPERT_ERRORS,
    HALF,
    KINDS,
    RECIPES,
    Recipe,
    affine,
    with_experts,
)
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.write.conversion import convert
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.layout_writers import WRITERS

CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128)
TENSORS = random_tensors(CONFIG, seed=5)
IDS = [7, 290, 0, 11, 42, 199]
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
STOCK = 0.02  # mlx-lm rounds the bounds of YaRN's ramp


def run(folder: Path, layout: str, recipe: Recipe) -> Path:
    WRITERS[layout](folder / "source", CONFIG, TENSORS)
    convert(make_plan(open_checkpoint(folder / "source"), recipe), folder / "dst")
    return folder / "dst"


def expert(folder: Path, path: str = GATE_UP) -> np.ndarray:
    with TensorReader() as source:
        return MatrixReader(open_checkpoint(folder), source).expert(path, 2)


def relative_error(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2)))


@pytest.mark.parametrize("layout", ["hf", "dense", "mlx-split-mxfp4"])
def test_three_bit_experts_cost_what_is_said(tmp_path: Path, layout: str) -> None:
    dst = run(tmp_path, layout, with_experts(RECIPES["q8"], bits=3))
    found = open_checkpoint(dst)
    assert found.layout.name == "mlx-split"
    assert found.structure.quantization[GATE_UP.replace("gate_up", "up")] == affine(3)
    error = relative_error(expert(tmp_path / "source"), expert(dst))
    assert error == pytest.approx(EXPERT_ERRORS[3], rel=0.1)
    assert "affine with 3 bits" in (dst / "README.md").read_text()


def test_stock_mlx_lm_computes_the_same_with_three_bit_experts(tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock

    dst = run(tmp_path, "hf", with_experts(RECIPES["q4"], bits=3))
    stock, _ = load_stock(dst)
    stock.set_dtype(mx.float32)
    ours = load_model(open_checkpoint(dst), dtype=mx.float32)
    np.testing.assert_allclose(
        np.array(stock(mx.array([IDS]))[0]),
        np.array(ours(mx.array([IDS]))[0]),
        rtol=0,
        atol=STOCK,
    )


def test_affine_experts_become_mxfp4_when_asked(tmp_path: Path) -> None:
    recipe = with_experts(RECIPES["lossless"], mxfp4=True)
    dst = run(tmp_path, "mlx-split-affine", recipe)
    found = open_checkpoint(dst)
    assert (found.layout.name, found.structure.quantization[GATE_UP]) == (
        "mlx-packed",
        MXFP4,
    )
    # 8 bits move values off FP4's grid; encoding as MXFP4 restores most of them.
    assert relative_error(expert(tmp_path / "source"), expert(dst)) < 0.02
    assert json.loads((dst / "conversion.json").read_text())["lossy_blocks"]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("mxfp4", dict.fromkeys(KINDS, MXFP4)),
        Recipe("fp16", dict.fromkeys(KINDS, HALF)),
        Recipe("q5", dict.fromkeys(KINDS, affine(5, 32))),
    ],
    ids=lambda recipe: recipe.name,
)
def test_every_mode_of_a_recipe_loads_here_and_in_stock(
    tmp_path: Path, recipe: Recipe
) -> None:
    from mlx_lm.utils import load_model as load_stock

    dst = run(tmp_path, "hf", recipe)
    stock, _ = load_stock(dst)
    stock.set_dtype(mx.float32)
    ours = load_model(open_checkpoint(dst), dtype=mx.float32)
    np.testing.assert_allclose(
        np.array(stock(mx.array([IDS]))[0]),
        np.array(ours(mx.array([IDS]))[0]),
        rtol=0,
        atol=STOCK,
    )


def command(folder: Path, *options: str) -> Result:
    WRITERS["hf"](folder / "source", CONFIG, TENSORS)
    paths = [str(folder / "source"), str(folder / "dst")]
    return CliRunner().invoke(cli, ["convert", *paths, *options])


def test_four_bit_experts_are_refused_with_the_reason(tmp_path: Path) -> None:
    result = command(tmp_path, "--expert-bits", "4")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "4.5 bits per weight where MXFP4 takes 4.25" in result.stderr
    assert not (tmp_path / "dst").exists()


def test_force_overrides(tmp_path: Path) -> None:
    result = command(tmp_path, "--expert-bits", "4", "--force")
    assert result.exit_code == 0 and "\nNext: " in result.stderr
    setting = open_checkpoint(tmp_path / "dst").structure.quantization
    assert setting[GATE_UP.replace("gate_up", "gate")] == affine(4)


def test_what_three_bits_cost_is_said_beforehand(tmp_path: Path) -> None:
    result = command(tmp_path, "--expert-bits", "3")
    assert result.exit_code == 0
    assert "relative rms error" in result.stderr
