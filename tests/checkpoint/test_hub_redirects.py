"""Redirects, names, the token, and random faults of a download."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.hub.gguf import fetch_gguf
from mlx_gptoss.checkpoint.hub.retries import DELAYS
from mlx_gptoss.errors import HubError
from tests.support.hub_server import COMMIT, HubServer, Odd
from tests.support.hub_trial import (
    ETAG,
    NAME,
    SIZE,
    WEIGHTS,
    Trial,
    is_whole,
    left_over,
)

# Redirects and names of files


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


# Random sequences of faults


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
