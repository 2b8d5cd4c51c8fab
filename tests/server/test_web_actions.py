"""What a user does in the page beside asking: rename, export, cite, drop, leave."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.sessions.stored_state import StoredState
from mlx_gptoss.chat.tools.browser import Browser, Folders
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.harmony.messages import answer, tool_call, tool_result, user
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.conversation import new_data
from tests.support.black_hole import black_hole
from tests.support.notes_folder import write_notes
from tests.support.scripted_chat import ScriptedModel, scripted_runtime
from tests.support.web_browser import Chromium, PageServer, browser, page_server

FINAL = "<|channel|>final<|message|>{}<|return|>"
LONG = " ".join(f"word{n}" for n in range(60))
DROP = """(text) => {
  const data = new DataTransfer();
  data.items.add(new File([text], "notes.txt", { type: "text/plain" }));
  const form = document.querySelector(".composer");
  for (const kind of ["dragover", "drop"]) {
    form.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true }));
  }
}"""


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[ScriptedModel, PageServer]]:
    with scripted_runtime(FINAL.format(LONG)) as runtime, page_server(runtime) as made:
        yield runtime.model, made  # pyright: ignore[reportReturnType]


@pytest.fixture
def served(model: tuple[ScriptedModel, PageServer]) -> PageServer:
    return model[1]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser() as started:
        yield started


def port_of(served: PageServer) -> int:
    return int(served.url.rpartition(":")[2])


def test_a_conversation_is_renamed_and_exported(
    chromium: Chromium, served: PageServer
) -> None:
    tab = chromium.open(served)
    page = tab.page
    tab.ask("Say much.")
    tab.ready()
    page.get_by_label("Rename Say much.").click()
    page.get_by_label("Title").fill("A better name")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="A better name").wait_for()
    page.locator(".rows .title", has_text="A better name").wait_for()
    page.get_by_text("Export").click()
    for kind, ending in [("Markdown", ".md"), ("JSON", ".json")]:
        with page.expect_download() as download:
            page.get_by_role("link", name=kind).click()
        assert download.value.suggested_filename == f"A-better-name{ending}"
        text = Path(download.value.path()).read_text()
        assert LONG in text
    assert saved.from_json(json.loads(text)).title == "A better name"
    page.close()


def test_an_answer_waits_for_the_settings_it_is_asked_with(
    chromium: Chromium, served: PageServer
) -> None:
    tab = chromium.open(served)
    page, held = tab.page, []
    tab.ask("Say much.")
    tab.ready()
    page.route(
        "**/web/chats/*",
        lambda route: (
            held.append(route) if route.request.method == "PATCH" else route.continue_()
        ),
    )
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("low").check()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Try again").click()
    page.wait_for_timeout(300)
    assert held and not any(one.endswith("/redo") for one in tab.requests)
    with page.expect_response("**/redo") as asked:
        held[0].continue_()
    assert asked.value.json()["settings"]["effort"] == "low"
    tab.ready()
    page.close()


def test_a_citation_opens_the_lines_it_names(
    chromium: Chromium, served: PageServer, tmp_path: Path
) -> None:
    shown = Browser(Folders(write_notes(tmp_path))).open("trips/oslo.md")
    messages = [
        user("How often?"),
        tool_call("browser.open", '{"id": "trips/oslo.md"}'),
        tool_result("browser.open", shown),
        answer("Hourly【0†L2-L2】, says nobody【7†L1】."),
    ]
    data = new_data(ChatSettings())
    data["messages"] = [saved.message_to_json(one) for one in messages]
    served.page.store.save(StoredState(data))
    tab = chromium.open_link(f"{served.link()}&c={data['id']}")
    page = tab.page
    page.get_by_role("button", name="0", exact=True).click()
    cited = page.locator(".cited")
    cited.wait_for()
    assert "hourly" in cited.inner_text()
    assert cited.is_visible()
    page.get_by_role("button", name="7", exact=True).click()
    page.get_by_text("is not in this conversation").wait_for()
    tab.check()
    page.close()


def test_a_text_file_is_dropped(chromium: Chromium, served: PageServer) -> None:
    tab = chromium.open(served)
    page = tab.page
    page.evaluate(DROP, "dropped text")
    page.get_by_text("notes.txt, 12 tokens").wait_for()
    tab.ask("Read it.")
    tab.ready()
    assert page.locator(".file summary").inner_text() == "notes.txt"
    [question] = [
        message["content"]
        for summary in served.page.store.search("dropped")
        for message in served.page.store.load(summary.chat.id)["messages"]
        if message["role"] == "user"
    ]
    assert "dropped text" in question
    page.close()


def test_what_waits_says_how_far_it_is(chromium: Chromium) -> None:
    """The model reads 1,500 tokens and no more, until the test lets it."""
    runtime = scripted_runtime(FINAL.format("Read."), batch=BatchOptions(max_running=1))
    with runtime, page_server(runtime) as served:
        runtime.model.stop_at = 1500
        tab = chromium.open(served)
        tab.ask("word " * 500)
        meters = tab.page.locator(".meters")
        reading = re.compile(r"reading [\d,]+ of 2,\d+ tokens")
        meters.filter(has_text=reading).wait_for()
        other = chromium.open_link(served.url)
        other.ask("And this?")
        other.page.get_by_text("place 1 in the queue").wait_for()
        third = chromium.open_link(served.url)
        third.ask("And that?")
        third.page.get_by_text("place 2 in the queue").wait_for()
        runtime.model.stop_at = None
        for one in (tab, other, third):
            one.page.get_by_text("Read.", exact=True).wait_for()
            one.ready()
            shown = one.page.locator(".meters").inner_text()
            assert "queue" not in shown and "reading" not in shown
            one.check()
            one.page.close()


def test_a_laptop_that_slept_shows_what_it_missed(
    chromium: Chromium, model: tuple[ScriptedModel, PageServer]
) -> None:
    scripted, served = model
    scripted.pause = 0.02
    with black_hole(port_of(served), b"GET /web/events") as relay:
        link = re.sub(r":\d+/", f":{relay.port}/", served.link())
        tab = chromium.open_link(link)
        page = tab.page
        page.clock.install()
        tab.ask("Say much.")
        page.get_by_text("word1 word2").wait_for()
        relay.swallow()  # the connection is dead and does not say so
        scripted.pause = 0
        page.clock.fast_forward("10:00:00")
        page.get_by_text("word59").wait_for()
        tab.ready()
        assert page.locator(".answer .answer .text").all_inner_texts() == [LONG]
        assert page.locator(".notice").count() == 0

        relay.refuse()  # a network that is gone for long
        page.get_by_text("Not connected to the server").wait_for()
        assert page.locator(".notice").count() == 1
        relay.let_in()
        page.clock.fast_forward("01:00")
        page.locator(".notice").wait_for(state="detached")
        assert page.locator(".turn").count() == 1
        tab.ask("More?")
        page.locator(".turn").nth(1).get_by_text("word59").wait_for()
        page.close()


def test_who_signs_out_sees_nothing_in_any_tab(
    chromium: Chromium, served: PageServer
) -> None:
    tab = chromium.open(served)
    other = chromium.open(served)  # another key is another session: so share one
    other.page.close()
    other = chromium.open_link(served.url)
    tab.page.get_by_role("button", name="Sign out").click()
    for page in (tab.page, other.page):
        page.get_by_text("does not know this server yet").wait_for()
        assert page.locator(".rows").count() == 0
    answered: Any = tab.page.request.get(f"{served.url}/web/chats")
    assert answered.status == 401
    tab.page.get_by_label("Or paste the link").fill(served.link())
    tab.page.get_by_role("button", name="Open the page").click()
    tab.page.wait_for_selector("#question")
    tab.page.close()
    other.page.close()
