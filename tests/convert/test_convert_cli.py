import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.checkpoints import write_checkpoint
from tests.support.gguf_conversions import write_tokenizer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source")


def test_convert_writes_a_folder_and_says_what_it_did(
    source: Path, tmp_path: Path
) -> None:
    result = run(source, tmp_path / "dst", "--recipe", "q4")
    dst = tmp_path / "dst"
    assert result.exit_code == 0
    assert re.fullmatch(
        rf"`{dst}`: it takes 862 kB of disk, where [\d.]+ .B are free\n"
        rf"Next: mlx-gptoss chat -m {dst}\n",
        result.stderr,
    )
    assert result.stdout.splitlines()[-1] == f"862 kB in {dst}"
    assert (tmp_path / "dst" / "config.json").is_file()


def test_convert_takes_a_single_file(source: Path, tmp_path: Path) -> None:
    result = run(source / "model.safetensors", tmp_path / "dst")
    assert (result.exit_code, (tmp_path / "dst").is_dir()) == (0, True)


def test_json_is_a_line_for_every_event(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "dst", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["progress", "done"]
    assert events[-2]["bytes"] == events[-2]["bytes_total"] == events[-1]["bytes"]


def test_a_dry_run_lists_every_tensor_and_writes_nothing(
    source: Path, tmp_path: Path
) -> None:
    result = run(source, tmp_path / "dst", "--dry-run", "--json")
    *tensors, plan = (json.loads(line) for line in result.stdout.splitlines())
    assert plan["bytes"] == sum(tensor["bytes"] for tensor in tensors)
    fates = {tensor["tensor"]: tensor["fate"] for tensor in tensors}
    assert fates["lm_head.biases"] == "quantize to 8 bits"
    assert fates["model.layers.2.mlp.experts.down_proj_blocks"] == "copy"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_dry_run_is_readable(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "dst", "--dry-run", "--recipe", "lossless")
    assert result.stdout.splitlines()[-1].endswith("nothing was written")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "q5"], "Error: no recipe `q5`"),
        (["--recipe", "missing.toml"], "Error: cannot read recipe"),
    ],
)
def test_a_named_error_is_one_line_and_exit_code_1(
    source: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = run(source, tmp_path / "dst", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_an_existing_target_is_refused_in_one_line(
    source: Path, tmp_path: Path
) -> None:
    result = run(source, source)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "already exists" in result.stderr


def test_the_next_command_is_one_to_type(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(source, "my model").stderr.splitlines()[-1]
    assert said == "Next: mlx-gptoss chat -m './my model'"
    listed = CliRunner().invoke(cli, ["models"]).stdout
    assert "./my model  " in listed
    write_tokenizer(source / "tokenizer.json")
    said = run(source, "dst.gguf", "--to", "gguf").stderr.splitlines()[-1]
    command, file = said.rsplit(" ", 1)
    assert command == "Next: llama-server -m" and Path(file).is_file()


INTERRUPTED = """
import os, signal, sys
from mlx_gptoss_convert.write import conversion
real, ending = conversion.write_shard, getattr(signal, sys.argv.pop())
def write_shard(run, shard):
    real(run, shard)
    os.kill(os.getpid(), ending)
conversion.write_shard = write_shard
from mlx_gptoss.__main__ import main
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_conversion_says_how_to_resume(
    source: Path, tmp_path: Path, name: str, code: int
) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "convert", str(source)]
    ended = subprocess.run(
        [*command, str(tmp_path / "dst"), name], capture_output=True, text=True
    )
    assert (ended.returncode, "run the same command with --resume" in ended.stderr) == (
        code,
        True,
    ), ended.stderr
    resumed = run(source, tmp_path / "dst", "--resume")
    assert (resumed.exit_code, "\nNext:" in resumed.stderr) == (0, True)


class SlowHub(Hub):
    """A Hub that reports a download of 200 MB and returns its cache folder."""

    def resolve(self, model: str, **options: Any) -> Path:
        options["progress"](0, 2 * 10**8)
        assert self.cache is not None
        return self.cache


@pytest.mark.parametrize("command", ["convert", "verify"])
def test_a_download_is_not_silent(source: Path, tmp_path: Path, command: str) -> None:
    made = tmp_path / "made"
    words = ["convert", "owner/model", str(made)]
    if command == "verify":
        run(source, made)
        words = ["verify", str(made), "--against", "owner/model"]
    services = Services(hub=SlowHub(cache=source))
    result = CliRunner().invoke(cli, words, obj=services)
    assert result.exit_code == 0
    assert result.stderr.startswith("Downloading owner/model: 200 MB\n")
