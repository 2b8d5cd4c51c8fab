"""Every finding of `doctor`, from facts of machines we do not have."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.checkup import ChatsFileReport, check_chats_file
from mlx_gptoss.checkpoint.hub import Hub, LocalModel
from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.doctor import (
    ERROR,
    NOTE,
    WARNING,
    Facts,
    describe_machine,
    diagnose,
    examine,
)
from mlx_gptoss.model.blas import BlasStatus
from tests.support.chat_files import FAULTS, fill, many_levels, noise_in

GB = 10**9
MAC = Facts(
    system="macOS 26.2",
    architecture="arm64",
    macos="26.2",
    python="3.13.1",
    packages={"mlx-gptoss": "0.1.0", "mlx": "0.32.4", "mlx-lm": "0.32.2"},
    wheel="macosx_26_0_arm64",
    device="Apple M3 Max",
    metal=True,
    mlx_failure=None,
    memory=36 * GB,
    usable_memory=27 * GB,
    usable_because="the GPU's recommended working set",
    blas=BlasStatus("unneeded", "MLX brings its own BLAS on this system"),
    cache="/Users/me/.cache/huggingface/hub",
    free_disk=200 * GB,
    offline=False,
    models=(),
)
LINUX = replace(
    MAC,
    system="Linux 6.1",
    architecture="x86_64",
    macos=None,
    wheel="manylinux_2_35_x86_64",
    metal=False,
    blas=BlasStatus("loaded", "MLX uses `libopenblas.so.0`", 2),
)
CHATS = ChatsFileReport("/chats.sqlite3", 10**6, "3.40.1", chats=9, levels=3)
HALF_A_MODEL = LocalModel("a/b", Path("/a/b"), 5 * GB, "gpt-oss-20b", 0.0, False)


def test_a_good_mac_has_nothing_to_be_told() -> None:
    assert diagnose(MAC) == diagnose(replace(MAC, chats=CHATS)) == []


def test_a_good_linux_machine_is_only_told_that_it_is_no_mac() -> None:
    assert [finding.level for finding in diagnose(LINUX)] == [NOTE]


@pytest.mark.parametrize(
    ("facts", "level", "what", "advice"),
    [
        (replace(MAC, macos="13.6"), ERROR, "macOS 13.6", "macOS 14"),
        (replace(MAC, architecture="x86_64"), ERROR, "x86_64", "arm64 Python"),
        (replace(MAC, metal=False), ERROR, "no Metal", "reinstall"),
        (replace(MAC, mlx_failure="no libmlx"), ERROR, "no libmlx", "pip install"),
        (
            replace(MAC, packages=MAC.packages | {"mlx-lm": None}),
            ERROR,
            "`mlx-lm` is not installed",
            "pip install mlx-lm",
        ),
        (replace(MAC, wheel="macosx_14_0_arm64"), WARNING, "macOS 14", "mlx-metal"),
        (replace(MAC, usable_memory=12 * GB), WARNING, "12.0 GB", "--recipe q4"),
        (replace(MAC, usable_memory=6 * GB), WARNING, "6.0 GB", "16 GB"),
        (replace(MAC, free_disk=9 * GB), WARNING, "9.0 GB free", "HF_HOME"),
        (replace(MAC, offline=True), NOTE, "HF_HUB_OFFLINE", "unset"),
        (replace(MAC, models=(HALF_A_MODEL,)), WARNING, "`a/b`", "pull a/b"),
        (
            replace(LINUX, blas=BlasStatus("missing", "no BLAS: `apt-get install x`")),
            WARNING,
            "no BLAS",
            "apt-get install x",
        ),
        (
            replace(
                LINUX, blas=BlasStatus("off", "switched off by MLX_GPTOSS_BLAS=off")
            ),
            NOTE,
            "MLX_GPTOSS_BLAS=off",
            "unset",
        ),
        (
            replace(MAC, chats=replace(CHATS, broken_index="no words")),
            WARNING,
            "the search index of `/chats.sqlite3` is broken: no words",
            "`mlx-gptoss sessions repair`",
        ),
        (
            replace(MAC, chats=replace(CHATS, levels=1500)),
            WARNING,
            "has 1,500 levels",
            "`mlx-gptoss sessions repair`",
        ),
        (
            replace(MAC, chats=replace(CHATS, damage="it is damaged: move it away")),
            WARNING,
            "saved in `/chats.sqlite3`, but it is damaged",
            "move it away",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found(
    facts: Facts, level: str, what: str, advice: str
) -> None:
    found = [f for f in diagnose(facts) if what in f.what and advice in f.advice]
    assert [finding.level for finding in found] == [level]


def test_errors_come_first() -> None:
    findings = diagnose(replace(MAC, macos="13.6", offline=True, free_disk=GB))
    assert [finding.level for finding in findings] == [ERROR, WARNING, NOTE]


def test_this_machine_is_examined_and_fits_in_json(tmp_path: Path) -> None:
    examination = examine(Hub(cache=tmp_path / "not" / "there"))
    found = json.loads(json.dumps(examination.as_json()))
    assert examination.facts.packages["mlx"]
    assert found["facts"]["cache"] == str(tmp_path / "not" / "there")
    assert found["healthy"]
    assert found["facts"]["free_disk"] > 0
    assert not (tmp_path / "not").exists()


def test_one_line_describes_the_machine() -> None:
    line = describe_machine()
    assert "cores" in line
    assert "mlx 0." in line
    assert "\n" not in line


def test_the_file_of_chats_is_looked_at_and_not_changed(tmp_path: Path) -> None:
    path = Sessions.open(tmp_path / "c.sqlite3").path
    fill(path, 7)
    before = path.read_bytes()

    found = check_chats_file(path)

    assert found is not None and path.read_bytes() == before
    assert (found.chats, found.levels, found.bytes) == (7, 1, len(before))
    assert (found.damage, found.broken_index) == ("", "")
    assert check_chats_file(tmp_path / "none") is None


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_with_the_index_is_found(tmp_path: Path, fault: str) -> None:
    path = Sessions.open(tmp_path / "c.sqlite3").path
    fill(path, 60)
    FAULTS[fault](path)
    before = path.read_bytes()

    found = check_chats_file(path)

    assert found is not None and found.damage == ""
    assert found.broken_index and path.read_bytes() == before


def test_damage_and_other_files_are_told_apart(tmp_path: Path) -> None:
    path = Sessions.open(tmp_path / "c.sqlite3").path
    fill(path, 60)
    noise_in(path, "messages")
    (noise := tmp_path / "noise").write_bytes(b"not a database " * 500)
    (tmp_path / "empty").touch()

    damages = [check_chats_file(p) for p in (path, noise, tmp_path / "empty")]

    assert [one.damage.partition(":")[0] for one in damages if one] == [
        "it is damaged",
        "it is not an SQLite database",
        "",
    ]


def test_a_place_that_can_hold_no_chats_is_told(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    (link := tmp_path / "link").symlink_to(link)
    (tmp_path / "file").touch()

    damages = [check_chats_file(p) for p in (folder, link, tmp_path / "file" / "c")]

    assert [one.damage.partition(":")[0] for one in damages if one] == [
        "it is not a regular file",
        "Too many levels of symbolic links",
        "Not a directory",
    ]


def test_doctor_says_what_to_do_about_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    many_levels(Sessions.open().path)

    told = CliRunner().invoke(cli, ["doctor"]).stdout

    assert "warning: the search index of `" in told
    assert "`mlx-gptoss sessions repair` rebuilds it" in told
    CliRunner().invoke(cli, ["sessions", "repair"])
    assert "search index" not in CliRunner().invoke(cli, ["doctor"]).stdout
