"""Models in the page: the first run without one, a download, changing between them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss import load
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.memory.machines import describe_device
from mlx_gptoss.server.models import ModelSource
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.downloads import ModelLibrary
from tests.support.adapters import STRONG, write_random_adapter
from tests.support.hub_server import HubServer, Odd, hub_server
from tests.support.web_browser import Chromium, PageServer, browser, page_server

SMALL, LARGE = "openai/gpt-oss-20b", "openai/gpt-oss-120b"
WEIGHTS = "model.safetensors"
MACHINE = "M4 16GB"
GREEDY = ChatSettings(temperature=0)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """A Hub whose 20b is the demo."""
    demo = Hub().resolve("demo")
    files = {path.name: path.read_bytes() for path in demo.iterdir()}
    with hub_server({SMALL: files}) as running:
        yield running


def library_of(hub: HubServer, folder: Path) -> ModelLibrary:
    here = Hub(hub.url, folder)

    def source(name: str) -> ModelSource:
        return ModelSource(name, lambda: load(here.resolve(name)))

    return ModelLibrary(here, LoadOptions(), source, lambda: describe_device(MACHINE))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser() as started:
        yield started


def chosen(served: PageServer) -> list[str]:
    """The models of the saved conversations."""
    store = served.page.store
    return [store.load(one.id)["notes"]["model"] for one in store.list()]


def test_the_first_run_downloads_what_fits_and_answers_with_it(
    chromium: Chromium, hub: HubServer, tmp_path: Path
) -> None:
    hub.odd[WEIGHTS] = [Odd(hold=1_000_000)]
    options: dict[str, Any] = {"library": library_of(hub, tmp_path)}
    with load("demo") as demo, page_server(demo, defaults=GREEDY, **options) as served:
        tab = chromium.open(served)
        page = tab.page
        page.get_by_text("On this machine OpenAI's models would run").wait_for()
        large, small = (page.locator(".models li", has_text=n) for n in (LARGE, SMALL))
        for row in (large, small):
            assert "tokens a second expected" in row.inner_text()
        small.get_by_role("button", name="Download").click()
        page.locator(".download", has_text=re.compile(r"of 2\.\d MB")).wait_for()
        page.reload()  # it goes on, and is shown again
        small.get_by_role("button", name="Stop").click()
        small.get_by_text("the next download goes on there").wait_for()
        hub.let_go.set()
        small.get_by_role("button", name="Download").click()
        small.get_by_role("button", name="Use here").click()
        page.locator(".meters", has_text=SMALL).wait_for()
        tab.ask("What is 417 + 285?")
        page.locator(".answer .answer", has_text="702").wait_for()
        tab.ready()
        assert chosen(served) == [SMALL]
        tab.check()
        page.close()


def test_a_conversation_changes_to_an_adapter_and_back(
    chromium: Chromium, tmp_path: Path
) -> None:
    with load("demo") as demo:
        write_random_adapter(tmp_path / "odd", demo.config, 1, targets=STRONG)
    given = [f"odd={tmp_path / 'odd'}"]
    with (
        load("demo", adapters=given) as runtime,
        page_server(runtime, defaults=GREEDY) as served,
    ):
        tab = chromium.open(served)
        page = tab.page
        for name in ("demo:odd", "demo"):
            page.get_by_role("button", name="Settings").click()
            page.get_by_role("dialog").locator("select").select_option(name)
            page.get_by_role("button", name="Close").click()
            page.locator(".meters", has_text=f"{name} ·").wait_for()
            tab.ask("What is 417 + 285?")
            page.keyboard.press("Escape")  # the odd one may go on for long
            tab.ready()
            assert chosen(served) == [name]
        tab.check()
        page.close()
