"""What a machine does to the command line: one line on stderr, never a traceback."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin)


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
