"""Broken and damaged downloads, and odd servers: resumed or restarted.

In this process, against a Hub and a storage host of our own; test_hub_killed.py kills
processes.
"""

import os
from pathlib import Path

import pytest
from huggingface_hub import (
    scan_cache_dir,
    snapshot_download,
    try_to_load_from_cache,
)

from mlx_gptoss.checkpoint.hub.retries import DELAYS, MAX_DELAY
from mlx_gptoss.errors import HubError
from tests.support.hub_server import COMMIT, HubServer, Odd, etag_of
from tests.support.hub_trial import (
    ETAG,
    NAME,
    REPOS,
    SIZE,
    WEIGHTS,
    Trial,
    is_whole,
    left_over,
)

# The cache after a pull


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


# Resuming


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


# Servers that cannot resume


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
    assert [x for x in trial.said if f"`{NAME}` of `owner/model` is restarted" in x]
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
