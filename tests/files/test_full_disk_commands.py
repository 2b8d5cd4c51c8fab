"""Commands on a full disk: one line, the old file intact, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.input_history import forget, history_file
from mlx_gptoss.errors import StorageError
from mlx_gptoss.memory.saved_probe import Probe, probe_file, save_probe
from mlx_gptoss_convert.measure.report import VerificationReport, save_report
from tests.support.full_disks import fill, small_disk
from tests.support.scripted_chat import scripted_runtime

ROOT = Path(__file__).parents[2]
SAID = "<|channel|>final<|message|>Nobody else may read this.<|return|>"
SIZE = 96 * 1024
OLD = "the old file"
LIMIT = 8  # bytes: less than any of them


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Keep a chat on another disk; return its id."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)
    with scripted_runtime(SAID) as runtime:
        kept = Chat(runtime)
        list(kept.send("hi"))
        Sessions.open().save(kept)
    return kept.id


def commands(id: str, disk: Path) -> dict[str, list[str]]:
    """Commands by the file that they write."""
    export = ["sessions", "export", id]
    return {
        "mlx-gptoss/settings.json": ["use", "demo"],
        "old.md": [*export, str(disk / "old.md"), "--force"],
        "new.json": [*export, str(disk / "new.json")],
        "model": ["bench", "make-random", str(disk / "model"), "--size", "1MB"],
    }


def prepared(disk: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(disk))
    (disk / "mlx-gptoss").mkdir(parents=True)
    for name in ("mlx-gptoss/settings.json", "old.md"):
        (disk / name).write_text(OLD)
    return texts(disk)


def texts(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_text() for p in files}


def test_commands_end_with_one_line_where_the_disk_is_full(
    chat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        before = prepared(disk, monkeypatch)
        filled = fill(disk)
        said = {}
        for name, command in commands(chat, disk).items():
            result = CliRunner().invoke(cli, command)
            said[name] = (result.exit_code, result.stderr)
        filled.unlink()

        assert said.pop("model")[0] == 1  # asks for the room before it begins
        assert said == {
            name: (
                1,
                f"Error: `{disk / name}` cannot be written: the disk is full: "
                "make room\n",
            )
            for name in said
        }
        assert texts(disk) == before


LIMITED = """
import json, resource, sys
from click.testing import CliRunner
from mlx_gptoss.cli import cli
said, commands = {}, json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
for name, command in commands.items():
    result = CliRunner().invoke(cli, command)
    said[name] = (result.exit_code, result.stderr)
sys.stdout.write(json.dumps(said))
"""


def test_commands_end_with_one_line_where_files_may_not_grow(
    chat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody may mount a disk; the process is a real one here, too."""
    disk = tmp_path / "disk"
    before = prepared(disk, monkeypatch)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(LIMIT)],
        input=json.dumps(commands(chat, disk)),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    for name, (code, line) in json.loads(ended.stdout).items():
        assert code == 1
        assert line.startswith(f"Error: `{disk / name}` cannot be written: it would")
        assert line.count("\n") == 1
    assert texts(disk) == before


def test_what_was_measured_or_typed_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(disk))
        monkeypatch.setenv("XDG_DATA_HOME", str(disk))
        save_probe(probe := Probe("a machine", 1.0, 2.0, 3.0))
        history_file().write_text(2000 * "\n# then\n+a secret\n+of two lines\n")
        save_report(VerificationReport(), disk)
        before = texts(disk)
        filled = fill(disk)
        with pytest.raises(StorageError, match=str(probe_file())):
            save_probe(probe)
        with pytest.raises(StorageError, match=str(history_file())):
            forget({"something else"})
        with pytest.raises(StorageError, match=r"report\.json"):
            save_report(VerificationReport(faults=["x"]), disk)
        filled.unlink()
        assert texts(disk) == before


@pytest.mark.parametrize("options", [[], ["--force"]])
def test_export_never_does_away_with_a_device(chat: str, options: list[str]) -> None:
    command = ["sessions", "export", chat, "/dev/null", *options]
    result = CliRunner().invoke(cli, command)
    assert (result.exit_code, result.stderr) == (0, "Wrote /dev/null\n")
    assert Path("/dev/null").is_char_device()
