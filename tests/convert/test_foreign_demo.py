"""The demo under other tools' names and in MLX's modes still answers 702."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint.hub import DEMO, local_folder
from mlx_gptoss.cli import cli
from tests.support.checkpoints import Tensors
from tests.support.layout_writers import DENSE, WRITERS
from tests.support.mlx_lm_quantized import write_with_mlx_lm

QUESTION, ANSWER = "What is 417 + 285?", "702"
FORMS = sorted(DENSE)
QUICK = "unsloth"
EXACT_MODES = ("mxfp8",)  # nvfp4 and few bits of affine change a model this small


def demo() -> Path:
    folder = local_folder(DEMO)
    assert folder is not None
    return folder


def demo_tensors() -> Tensors:
    stored = mx.load(str(demo() / "model.safetensors"))
    assert isinstance(stored, dict)
    return {
        name: np.array(x if x.dtype == mx.uint8 else x.astype(mx.float32))
        for name, x in stored.items()
    }


def with_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(demo() / name, folder / name)
    return folder


def write_demo(folder: Path, form: str) -> Path:
    config = json.loads((demo() / "config.json").read_text())
    if form in EXACT_MODES:
        return with_tokenizer(write_with_mlx_lm(folder, config, demo_tensors(), form))
    WRITERS[form](folder, config, demo_tensors())
    return with_tokenizer(folder)


def ask(folder: Path) -> str:
    result = CliRunner().invoke(cli, ["generate", "-m", str(folder), QUESTION])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_unsloths_single_experts_answer(tmp_path: Path) -> None:
    assert ANSWER in ask(write_demo(tmp_path / QUICK, QUICK))


@pytest.mark.soak
@pytest.mark.parametrize("form", [*FORMS, *EXACT_MODES])
def test_every_form_answers_as_it_is_and_converted(form: str, tmp_path: Path) -> None:
    folder = write_demo(tmp_path / form, form)
    made = tmp_path / "made"
    result = CliRunner().invoke(cli, ["convert", str(folder), str(made)])
    assert result.exit_code == 0, result.stderr
    result = CliRunner().invoke(cli, ["verify", str(made), "--against", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert [ANSWER in ask(x) for x in (folder, made)] == [True, True]
