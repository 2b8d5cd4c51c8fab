"""A server that is killed in the middle of an answer loses nothing that was shown."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss.server.web.access import HEADER
from tests.support.web_browser import browser
from tests.support.web_process import PATIENCE, WebProcess, web_process

WORDS = " ".join(f"word{n}" for n in range(40))
REPLY = (
    "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{WORDS}<|return|>"
)
GATE, SHOWN = "word12", "word11"  # the last token before a gate is not shown yet
NOTE = "the program ended during this answer; what had arrived is kept"


@contextmanager
def signed_in(started: WebProcess) -> Iterator[httpx2.Client]:
    url, _, key = started.link.partition("/#k=")
    options: dict[str, Any] = {"headers": {HEADER: "1"}, "timeout": PATIENCE}
    with httpx2.Client(base_url=url, **options) as client:
        assert client.post("/web/session", json={"key": key}).status_code == 204
        yield client


def shown_until_the_gate(client: httpx2.Client) -> dict[str, Any]:
    """Ask, and return the conversation as a tab sees it when no more comes."""
    asked = client.post("/web/chats", json={"text": "Say much."}).json()
    until = time.monotonic() + PATIENCE
    before: dict[str, Any] = {}
    while True:
        assert time.monotonic() < until
        chat = client.get(f"/web/chats/{asked['id']}").json()
        items = chat["turns"][0]["items"]
        if items and SHOWN in items[-1]["text"] and chat == before:
            return chat
        before = chat
        time.sleep(0.3)


def texts(chat: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["text"]) for one in chat["turns"][0]["items"]]


def test_what_was_shown_is_there_again(tmp_path: Path) -> None:
    with web_process(tmp_path, [REPLY], gate=GATE) as first:
        with signed_in(first) as client:
            chat = shown_until_the_gate(client)
        first.kill()
    go_on = "<|channel|>final<|message|>Go on.<|return|>"
    with web_process(tmp_path, [go_on]) as second, signed_in(second) as client:
        path = f"/web/chats/{chat['id']}"
        again = client.get(path).json()
        assert texts(again) == texts(chat)
        assert again["turns"][0]["question"] == "Say much."
        assert (again["turns"][0]["cut"], again["running"]) == (NOTE, False)
        assert client.get(f"{path}/export").text.count(NOTE) == 1
        asked = client.post(f"{path}/messages", json={"text": "And?"})
        assert asked.status_code == 200


def test_private_conversations_leave_nothing(tmp_path: Path) -> None:
    with web_process(tmp_path, [REPLY], gate=GATE, private=True) as first:
        with signed_in(first) as client:
            chat = shown_until_the_gate(client)
        first.kill()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert chat["turns"][0]["question"] == "Say much."
    assert not any(b"word1" in one or b"Say much" in one for one in written)


@pytest.mark.soak  # tests/server/test_web_browser.py has one in this process
def test_an_open_tab_says_it_once_and_goes_on(tmp_path: Path) -> None:
    with browser() as chromium:
        with web_process(tmp_path, [REPLY], gate=GATE) as first:
            tab = chromium.open_link(first.link)
            page = tab.page
            tab.ask("Say much.")
            page.get_by_text(SHOWN).wait_for()
            first.kill()
        page.get_by_text("Not connected to the server").wait_for()
        second = ["<|channel|>final<|message|>Again.<|return|>"]
        second.append("<|channel|>final<|message|>On it goes.<|return|>")
        with web_process(tmp_path, second, port=first.port):
            tab.look_again()
            page.get_by_text("started again during this answer").wait_for()
            page.get_by_text(NOTE).wait_for()
            assert page.locator(".lost").count() == 0
            assert page.get_by_text(SHOWN).count() == 1
            page.get_by_role("button", name="Dismiss").click()
            page.reload()
            page.get_by_text(SHOWN).wait_for()
            assert page.locator(".notice").count() == 0
            tab.ask("And then?")
            page.get_by_text("On it goes.").wait_for()
            tab.check()
