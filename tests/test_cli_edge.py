"""What a machine does to the command line: one line on stderr, never a traceback."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.runtime import Runtime
from tests.talking import talking


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    def load(model: str, **options: Any) -> Runtime:
        return talking("<|channel|>final<|message|>Hello!<|return|>")

    return CliRunner().invoke(
        cli, list(arguments), obj=Services(load=load), input=stdin
    )


def test_settings_that_cannot_be_written_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    result = run("use", "demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: `{tmp_path / 'file'}")
    assert "Not a directory; check the path" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_target_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("bench", "make-random", str(tmp_path / "file" / "x"), "--size", "1kB")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: `{tmp_path / 'file'}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_stdin_that_is_no_text_is_one_line(command: str) -> None:
    result = run(command, "-m", "demo", stdin=b"hi\n\xff\xfe\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: what comes on stdin is not utf-8 text")
    assert result.stderr.count("\n") == 1
