"""Models for the chat page: what fits this machine, and downloads in a thread."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import HubError
from mlx_gptoss.memory.machines import describe_device
from mlx_gptoss.server.web.downloads import ModelLibrary

SMALL, LARGE = "openai/gpt-oss-20b", "openai/gpt-oss-120b"


class FakeHub:
    """A Hub whose downloads run `work`, which is given what they are given."""

    def __init__(self, work: Callable[..., None] = lambda **_: None) -> None:
        self._work = work

    def resolve(self, name: str, **options: Any) -> None:
        self._work(**options)

    def cached(self, name: str) -> None:
        return None

    def list_models(self) -> list[SimpleNamespace]:
        whole = SimpleNamespace(name="a/b", bytes=1, kind="hub", complete=True)
        part = SimpleNamespace(name="a/c", bytes=1, kind="hub", complete=False)
        return [whole, part]


def library(hub: FakeHub, device: str = "M4 24GB", **options: Any) -> ModelLibrary:
    def no_source(name: str) -> Any:
        raise AssertionError(name)

    return ModelLibrary(
        cast(Hub, hub),
        LoadOptions(**options),
        no_source,
        lambda: describe_device(device),
    )


def finished(work: Callable[..., None]) -> dict[str, Any]:
    """Return the state after a download has ended by itself."""
    found = library(FakeHub(work))
    found.start(SMALL)
    thread = found._thread
    assert thread is not None
    thread.join(10)
    assert found.state is not None
    return found.state


def test_only_whole_models_are_here() -> None:
    found = library(FakeHub())

    assert [one["name"] for one in found.local()] == ["a/b"]
    assert (found.is_here("a/b"), found.is_here("a/c")) == (True, False)


def test_a_model_fits_with_its_speed_or_says_why_not() -> None:
    small = library(FakeHub(), "M4 16GB").published()[0]
    too_small = library(FakeHub(), "M1 8GB").published()

    assert (small["name"], small["fits"]) == (SMALL, True)
    assert small["speed"][0] < small["speed"][1]
    assert small["memory"] < 16 * 2**30
    assert [(row["name"], row["fits"]) for row in too_small] == [
        (SMALL, False),
        (LARGE, False),
    ]
    assert all("needs at least" in row["problem"] for row in too_small)


def test_a_download_tells_its_progress_and_ends() -> None:
    def work(progress: Any, notify: Any, **_: Any) -> None:
        progress(1, 2)
        notify("half")

    state = finished(work)

    assert state["state"] == "finished"
    assert (state["done"], state["total"], state["lines"]) == (1, 2, ["half"])


def test_a_download_that_fails_says_why() -> None:
    def work(**_: Any) -> None:
        raise HubError("the disk is full")

    state = finished(work)

    assert (state["state"], state["problem"]) == ("failed", "the disk is full")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_download_with_a_fault_of_ours_does_not_seem_to_run() -> None:
    def work(**_: Any) -> None:
        raise ZeroDivisionError

    state = finished(work)

    assert state["state"] == "failed" and state["problem"]


def test_one_download_at_a_time_which_can_be_stopped() -> None:
    begun = threading.Event()

    def work(progress: Any, **_: Any) -> None:
        while True:
            progress(1, 2)
            begun.set()

    found = library(FakeHub(work))
    found.start(SMALL)
    assert begun.wait(10)
    with pytest.raises(ApiError, match="another download is running"):
        found.start(LARGE)
    found.stop()

    assert found.state is not None and found.state["state"] == "stopped"


def test_each_report_is_a_state_of_its_own() -> None:
    """A stream compares the state with the one it sent: none may change meanwhile."""
    seen: list[dict[str, Any]] = []

    def work(progress: Any, notify: Any, **_: Any) -> None:
        for done in (1, 2):
            progress(done, 2)
            notify(f"{done}")
            assert found.state is not None
            seen.append(found.state)

    found = library(FakeHub(work))
    found.start(SMALL)
    assert found._thread is not None
    found._thread.join(10)

    assert [(one["done"], one["lines"]) for one in seen] == [
        (1, ["1"]),
        (2, ["1", "2"]),
    ]


def test_a_download_that_hears_nothing_is_stopped_at_once() -> None:
    silent, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def work(progress: Any, **_: Any) -> None:
        if begun.is_set():  # the second
            ended.set()
            return
        begun.set()
        silent.wait(20)
        progress(1, 2)

    found = library(FakeHub(work))
    found.start(SMALL)
    assert begun.wait(10)
    found.stop()
    assert found.state is not None and found.state["state"] == "stopped"
    found.start(LARGE)  # waits until the first one's thread has ended
    assert found.state["state"] == "running" and not ended.is_set()
    silent.set()
    assert found._thread is not None
    found._thread.join(10)

    assert ended.is_set()
    assert (found.state["model"], found.state["state"]) == (LARGE, "finished")


@pytest.mark.parametrize(
    ("model", "options", "problem"),
    [
        ("someone/else", {}, "cannot be downloaded here"),
        (SMALL, {"offline": True}, "--offline"),
    ],
)
def test_what_may_not_be_downloaded_is_refused(
    model: str, options: dict[str, Any], problem: str
) -> None:
    found = library(FakeHub(), **options)

    with pytest.raises(ApiError, match=problem):
        found.start(model)
    assert found.state is None
