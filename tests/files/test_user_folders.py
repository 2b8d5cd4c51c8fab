"""Folders named by the environment must be absolute paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss import files
from mlx_gptoss.cli import cli
from mlx_gptoss.engine.prompt_cache.options import default_folder
from mlx_gptoss.errors import GptOssError

VARIABLES = ("HOME", *files.OPTIONAL, *files.HUB_VARIABLES)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")


def test_folders_lie_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert files.config_folder() == tmp_path / ".config" / "mlx-gptoss"
    assert files.data_folder() == tmp_path / ".local" / "share" / "mlx-gptoss"
    assert default_folder() == tmp_path / ".cache" / "mlx-gptoss" / "prompts"
    for variable in files.OPTIONAL:
        monkeypatch.setenv(variable, f"/{variable}")
    assert files.config_folder() == Path("/XDG_CONFIG_HOME/mlx-gptoss")
    assert files.data_folder() == Path("/XDG_DATA_HOME/mlx-gptoss")
    assert default_folder() == Path("/MLX_GPTOSS_CACHE")
    monkeypatch.delenv("MLX_GPTOSS_CACHE")
    assert default_folder() == Path("/XDG_CACHE_HOME/mlx-gptoss/prompts")


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("value", ["", "relative", "./x", "~nobody-here/x"])
def test_what_is_no_whole_path_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = CliRunner().invoke(cli, ["use"])

    if value == "" and variable in files.OPTIONAL:  # as if it were not set
        assert done.exit_code == 0
        return
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: `{variable}` is ")
    assert done.stderr.count("\n") == 1


def test_the_hub_may_lie_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "~/models")
    assert CliRunner().invoke(cli, ["use"]).exit_code == 0


def test_the_library_refuses_an_empty_home_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    for find in (files.config_folder, files.data_folder, default_folder):
        with pytest.raises(GptOssError, match="`HOME` is empty"):
            find()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_user_without_a_home_is_told_to_name_one() -> None:
    code = (
        "import os; from mlx_gptoss import files; os.setuid(54321); files.user_home()"
    )
    bare = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True
    )
    assert "GptOssError: this user has no home: set `HOME`" in done.stderr
