"""The demo under other tools' names and in MLX's modes still answers 702."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from tests.support.demo_checkpoint import (
    ANSWER,
    ask,
    demo_config,
    demo_tensors,
    with_tokenizer,
)
from tests.support.layout_writers import DENSE, WRITERS
from tests.support.mlx_lm_quantized import write_with_mlx_lm

FORMS = sorted(DENSE)
QUICK = "unsloth"
EXACT_MODES = ("mxfp8",)  # nvfp4 and few bits of affine change a model this small


def write_demo(folder: Path, form: str) -> Path:
    config = demo_config()
    if form in EXACT_MODES:
        return with_tokenizer(write_with_mlx_lm(folder, config, demo_tensors(), form))
    WRITERS[form](folder, config, demo_tensors())
    return with_tokenizer(folder)


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
