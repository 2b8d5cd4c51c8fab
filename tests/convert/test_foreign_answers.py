"""A form that must be converted is answered with the command and what it takes."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from tests.support.gguf_conversions import to_gguf, write_source
from tests.support.packed_goldens import FOLDER, GOLDEN_FORMS

GGUF = "gguf"


@pytest.fixture(scope="module")
def gguf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made = to_gguf(write_source(folder / "source"), folder / "out") / "model.gguf"
    (folder / GGUF).mkdir()
    shutil.copy(made, folder / GGUF)
    return folder / GGUF


@pytest.mark.parametrize("words", ["generate -m {} x", "inspect {}", "plan {}"])
@pytest.mark.parametrize("form", [*GOLDEN_FORMS, GGUF])
def test_every_command_says_how_to_convert_it(
    form: str, words: str, gguf_folder: Path
) -> None:
    folder = gguf_folder if form == GGUF else FOLDER / form
    result = CliRunner().invoke(cli, words.format(folder).split())
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert f"`mlx-gptoss convert {folder} " in line
    assert " of disk" in line
