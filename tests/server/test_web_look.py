"""How the page looks: narrow, magnified, dark; and what a screen reader finds there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.downloads import ModelLibrary
from mlx_gptoss.server.web.tools import ToolOffer
from tests.server.test_web_downloads import FakeHub, library
from tests.support.axe import serious_faults
from tests.support.chat_with_weather import get_weather
from tests.support.scripted_chat import scripted_runtime
from tests.support.web_browser import Chromium, PageServer, browser, page_server

THOUGHT = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{}<|return|>"
CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Oslo"}<|call|>'
)
TEXT = (
    "# Title\n\n`code` **b** [link](https://example.org)\n\n"
    "```python\nx = 1\n```\n\n"
    f"| {' | '.join('abcdefghij')} |\n|{'---|' * 10}\n"
    f"| {' | '.join('0123456789')} |"
    "\n\n$$x^2 + y^2$$ " + "unbreakable" * 20
)
# What 1280 x 800 is at 400 %, and a phone.
MAGNIFIED, PHONE, WIDE = (320, 200), (360, 640), (1180, 800)


def offered() -> ToolOffer:
    def weather() -> AbstractContextManager[Tool]:
        return nullcontext(Tool.from_function(get_weather))

    return ToolOffer({"weather": weather})


def two_models() -> ModelLibrary:
    return library(FakeHub(), "M4 24GB")


@pytest.fixture(scope="module")
def served() -> Iterator[PageServer]:
    runtime = scripted_runtime(THOUGHT + FINAL.format(TEXT), THOUGHT + CALL)
    defaults = ChatSettings(tools=["weather"])
    with (
        runtime,
        page_server(
            runtime, offer=offered(), defaults=defaults, library=two_models()
        ) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser() as started:
        yield started


def look(page: Any, size: tuple[int, int], scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": size[0], "height": size[1]})


def fits(page: Any) -> bool:
    """Whether nothing is cut off at the right."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_answer_and_a_call_that_waits_at_every_size(
    chromium: Chromium, served: PageServer
) -> None:
    tab = chromium.open(served)
    page = tab.page
    look(page, MAGNIFIED, "light")
    assert serious_faults(page) == []  # the beginning, with models that fit
    assert fits(page)
    tab.ask("Show.")
    tab.ready()
    page.locator("math").last.wait_for()
    for size, scheme in [(MAGNIFIED, "dark"), (PHONE, "light"), (WIDE, "dark")]:
        look(page, size, scheme)
        assert fits(page), size
        assert serious_faults(page) == [], (size, scheme)
    look(page, PHONE, "dark")
    page.locator("button.menu").click()
    page.get_by_role("button", name="New conversation").wait_for()
    assert serious_faults(page) == []
    page.keyboard.press("Escape")

    tab.ask("And in Oslo?")
    once = page.get_by_role("button", name="Once")
    once.wait_for()
    for size, scheme in [(MAGNIFIED, "dark"), (WIDE, "light")]:
        look(page, size, scheme)
        assert fits(page), size
        assert serious_faults(page) == [], (size, scheme)
        once.scroll_into_view_if_needed()
        assert once.is_visible()
    page.get_by_role("button", name="Not this time").click()
    page.get_by_text("not allowed").wait_for()
    page.get_by_role("button", name="Stop").click()
    tab.ready()
    tab.check()
    page.close()


@pytest.mark.parametrize("size", [MAGNIFIED, WIDE])
def test_dialogs(chromium: Chromium, served: PageServer, size: tuple[int, int]) -> None:
    page = chromium.open(served).page
    look(page, size, "dark")
    for key, name in [
        ("Control+,", "Settings of this conversation"),
        ("Models", "Models"),
        ("Link", "A link for another browser"),
        ("Help", "Help"),
    ]:
        if "+" in key:
            page.keyboard.press(key)
        else:
            if size == MAGNIFIED:
                page.locator("button.menu").click()
            page.get_by_role("button", name=key, exact=True).click()
        dialog = page.get_by_role("dialog", name=name)
        dialog.wait_for()
        if name == "Models":
            dialog.get_by_text("openai/gpt-oss-120b").wait_for()
        assert fits(page), name
        assert serious_faults(page) == [], name
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")
        if size == MAGNIFIED and "+" not in key:
            page.keyboard.press("Escape")  # the list of conversations
    page.close()


def test_light_dark_and_what_the_system_says(
    chromium: Chromium, served: PageServer
) -> None:
    page = chromium.open(served).page

    def back() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = back()
    page.emulate_media(color_scheme="dark")
    dark = back()
    assert light != dark
    page.get_by_label("Look").select_option("light")
    assert back() == light
    page.reload()
    page.wait_for_selector("#question")
    assert back() == light  # it is remembered
    page.emulate_media(color_scheme="light")
    page.get_by_label("Look").select_option("dark")
    assert back() == dark
    page.get_by_label("Look").select_option("system")
    assert back() == light
    page.close()
