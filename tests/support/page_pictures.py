"""Pictures of the chat page for the documentation, to be looked at after each change.

    python -m tests.support.page_pictures            # writes docs/pictures/page-*.png

A scripted model answers, in a real Chromium; the first run is that of a Mac of 24 GB.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mlx_gptoss import load
from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.tools import ToolOffer
from tests.server.test_web_downloads import FakeHub, library
from tests.support.fakes import answering
from tests.support.web_browser import Chromium, browser, page_server

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MACHINE = "M4 Pro 24GB"
WIDE, PHONE = {"width": 1100, "height": 720}, {"width": 390, "height": 780}
QUESTION = "What is the weather in Oslo, also in Fahrenheit?"
CALL = (
    "<|channel|>analysis<|message|>I look up the weather there, and convert it then."
    "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
)
ANSWER = (
    "<|channel|>final<|message|>It is **21 °C** in Oslo, under a clear sky. In other "
    "units:\n\n|  | Celsius | Fahrenheit |\n|---|--:|--:|\n| Oslo | 21 | 69.8 |\n\n"
    "$$F = \\frac{9}{5} C + 32$$\n\n"
    "```python\ndef fahrenheit(celsius: float) -> float:\n"
    "    return 9 / 5 * celsius + 32  # exact\n```<|return|>"
)


def get_weather(city: str) -> dict[str, Any]:
    """Gets the weather for a city."""
    return {"city": city, "temperature": 21, "sky": "clear"}


def offered() -> ToolOffer:
    def weather() -> AbstractContextManager[Tool]:
        return nullcontext(Tool.from_function(get_weather))

    return ToolOffer({"weather": weather})


def save(page: Any, name: str) -> None:
    page.wait_for_timeout(1500)  # figures of the line below come once a second
    page.screenshot(path=PICTURES / f"page-{name}.png")
    sys.stdout.write(f"Wrote {PICTURES / f'page-{name}.png'}\n")


def a_conversation(chromium: Chromium) -> None:
    """A call that waits, the answer, a phone's width, and settings."""
    defaults = ChatSettings(tools=["weather"])
    runtime = answering(CALL, ANSWER)
    with runtime, page_server(runtime, offer=offered(), defaults=defaults) as served:
        page = chromium.open(served).page
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(WIDE)
        page.fill("#question", QUESTION)
        page.press("#question", "Enter")
        page.get_by_role("button", name="Once").wait_for()
        save(page, "approval")
        page.get_by_role("button", name="Once").click()
        page.get_by_role("button", name="Send", exact=True).wait_for()
        save(page, "answer")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size(PHONE)
        save(page, "narrow-dark")
        page.set_viewport_size(WIDE)
        page.get_by_role("button", name="Settings").click()
        save(page, "settings-dark")
        page.close()


def the_first_run(chromium: Chromium) -> None:
    """The page without a model."""
    models = library(FakeHub(), MACHINE)
    with load("demo") as demo, page_server(demo, library=models) as served:
        page = chromium.open(served).page
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(WIDE)
        page.get_by_text("openai/gpt-oss-120b").wait_for()
        save(page, "first-run")
        page.close()


def main() -> None:
    with browser() as chromium:
        a_conversation(chromium)
        the_first_run(chromium)


if __name__ == "__main__":
    main()
