"""The chat page in a real Chromium: a conversation, hostile text, restarts."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from mlx_gptoss import load
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.keys import PageKeys
from mlx_gptoss.server.web.tools import ToolOffer
from tests.support.chat_with_weather import get_weather
from tests.support.fakes import answering
from tests.support.scripted_chat import scripted_runtime
from tests.support.web_browser import Chromium, Tab, browser, page_server

FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
GREEDY = ChatSettings(temperature=0, tools=["weather"])
LONG = " ".join(f"word{n}" for n in range(120))
HOSTILE = """<script>document.title = "owned"</script>
<img src=x onerror="document.title='owned'"> <style>*{display:none}</style>
[click](javascript:document.title='owned') [data](data:text/html,<script>1</script>)
[good](https://example.org/?q=1) ![picture](https://tracker.example/p.png)
<https://auto.example> "><svg/onload=alert(1)> &lt;b&gt; <a href="x">y</a>

| <b>a</b> | `<i>` |
|---|---|
| <script>1</script> | ![](//evil.example/x) |

$\\href{javascript:alert(1)}{x}$ $\\htmlClass{a}{y}$ $\\includegraphics{x.png}$ $x^2$

```html"><script>alert(1)</script>
</code></pre><script>document.title = "owned"</script>
```
【0†L1-L2】【99999†L1】 [ref]: x "y"
"""


def offered() -> ToolOffer:
    def weather() -> AbstractContextManager[Tool]:
        return nullcontext(Tool.from_function(get_weather))

    return ToolOffer({"weather": weather})


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser() as started:
        yield started


def answers(tab: Tab) -> list[str]:
    return tab.page.locator(".answer .answer .text").all_inner_texts()


def test_a_conversation_of_the_demo_with_a_call_that_is_approved(
    chromium: Chromium,
) -> None:
    with (
        load("demo") as demo,
        page_server(demo, offer=offered(), defaults=GREEDY) as served,
    ):
        tab = chromium.open(served)
        assert "k=" not in tab.page.url  # the key is gone from the address
        tab.ask("What is the weather in Oslo?")
        tab.page.get_by_role("button", name="Once").click()
        tab.ready()
        assert "done" in tab.page.locator(".call .state").inner_text()
        assert "21" in answers(tab)[-1]
        tab.page.locator(".reasoning summary").first.click()
        assert tab.page.locator(".reasoning p").first.inner_text()

        shown = tab.page.locator("#turns").inner_text()
        tab.page.reload()
        tab.page.locator(".answer .answer").wait_for()
        assert tab.page.locator(".call").count() == 1
        other = chromium.open(served, link=tab.page.url)  # the same cookie
        other.page.locator(".answer .answer").wait_for()
        assert other.page.locator(".call").inner_text().split()[0] in shown
        other.ask("What is the weather in Bergen?")  # both tabs see it, either decides
        tab.page.get_by_role("button", name="Not this time").click()
        other.page.get_by_text("not allowed").wait_for()
        for one in (tab, other):
            one.ready()
            one.check()
            one.page.close()


def test_stop_edit_retry_versions_branch_and_delete(chromium: Chromium) -> None:
    runtime = scripted_runtime(
        THOUGHT + FINAL.format(LONG), FINAL.format("Second."), pause=0.004
    )
    with runtime, page_server(runtime) as served:
        tab = chromium.open(served)
        page = tab.page
        tab.ask("Say much.")
        page.get_by_text("word3 word4").wait_for()
        page.keyboard.press("Escape")
        tab.ready()
        page.get_by_text("(stopped)").wait_for()
        assert 0 < len(answers(tab)[0]) < len(LONG)
        runtime.model.pause = 0

        page.get_by_role("button", name="Edit", exact=True).click()
        page.get_by_label("Edit the question").fill("Say it all.")
        page.keyboard.press("Enter")
        page.get_by_text("word119").wait_for()
        tab.ready()
        assert answers(tab) == [LONG]
        versions = page.get_by_role("group", name="Versions")
        assert "2/2" in versions.inner_text()
        page.get_by_label("Version before").click()
        page.get_by_text("(stopped)").wait_for()
        assert "1/2" in versions.inner_text()
        page.get_by_label("Version after").click()
        page.get_by_text("word119").wait_for()
        page.get_by_role("button", name="Branch").click()
        page.get_by_text("The other one stays").wait_for()
        tab.ask("Next.")
        page.get_by_text("Second.").wait_for()
        tab.ready()
        assert page.locator(".rows li").count() == 1  # one conversation, its versions

        page.fill("#search", "second")
        page.locator(".snippet").wait_for()
        page.fill("#search", "")
        page.locator(".rows li").hover()
        page.get_by_label(re.compile("^Delete ")).click()
        page.get_by_role("button", name=re.compile("Delete . versions")).click()
        page.get_by_text("No conversation yet.").wait_for()
        tab.check()
        page.close()


def test_hostile_text_is_shown_and_does_nothing(chromium: Chromium) -> None:
    with answering(FINAL.format(HOSTILE)) as runtime, page_server(runtime) as served:
        tab = chromium.open(served)
        page = tab.page
        tab.ask(HOSTILE)
        tab.ready()
        page.locator("math").last.wait_for()
        text = page.locator(".answer .text").inner_text()
        assert '<script>document.title = "owned"</script>' in text
        assert "Image (not loaded): picture" in text
        assert page.title() != "owned"
        inside = page.locator("#turns")
        for tag in ("script", "img", "style", "svg", "iframe", "[onload]", "[style]"):
            assert inside.locator(tag).count() == 0, tag
        hrefs = [one.get_attribute("href") for one in inside.locator("a").all()]
        assert set(hrefs) == {
            "https://example.org/?q=1",
            "https://tracker.example/p.png",
            "https://auto.example",
        }
        for one in inside.locator("a").all():
            assert one.get_attribute("rel") == "noopener noreferrer nofollow"
        tried = page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return 'made' }"
            " catch (error) { return error.name } }"
        )
        assert tried == "TypeError"  # the policy lets no text become HTML
        assert all("127.0.0.1" in one for one in tab.requests)
        page.close()


def test_a_server_that_is_started_again_goes_on_where_it_was(
    chromium: Chromium, tmp_path: Path
) -> None:
    store, keys = Sessions.open(tmp_path / "chats.sqlite3"), PageKeys()
    first = scripted_runtime(FINAL.format(LONG), pause=0.01)
    with first, page_server(first, store=store, keys=keys) as served:
        tab = chromium.open(served)
        tab.ask("Say much.")
        tab.page.get_by_text("word2 word3").wait_for()
        port = int(served.url.rpartition(":")[2])
    second = scripted_runtime(FINAL.format("Again."), FINAL.format("On it goes."))
    with second, page_server(second, store=store, keys=keys, port=port):
        tab.look_again()
        tab.page.get_by_text("started again during this answer").wait_for()
        tab.page.get_by_text("(stopped)").wait_for()
        assert "word2 word3" in answers(tab)[0]  # what had arrived is kept
        tab.ready()
        tab.ask("And then?")
        tab.page.get_by_text("On it goes.").wait_for()
        assert tab.page.locator(".turn").count() == 2
        tab.page.close()


def test_files_settings_and_the_enter_of_an_input_method(chromium: Chromium) -> None:
    with answering(FINAL.format("Read.")) as runtime, page_server(runtime) as served:
        tab = chromium.open(served)
        page = tab.page
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("high").check()
        page.get_by_label("Instructions for the model").fill("Be brief.")
        with page.expect_response("**/chats*"):  # the page is drawn anew
            page.evaluate("dispatchEvent(new Event('focus'))")
        page.get_by_role("button", name="Close").click()
        name = '"><img src=x onerror=alert(1)>.txt'
        page.locator("input[type=file]").set_input_files(
            [
                {"name": name, "mimeType": "text/plain", "buffer": b"some text"},
                {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG"},
            ]
        )
        page.get_by_text("9 tokens").wait_for()  # a byte each, in this vocabulary
        page.get_by_text("a.png is a picture").wait_for()
        page.fill("#question", "Read it")
        page.dispatch_event(
            "#question", "keydown", {"key": "Enter", "isComposing": True}
        )
        page.dispatch_event("#question", "keydown", {"key": "Enter", "keyCode": 229})
        assert page.locator(".turn").count() == 0
        page.press("#question", "Shift+Enter")
        page.press("#question", "Enter")
        page.get_by_text("Read.", exact=True).wait_for()
        assert name in page.locator(".file summary").inner_text()
        assert page.locator("#turns img").count() == 0
        assert "high effort" in page.locator(".meters").inner_text()
        [summary] = served.page.store.list()
        data = served.page.store.load(summary.id)
        assert (data["effort"], data["system"]) == ("high", "Be brief.")
        tab.check()
        page.close()


@pytest.mark.soak
def test_five_thousand_tokens_leave_the_page_quick(chromium: Chromium) -> None:
    """No task over 100 ms, and memory bounded, while 5,000 tokens arrive."""
    words = [f"{n * 7919 % 1000:03}" for n in range(200)]  # no loop, which is cut
    part = "Some **{0}** with `{0}`:\n\n- {0}\n- two\n\n```python\nx = {0}\n```\n\n"
    text = "".join(map(part.format, words))[:5000]  # a token for each character
    runtime = scripted_runtime(FINAL.format(text))
    with runtime, page_server(runtime) as served:
        tab = chromium.open(served)
        page = tab.page
        page.evaluate(
            "() => { window.long = []; new PerformanceObserver((list) => "
            "list.getEntries().forEach((one) => window.long.push(one.duration)))"
            ".observe({ entryTypes: ['longtask'] }) }"
        )
        before = page.evaluate("performance.memory.usedJSHeapSize")
        tab.ask("Say much.")
        tab.ready()
        longest = max(page.evaluate("window.long"), default=0)
        grown = page.evaluate("performance.memory.usedJSHeapSize") - before
        assert len(answers(tab)[0]) > 3000
        assert longest < 100, f"{longest:.0f} ms"
        assert grown < 50e6, f"{grown / 1e6:.0f} MB"
        page.close()
