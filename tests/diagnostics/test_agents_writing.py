"""Settings files that cannot be written: full disks, read-only folders, no file."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_setup import OLD, failing, files, set_up

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


def in_child(tool: str, largest: int) -> subprocess.CompletedProcess[str]:
    """Set a tool up in a process that may write no file longer than `largest`."""
    limit = (largest, largest)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mlx_gptoss",
            "agents",
            "setup",
            tool,
            "-m",
            "demo",
            "--default",
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        timeout=60,
    )


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.splitlines()[-1]


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
