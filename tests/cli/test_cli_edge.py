"""What a machine does to the command line: one line on stderr, never a traceback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli, exit_codes
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.runtime import Runtime
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer
from tests.support.scripted_chat import ScriptedModel, scripted_runtime


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    def load(model: str, **options: Any) -> Runtime:
        return scripted_runtime("<|channel|>final<|message|>Hello!<|return|>")

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


def test_closed_streams_are_empty_ones() -> None:
    chat = f"{sys.executable} -m mlx_gptoss chat --private -m demo <&- >&-"
    done = subprocess.run(
        ["sh", "-c", chat], capture_output=True, text=True, input="", check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", ["generate", "chat", "render", "parse"])
def test_stdin_that_is_no_text_is_one_line(command: str) -> None:
    result = run(command, "-m", "demo", stdin=b"hi\n\xff\xfe\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: the text on stdin is not utf-8 text")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "call",
    [
        ["render", "-m", "demo", "file"],
        ["parse", "-m", "demo", "file"],
        ["generate", "-m", "demo", "--grammar", "file", "hi"],
        ["serve", "-m", "demo", "--api-key", "file"],
        ["agents", "check", "--api-key", "file"],
    ],
    ids=lambda call: call[0],
)
def test_a_file_that_is_no_text_is_one_line(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"ab\xff")
    (tmp_path / "file").chmod(0o600)
    result = run(*call)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: `file` is not utf-8 text (byte 2 is invalid): convert it first, "
        "for example with `iconv`\n"
    )


def test_inspect_deep_of_a_broken_value_is_one_line(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=0)
    stored = next(
        tensor
        for name, tensor in open_checkpoint(folder).tensors.items()
        if name.endswith("gate_up_proj.scales")
    )
    with stored.file.open("r+b") as file:
        file.seek(stored.offset)
        file.write(b"\xff")
    assert run("inspect", str(folder)).exit_code == 0
    result = run("inspect", str(folder), "--deep")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"tensor `{stored.name}`" in result.stderr
    assert "has a scale of 255 (NaN)" in result.stderr


def test_an_unknown_key_is_a_warning_and_strictly_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", seed=0, unsloth_version="2025.8")
    assert run("inspect", str(folder)).exit_code == 0
    result = run("inspect", str(folder), "--strict")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has unknown keys `unsloth_version`" in result.stderr


def test_a_vocabulary_without_harmony_continues_text() -> None:
    plain = Runtime(
        ScriptedModel(("never said",)), tokenizer=byte_tokenizer(["<|endoftext|>"])
    )
    words = ["generate", "--raw", "-m", "demo", "--max-tokens", "2", "Once"]
    result = CliRunner().invoke(cli, words, obj=Services(load=lambda *_, **__: plain))
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [(KeyboardInterrupt, 130, "\n"), (EOFError, 1, "Aborted!\n")],
)
def test_ctrl_c_at_a_question_is_an_interrupt(
    stop: type[BaseException], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `click.confirm` tells of it; the end of input is an answer: no."""

    def asks() -> None:
        try:
            raise stop
        except (KeyboardInterrupt, EOFError):
            raise click.Abort() from None

    with pytest.raises(SystemExit) as ended:
        exit_codes.run(asks)
    assert (ended.value.code, capsys.readouterr().err) == (code, said)
