"""Settings files after killed runs, and after their changes are undone."""

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.setup import prepare, write
from mlx_gptoss.errors import ConfigError
from tests.support.agent_setup import OLD, failing, files, set_up

pytestmark = pytest.mark.usefixtures("home")

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


@pytest.fixture
def config(home: Path) -> Path:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


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
    ended = subprocess.run(
        [*killed, "codex", "-m", "demo", "--default"], capture_output=True
    )
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
    subprocess.run([*killed, "aider", "-m", "demo", "--default"], capture_output=True)
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
    assert "its other hard links keep the old content" in result.stderr
    assert other.read_text() == OLD and "demo" in config.read_text()
    undo(result)
    assert config.samefile(other)


def test_undone_new_files_are_gone(home: Path) -> None:
    undo(set_up("aider"))
    assert files(home) == []
