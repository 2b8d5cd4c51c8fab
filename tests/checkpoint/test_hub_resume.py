"""Downloads that break off, are damaged or meet odd servers: what comes of them.

In this process, against a Hub and a storage of our own; a process that is killed is in
test_hub_killed.py.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import (
    scan_cache_dir,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.utils import WeakFileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.gguf import fetch_gguf
from mlx_gptoss.checkpoint.hub.repo_folder import (
    DOWNLOAD_RECORD,
    PARTIAL_SUFFIX,
    QUIET_SECONDS,
    RepoFolder,
)
from mlx_gptoss.checkpoint.hub.retries import DELAYS, MAX_DELAY
from mlx_gptoss.errors import HubError
from tests.support.hub_server import COMMIT, HubServer, Odd, etag_of, hub_server

CONFIG = b'{"model_type": "gpt_oss", "num_local_experts": 32}'
NAME = "model.safetensors"
WEIGHTS = (
    bytes(range(251)) * 1200
)  # 301,200 bytes that are nowhere as they are elsewhere
SIZE = len(WEIGHTS)
ETAG = etag_of(NAME, WEIGHTS)
REPOS = {
    "owner/model": {"config.json": CONFIG, "tokenizer.json": b"{}", NAME: WEIGHTS},
    "owner/gguf": {"a.gguf": WEIGHTS},
    "owner/outside": {"../../../a.gguf": WEIGHTS},
}


class Trial:
    """A Hub to ask, and what it said and waited."""

    def __init__(self, server: HubServer, cache: Path) -> None:
        self.server = server
        self.waits: list[float] = []
        self.said: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.hub = Hub(server.url, cache, sleep=self.waits.append)
        self.repo = RepoFolder(cache, "owner/model")
        self.part = self.repo.partial_file(ETAG)

    def pull(self) -> Path:
        return self.hub.pull(
            "owner/model",
            progress=lambda *now: self.counts.append(now),
            notify=self.said.append,
        )

    def begin(self, content: bytes) -> None:
        """Lay down what an earlier download left."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_bytes(content)


@pytest.fixture(scope="module")
def running() -> Iterator[HubServer]:
    with hub_server(REPOS) as server:
        yield server


@pytest.fixture
def trial(running: HubServer, tmp_path: Path) -> Trial:
    running.forget()
    return Trial(running, tmp_path / "cache")


def is_whole(folder: Path) -> bool:
    return (folder / NAME).read_bytes() == WEIGHTS


def left_over(trial: Trial) -> list[str]:
    """Name what is in the cache and is no blob, link, ref or lock."""
    known = {"blobs", "snapshots", "refs"}
    found = [path.name for path in trial.repo.path.iterdir() if path.name not in known]
    return found + [path.name for path in trial.repo.partial_files()]


# What lies in the cache then


def test_a_pull_lies_in_the_cache_as_the_librarys_own_would(trial: Trial) -> None:
    folder = trial.pull()
    found = try_to_load_from_cache("owner/model", NAME, cache_dir=trial.hub.folder)
    assert found == str(folder / NAME)
    assert os.readlink(folder / NAME) == f"../../blobs/{ETAG}"
    assert (trial.repo.path / "refs/main").read_text() == COMMIT
    assert left_over(trial) == []
    assert scan_cache_dir(trial.hub.folder).warnings == []
    assert trial.hub.pull("owner/model") == folder
    assert trial.server.served == SIZE


def test_the_library_takes_what_was_pulled_without_a_download(
    trial: Trial, running: HubServer
) -> None:
    folder = trial.pull()
    library = snapshot_download(
        "owner/model",
        endpoint=running.url,
        cache_dir=trial.hub.folder,
        local_files_only=True,
    )
    assert Path(library) == folder


# Going on


@pytest.mark.parametrize("begun", [1, 1000, SIZE - 1, SIZE])
def test_a_part_is_gone_on_with_at_its_last_byte(trial: Trial, begun: int) -> None:
    trial.begin(WEIGHTS[:begun])
    assert is_whole(trial.pull())
    assert trial.server.served == SIZE - begun
    whole = sum(map(len, REPOS["owner/model"].values()))
    assert trial.counts[0] == (begun, whole)
    assert trial.counts[-1] == (whole, whole)
    assert left_over(trial) == []


def test_a_file_that_came_but_was_not_linked_yet_does_not_come_again(
    trial: Trial,
) -> None:
    """Killed between the last byte and its name."""
    trial.begin(WEIGHTS)
    trial.part.replace(trial.repo.blob(ETAG))
    assert is_whole(trial.pull())
    assert trial.server.served == 0


@pytest.mark.parametrize("cut", [0, 1, 65536, SIZE - 1])
@pytest.mark.parametrize("without_length", [False, True])
def test_a_connection_that_breaks_is_taken_up_again_there(
    trial: Trial, cut: int, without_length: bool
) -> None:
    trial.server.odd[NAME] = [Odd(cut=cut, chunked_end=without_length)]
    assert is_whole(trial.pull())
    assert trial.server.served == SIZE
    assert trial.server.ranges[1:] == [f"bytes={cut}-" if cut else ""]
    assert trial.waits == [DELAYS[0]]


def test_a_storage_that_never_answers_well_is_the_end(trial: Trial) -> None:
    trial.server.odd[NAME] = [Odd(cut=500)] + [Odd(cut=0)] * 20
    with pytest.raises(HubError, match=r"cannot get `owner/model`.*received data is k"):
        trial.pull()
    assert trial.waits == list(DELAYS)
    assert trial.part.read_bytes() == WEIGHTS[:500]
    assert "retrying in 16 s" in trial.said[-1]


def test_an_answer_that_always_ends_early_is_the_end(trial: Trial) -> None:
    trial.server.odd[NAME] = [Odd(cut=9, chunked_end=True)] * 20
    with pytest.raises(HubError, match=r"ended at .*run the same command later"):
        trial.pull()
    assert len(trial.server.ranges) == len(DELAYS) + 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_that_may_pass_is_waited_for(trial: Trial, status: int) -> None:
    trial.server.odd[NAME] = [Odd(status=status)] * 2
    assert is_whole(trial.pull())
    assert trial.waits == list(DELAYS[:2])


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("7", 7), ("9999", MAX_DELAY), ("9" * 5000, MAX_DELAY)],
)
def test_a_pause_that_is_asked_for_is_kept_within_bounds(
    trial: Trial, asked: str, waited: int
) -> None:
    trial.server.odd[NAME] = [Odd(status=503, headers={"Retry-After": asked})]
    trial.pull()
    assert trial.waits == [waited]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_address_that_ran_out_is_asked_for_again(trial: Trial, status: int) -> None:
    trial.server.odd[NAME] = [Odd(cut=700), Odd(status=status)]
    assert is_whole(trial.pull())
    assert trial.server.served == SIZE


def test_a_storage_that_refuses_for_good_is_said(trial: Trial) -> None:
    trial.server.odd[NAME] = [Odd(status=403)] * 20
    with pytest.raises(
        HubError, match=r"`model.safetensors` of .* storage answered 403"
    ):
        trial.pull()


# Servers that do not go on


def test_a_storage_that_knows_no_ranges_sends_all_once(trial: Trial) -> None:
    trial.begin(WEIGHTS[:1000])
    trial.server.odd[NAME] = [Odd(ignores_range=True)]
    assert is_whole(trial.pull())
    assert trial.server.served == SIZE
    assert "is restarted: the server sends only whole files" in trial.said[-1]


@pytest.mark.parametrize("status", [200, 203])
def test_a_page_instead_of_the_rest_costs_nothing_of_what_has_come(
    trial: Trial, status: int
) -> None:
    """As of a network that wants a login, or a proxy that refuses."""
    trial.begin(WEIGHTS[:1000])
    page = Odd(status=status, body=b"<html>Log in</html>")
    trial.server.odd[NAME] = [page] * (len(DELAYS) + 1)
    with pytest.raises(
        HubError, match=r"the response is not the file; received data is"
    ):
        trial.pull()
    assert trial.part.read_bytes() == WEIGHTS[:1000]
    assert is_whole(trial.pull())
    assert trial.server.served == SIZE - 1000


@pytest.mark.parametrize("shift", [-500, 400])
def test_an_answer_from_another_byte_is_not_appended(trial: Trial, shift: int) -> None:
    trial.begin(WEIGHTS[:1000])
    trial.server.odd[NAME] = [Odd(shift=shift, honest_shift=True)]
    assert is_whole(trial.pull())
    assert "is restarted" in "".join(trial.said)


def test_a_range_that_is_refused_starts_over(trial: Trial) -> None:
    trial.begin(WEIGHTS[:1000])
    trial.server.odd[NAME] = [Odd(status=416)]
    assert is_whole(trial.pull())
    assert "nothing from byte 1000" in trial.said[-1]


# Damage


@pytest.mark.parametrize(
    "part",
    [
        b"x" + WEIGHTS[1:1000],
        WEIGHTS + b"more",
        b"x" * SIZE,
        bytes(SIZE + 1),
    ],
    ids=["a wrong byte", "too long", "wrong and whole", "zeros and too long"],
)
def test_a_damaged_part_starts_over_and_that_is_said(trial: Trial, part: bytes) -> None:
    trial.begin(part)
    assert is_whole(trial.pull())
    assert [line for line in trial.said if f"`{NAME}` of `owner/model` starts" in line]
    assert trial.server.served <= 2 * SIZE


@pytest.mark.parametrize(
    "odd",
    [Odd(damages=True), Odd(shift=0, longer=b"more"), Odd(damages=True, longer=b"x")],
)
def test_a_file_that_comes_damaged_is_fetched_once_more(trial: Trial, odd: Odd) -> None:
    trial.server.odd[NAME] = [odd]
    assert is_whole(trial.pull())
    trial.server.served = 0


@pytest.mark.parametrize("odd", [Odd(damages=True), Odd(longer=b"more")])
def test_a_file_that_comes_damaged_twice_is_the_end_and_stays_away(
    trial: Trial, odd: Odd
) -> None:
    trial.server.odd[NAME] = [odd] * 2
    with pytest.raises(HubError, match=r"arrived damaged twice .*it was discarded"):
        trial.pull()
    assert trial.hub.cached("owner/model") is None
    assert not trial.part.exists() or trial.part.stat().st_size == 0
    assert len(trial.server.ranges) == 2


def test_a_range_that_lies_about_its_beginning_is_found_by_the_hash(
    trial: Trial,
) -> None:
    trial.begin(WEIGHTS[:1000])
    trial.server.odd[NAME] = [Odd(shift=1)]
    assert is_whole(trial.pull())


def test_a_whole_file_of_another_size_is_fetched_again(trial: Trial) -> None:
    folder = trial.pull()
    blob = (folder / NAME).resolve()
    blob.write_bytes(WEIGHTS[:-1])
    assert is_whole(trial.pull())
    assert trial.server.served == 2 * SIZE


@pytest.mark.parametrize("begun", [b"", WEIGHTS[:1000], WEIGHTS])
@pytest.mark.parametrize("first", [Odd(), Odd(cut=5000), Odd(damages=True)])
def test_a_size_that_the_hub_does_not_name_is_the_answers(
    trial: Trial, begun: bytes, first: Odd
) -> None:
    trial.server.sizes |= {"tokenizer.json": None, NAME: None}
    trial.server.odd[NAME] = [first]
    trial.begin(begun)
    folder = trial.pull()
    assert (folder / "tokenizer.json").read_bytes() == b"{}"
    assert is_whole(folder)


def test_a_small_file_without_a_hash_is_not_gone_on_with(trial: Trial) -> None:
    part = trial.repo.partial_file(etag_of("tokenizer.json", b"{}"))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    assert (trial.pull() / "tokenizer.json").read_bytes() == b"{}"


# Where a Hub sends us, and what it calls things


@pytest.mark.parametrize(
    "where", ["http://[", "ftp://x/", "http://x:99999/", "file:///x"]
)
def test_an_address_that_is_none_is_named(trial: Trial, where: str) -> None:
    trial.server.odd[NAME] = [Odd(status=302, headers={"Location": where})]
    with pytest.raises(HubError, match=r"the Hub redirects to `.*not a web address"):
        trial.pull()


def test_redirects_in_a_circle_end(trial: Trial) -> None:
    back = f"{trial.server.url}/owner/model/resolve/{COMMIT}/{NAME}"
    trial.server.odd[NAME] = [Odd(status=302, headers={"Location": back})] * 50
    with pytest.raises(HubError, match="is redirected more than 10 times"):
        trial.pull()


@pytest.mark.parametrize("etag", ['"../../../x"', '"a/b"', '""', '".hidden"'])
def test_a_tag_that_cannot_name_a_file_is_refused(trial: Trial, etag: str) -> None:
    trial.server.etags["tokenizer.json"] = etag
    with pytest.raises(HubError, match=r"check `HF_ENDPOINT`"):
        trial.pull()


def test_a_file_that_leads_out_of_the_cache_is_refused(trial: Trial) -> None:
    with pytest.raises(HubError, match="whose path leads out of its folder"):
        fetch_gguf(trial.hub, "owner/outside", "../../../a.gguf")
    assert not list(trial.hub.folder.rglob("*.gguf"))


def test_a_file_that_changed_in_between_is_not_mixed(trial: Trial) -> None:
    def change(_line: str) -> None:
        trial.server.etags[NAME] = '"another"'

    trial.server.odd[NAME] = [Odd(cut=1000)]
    with pytest.raises(HubError, match=r"changed while it was downloaded: pull it ag"):
        trial.hub.pull("owner/model", notify=change)
    assert trial.part.read_bytes() == WEIGHTS[:1000]
    assert len(trial.server.ranges) == 1


# The token


def test_the_token_is_for_the_hub_alone(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    trial.begin(WEIGHTS[:10])
    trial.pull()
    hub, storage = trial.server.url, trial.server.storage
    assert trial.server.tokens[hub] == {"Bearer hf_secret"}
    assert trial.server.tokens[storage] == {""}


# Whatever happens


odd_answers = st.builds(
    Odd,
    status=st.sampled_from([None, None, None, 403, 416, 500]),
    ignores_range=st.booleans(),
    shift=st.sampled_from([0, 0, -1, 1]),
    honest_shift=st.booleans(),
    cut=st.none() | st.integers(0, SIZE),
    damages=st.booleans(),
    longer=st.sampled_from([b"", b"", b"more"]),
    chunked_end=st.booleans(),
)
starts = st.integers(0, SIZE).map(lambda size: WEIGHTS[:size])
parts = starts | st.binary(max_size=9) | st.just(WEIGHTS + b"more")


@given(odd=st.lists(odd_answers, max_size=12), part=parts)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_lies_in_the_cache_is_the_file_or_nothing(
    running: HubServer,
    tmp_path_factory: pytest.TempPathFactory,
    odd: list[Odd],
    part: bytes,
) -> None:
    running.forget()
    trial = Trial(running, tmp_path_factory.mktemp("cache"))
    trial.begin(part)
    running.odd[NAME] = odd
    try:
        assert is_whole(trial.pull())
    except HubError:
        assert trial.hub.cached("owner/model") is None
        assert not trial.repo.blob(ETAG).exists()
        running.odd.clear()
        assert is_whole(trial.pull())
    assert len(running.ranges) <= 2 * (len(DELAYS) + 1) * 3
    assert left_over(trial) == []


# What others left, and what others hold


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


# What is here in part


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
