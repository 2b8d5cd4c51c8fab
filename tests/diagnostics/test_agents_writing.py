"""Settings files on disks that are full, in folders that are locked, of killed runs."""

import fcntl
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.setup import prepare, write
from mlx_gptoss.errors import ConfigError

OLD = 'model = "gpt-5-codex"\n\n[tui]\nnotifications = true\n'
OURS = Endpoint(model="demo")
BACKUP = re.compile(r"config\.toml\.backup-\d{8}-\d{6}(-\d+)?")
KILLED = """
import os, signal, sys
event, count = sys.argv.pop(1), int(sys.argv.pop(1))
def hook(seen, _arguments):
    global count
    if seen == event:
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from mlx_gptoss.cli import cli
sys.addaudithook(hook)
cli()
"""

FAILING = """
import errno, os, sys
event, count = sys.argv.pop(1), int(sys.argv.pop(1))
def hook(seen, _arguments):
    global count
    if seen == event:
        count -= 1
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
from mlx_gptoss.cli import cli
sys.addaudithook(hook)
cli()
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own; nothing of the real one is read."""
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


def set_up(tool: str = "codex", *more: str) -> Result:
    return CliRunner().invoke(cli, ["agents", "setup", tool, "-m", "demo", *more])


def in_child(tool: str, largest: int) -> subprocess.CompletedProcess[str]:
    """Set a tool up in a process that may write no file longer than `largest`."""
    limit = (largest, largest)
    return subprocess.run(
        [sys.executable, "-m", "mlx_gptoss", "agents", "setup", tool, "-m", "demo"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        timeout=60,
    )


def failing(event: str, count: int, tool: str) -> subprocess.CompletedProcess[str]:
    """Set a tool up in a process whose system fails at the `count`th `event`."""
    command = [sys.executable, "-c", FAILING, event, str(count), "agents", "setup"]
    return subprocess.run(
        [*command, tool, "-m", "demo"], capture_output=True, text=True
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.splitlines()[-1]


# no room, no right


def test_a_full_disk_is_one_line_and_leaves_the_old_file(config: Path) -> None:
    ended = in_child("codex", largest=len(OLD))
    assert ended.returncode == 1
    assert last_line(ended.stderr) == (
        f"Error: `{config}`: File too large; nothing was changed: check the disk, the "
        "folder and its permissions"
    )
    assert (files(config.parent), config.read_text()) == (["config.toml"], OLD)


def test_a_full_disk_leaves_no_folder_that_was_not_there(home: Path) -> None:
    ended = in_child("codex", largest=20)
    assert "File too large; nothing was changed" in last_line(ended.stderr)
    assert list(home.iterdir()) == []


def test_of_two_files_none_is_written_when_one_cannot_be(home: Path) -> None:
    first = home / ".aider.conf.yml"
    first.write_text("stream: no\n")
    ended = in_child("aider", largest=200)  # enough for the first, not for the second
    assert ".aider.model.metadata.json`: File too large" in last_line(ended.stderr)
    assert (files(home), first.read_text()) == ([".aider.conf.yml"], "stream: no\n")


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_files_none_is_new_when_one_cannot_take_its_place(
    home: Path, count: int
) -> None:
    first, second = home / ".aider.conf.yml", home / ".aider.model.metadata.json"
    first.write_text("stream: no\n")
    second.write_text("{}\n")
    old = [path.stat().st_ino for path in (first, second)]
    ended = failing("os.rename", count, "aider")
    assert "Input/output error; nothing was changed" in last_line(ended.stderr)
    assert [path.stat().st_ino for path in (first, second)] == old
    assert files(home) == [first.name, second.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, which only root can have."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a file system, which only root may")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_is_one_line(small_disk: Path) -> None:
    path = small_disk / "config.toml"
    path.write_text(OLD)
    (small_disk / "rest").write_bytes(b"0" * (60 << 10))
    result = set_up("codex", "--file", str(path))
    assert f"Error: `{path}`: No space left on device; nothing was changed" in (
        last_line(result.stderr)
    )
    assert (files(small_disk), path.read_text()) == (["config.toml", "rest"], OLD)


def test_a_disk_without_room_for_a_backup_needs_none(small_disk: Path) -> None:
    path = small_disk / "config.toml"
    path.write_text(OLD)
    (small_disk / "rest").write_bytes(b"0" * (56 << 10))  # a page for the new file
    assert set_up("codex", "--file", str(path)).exit_code == 0
    assert len(files(small_disk)) == 3 and "demo" in path.read_text()


def test_a_disk_for_reading_only_is_one_line(small_disk: Path) -> None:
    path = small_disk / "config.toml"
    path.write_text(OLD)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = set_up("codex", "--file", str(path))
    assert "Read-only file system; nothing was changed" in last_line(result.stderr)


def test_a_folder_for_reading_only_is_one_line(config: Path) -> None:
    config.parent.chmod(0o555)
    if os.access(config.parent, os.W_OK):
        pytest.skip("root may write anywhere")
    result = set_up()
    config.parent.chmod(0o755)
    assert "Permission denied; nothing was changed" in last_line(result.stderr)
    assert (files(config.parent), config.read_text()) == (["config.toml"], OLD)


def test_a_file_for_reading_only_is_left_alone(config: Path) -> None:
    config.chmod(0o444)
    result = set_up()
    assert last_line(result.stderr).startswith(f"Error: `{config}` is read-only; ")
    assert (files(config.parent), config.read_text()) == (["config.toml"], OLD)


def test_a_file_of_somebody_else_stays_theirs(config: Path) -> None:
    config.chmod(0o640)
    try:
        os.chown(config, 1234, 5678)
    except PermissionError:
        pytest.skip("only root may give files away")
    assert set_up().exit_code == 0
    new = config.stat()
    assert (new.st_uid, new.st_gid, new.st_mode & 0o777) == (1234, 5678, 0o640)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.parent.rmdir() or path.parent.touch(), "Not a directory"),
    ],
)
def test_what_is_no_file_is_one_line(home: Path, make, fault: str) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    make(path)
    result = set_up()
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ") and fault in result.stderr


# killed


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("fcntl.flock", 1),  # an empty draft
        ("os.chmod", 1),  # a whole one
        ("os.link", 1),
        ("os.rename", 1),  # the old file has both names
    ],
)
def test_a_killed_run_leaves_a_whole_file_and_the_next_no_litter(
    config: Path, event: str, count: int
) -> None:
    killed = [sys.executable, "-c", KILLED, event, str(count), "agents", "setup"]
    ended = subprocess.run([*killed, "codex", "-m", "demo"], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert config.read_text() == OLD
    assert len(files(config.parent)) > 1  # something lies about
    write(prepare("codex", OURS))
    backup, name = files(config.parent)[::-1]
    assert name == "config.toml" and BACKUP.fullmatch(backup)
    assert (config.parent / backup).read_text() == OLD


def test_a_run_killed_between_two_files_is_finished_by_the_next(home: Path) -> None:
    first, second = home / ".aider.conf.yml", home / ".aider.model.metadata.json"
    first.write_text("stream: no\n")
    killed = [sys.executable, "-c", KILLED, "os.rename", "2", "agents", "setup"]
    subprocess.run([*killed, "aider", "-m", "demo"], capture_output=True)
    assert "openai/demo" in first.read_text() and not second.exists()
    write([change for change in prepare("aider", OURS) if change.needed])
    assert "openai/demo" in second.read_text()
    assert [name for name in files(home) if "backup" not in name] == [
        first.name,
        second.name,
    ]


def test_a_draft_that_another_run_writes_is_left_to_it(config: Path) -> None:
    draft = config.parent / ".mlx-gptoss-abc.draft.toml"
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(prepare("codex", OURS))
        assert draft.exists()
    write(prepare("codex", Endpoint(model="other")))
    assert not draft.exists()


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(config: Path) -> None:
    changes = prepare("codex", OURS)
    config.write_text(OLD + "a = 1\n")
    with pytest.raises(ConfigError, match="was changed meanwhile: run this again"):
        write(changes)
    assert (files(config.parent), config.read_text()) == (
        ["config.toml"],
        OLD + "a = 1\n",
    )


# undone


def undo(result: Result) -> None:
    commands = [
        line.split("undo: ")[1]
        for line in result.stderr.splitlines()
        if "undo: " in line
    ]
    for command in commands:
        subprocess.run(shlex.split(command), check=True)


def test_undone_it_is_the_same_file_again(config: Path) -> None:
    old = config.stat()
    undo(set_up())
    new = config.stat()
    assert (new.st_ino, new.st_mtime_ns, new.st_mode) == (
        old.st_ino,
        old.st_mtime_ns,
        old.st_mode,
    )
    assert (files(config.parent), config.read_text()) == (["config.toml"], OLD)


def test_without_hard_links_the_old_file_is_copied(config: Path) -> None:
    assert failing("os.link", 1, "codex").returncode == 0
    backup, name = files(config.parent)[::-1]
    assert name == "config.toml" and BACKUP.fullmatch(backup)
    assert (config.parent / backup).read_text() == OLD and "demo" in config.read_text()


def test_undone_a_link_is_a_link_again(config: Path, home: Path) -> None:
    kept = home / "dot files' own"
    kept.mkdir()
    config.rename(kept / "config.toml")
    config.symlink_to(kept / "config.toml")
    result = set_up()
    assert config.is_symlink() and "demo" in config.read_text()
    undo(result)
    assert config.is_symlink() and config.read_text() == OLD
    assert files(kept) == ["config.toml"]


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(home: Path) -> None:
    link = home / ".codex" / "config.toml"
    link.parent.mkdir()
    link.symlink_to("../dotfiles/codex.toml")
    set_up()
    assert link.is_symlink()
    assert "demo" in (home / "dotfiles" / "codex.toml").read_text()


def test_other_names_of_a_file_keep_the_old_text_and_it_is_said(
    config: Path, home: Path
) -> None:
    other = home / "kept.toml"
    os.link(config, other)
    result = set_up()
    assert "whose other names (hard links) stay as they were" in result.stderr
    assert other.read_text() == OLD and "demo" in config.read_text()
    undo(result)
    assert config.samefile(other)


def test_undone_new_files_are_gone(home: Path) -> None:
    undo(set_up("aider"))
    assert files(home) == []
