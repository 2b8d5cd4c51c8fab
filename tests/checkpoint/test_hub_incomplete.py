"""Partial files and incomplete models in the cache."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock

from mlx_gptoss.checkpoint.hub.gguf import fetch_gguf
from mlx_gptoss.checkpoint.hub.repo_folder import (
    DOWNLOAD_RECORD,
    PARTIAL_SUFFIX,
    QUIET_SECONDS,
    RepoFolder,
)
from mlx_gptoss.errors import HubError
from tests.support.hub_server import COMMIT, Odd
from tests.support.hub_trial import CONFIG, ETAG, NAME, SIZE, WEIGHTS, Trial, is_whole

# Partial files of other processes


def old(path: Path, content: bytes = b"1" * 700) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    before = time.time() - QUIET_SECONDS - 60
    os.utime(path, (before, before))
    return path


def test_old_parts_of_the_library_are_removed_and_that_is_said(trial: Trial) -> None:
    blobs = trial.repo.path / "blobs"
    new = old(blobs / "0123abcd.01234567.incomplete")
    elder = old(blobs / "0123abcd.incomplete")
    stale = old(blobs / f"another-revisions{PARTIAL_SUFFIX}")
    trial.pull()
    assert [path.exists() for path in (new, elder, stale)] == [False] * 3
    assert trial.said[0].startswith("removed 2 kB left by interrupted downloads")


def test_what_somebody_writes_stays(trial: Trial) -> None:
    blobs = trial.repo.path / "blobs"
    fresh = old(blobs / "0123abcd.01234567.incomplete")
    os.utime(fresh)
    held = old(blobs / "4567abcd.01234567.incomplete")
    lock = trial.hub.folder / ".locks" / trial.repo.path.name / "4567abcd.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        trial.pull()
    assert fresh.exists() and held.exists()


def test_a_part_that_can_be_gone_on_with_stays_whoever_pulls(trial: Trial) -> None:
    trial.hub.list_files("owner/gguf")
    gguf = RepoFolder(trial.hub.folder, "owner/gguf")
    old(gguf.partial_file(ETAG), WEIGHTS[:900])
    fetch_gguf(trial.hub, "owner/gguf")
    assert trial.server.served == SIZE - 900


def test_room_is_asked_for_what_is_still_to_come(trial: Trial) -> None:
    trial.begin(WEIGHTS[: SIZE - 100])
    room = 10**9 + 1000
    hub = replace(trial.hub, free_disk=lambda _: room)
    assert is_whole(hub.pull("owner/model"))


# Incomplete models


def test_offline_a_model_in_part_says_how_much_and_what_completes_it(
    trial: Trial,
) -> None:
    trial.server.odd[NAME] = [Odd(cut=SIZE - 100_000)] + [Odd(status=404)] * 20
    with pytest.raises(HubError):
        trial.pull()
    with pytest.raises(HubError) as raised:
        trial.hub.resolve("owner/model", offline=True)
    assert str(raised.value) == (
        "`owner/model` is only partly on this machine (100 kB missing) and downloads "
        "are off: run `mlx-gptoss pull owner/model` without `--offline` or "
        "`HF_HUB_OFFLINE`"
    )
    [listed] = [m for m in trial.hub.list_models() if m.name == "owner/model"]
    missing = 100_000 + len(CONFIG) + len(b"{}")
    assert (listed.complete, listed.missing) == (False, missing)
    trial.server.odd.clear()
    trial.pull()
    [listed] = [m for m in trial.hub.list_models() if m.name == "owner/model"]
    assert (listed.complete, listed.missing) == (True, None)


def test_offline_a_gguf_in_part_names_the_command_that_fetches_ggufs(
    trial: Trial,
) -> None:
    trial.server.odd["a.gguf"] = [Odd(cut=200)] + [Odd(cut=0)] * 20
    with pytest.raises(HubError):
        fetch_gguf(trial.hub, "owner/gguf")
    with pytest.raises(
        HubError, match=r"missing\).*run `mlx-gptoss convert owner/gguf"
    ):
        fetch_gguf(trial.hub, "owner/gguf", offline=True)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[1]",
        "{}",
        '{"commit": 1, "files": {"a": [1, "b"]}}',
        '{"commit": "c", "files": 5}',
        '{"commit": "c", "files": {"a": 1}}',
        '{"commit": "c", "files": {"a": ["x", "b"]}}',
        '{"commit": "c", "files": {"a": [[], null]}}',
        '{"commit": "c", "files": {"a": [1, "../b"]}}',
        '{"commit": "../c", "files": {"../a": [1, "b"]}}',
    ],
)
def test_a_damaged_note_of_what_is_missing_is_as_good_as_none(
    trial: Trial, note: str
) -> None:
    trial.begin(b"1")
    trial.part.with_name(f"b{PARTIAL_SUFFIX}").write_bytes(b"2")
    (trial.repo.path / DOWNLOAD_RECORD).write_text(note)
    [listed] = [m for m in trial.hub.list_models() if m.name == "owner/model"]
    assert (listed.complete, listed.missing) == (False, None)
    with pytest.raises(HubError, match="only partly on this machine and downloads"):
        trial.hub.resolve("owner/model", offline=True)


INDEX = b'{"metadata": {"total_size": 1000}, "weight_map": {"a": "m-1.safetensors", '
INDEX += b'"b": "m-2.safetensors"}}'


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, None),
        ({"model.safetensors.index.json": INDEX}, 1000),
        ({"model.safetensors.index.json": INDEX, "m-1.safetensors": b"1" * 400}, 600),
        ({"model.safetensors.index.json": b"[", "m-1.safetensors": b"1"}, None),
        ({"model-00001-of-00002.safetensors": b"1"}, None),
    ],
)
def test_a_folder_that_another_program_left_without_weights_is_no_model(
    trial: Trial, files: dict[str, bytes], missing: int | None
) -> None:
    folder = trial.repo.path / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name, content in (files | {"config.json": CONFIG}).items():
        (folder / name).write_bytes(content)
    trial.repo.set_branch("main", COMMIT)

    with pytest.raises(HubError, match=r"only partly.*run `mlx-gptoss pull owner/mo"):
        trial.hub.resolve("owner/model", offline=True)
    [listed] = [m for m in trial.hub.list_models() if m.name == "owner/model"]
    assert (listed.complete, listed.missing) == (False, missing)


def test_a_folder_without_weights_is_completed_by_a_pull(trial: Trial) -> None:
    folder = trial.repo.path / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    trial.repo.set_branch("main", COMMIT)
    assert trial.pull() == folder
    assert is_whole(folder)


def test_a_model_that_is_being_downloaded_is_not_deleted(trial: Trial) -> None:
    trial.pull()
    with (
        trial.repo.locked("mlx-gptoss", lambda: None),
        pytest.raises(HubError, match="is being downloaded: stop that"),
    ):
        trial.hub.delete("owner/model")
    assert trial.hub.delete("owner/model") > SIZE
