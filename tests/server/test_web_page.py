"""The chat page's server side: sessions, conversations, answers, approval, events."""

import asyncio
import json
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.stored_state import StoredState
from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.server.web.access import HEADER
from mlx_gptoss.server.web.figures import FIGURES, add_figures, with_figures
from mlx_gptoss.server.web.memory_store import MemoryStore
from mlx_gptoss.server.web.routes.events import frames
from mlx_gptoss.server.web.tools import ToolOffer
from tests.support.fakes import answering
from tests.support.web_page import open_page

FINAL = "<|channel|>final<|message|>{}<|return|>"
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
YES, NO = FINAL.format("Yes."), FINAL.format("No.")
LOOK = "<|channel|>commentary to=functions.look<|message|>{}<|call|>"
# Exactly the name of the tool: else constraints make the answer a random one.
LOOK_NOW = LOOK.replace("look", "look_now").format("{}")


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_a_page_is_shown_but_tells_nothing_without_its_link() -> None:
    async def work() -> None:
        with answering() as runtime:
            async with open_page(runtime, signed_in=False) as page:
                browser = {"accept": "text/html,*/*;q=0.8"}
                shown = await page.http.get("/", headers=browser)
                assert shown.status_code == 200
                policy = shown.headers.get_list("content-security-policy")
                assert len(policy) == 1 and "unsafe" not in policy[0]
                for path in ("page", "chats", "models", "events", "chats/x/export"):
                    reply = await page.http.get(f"/web/{path}")
                    assert reply.status_code == 401, path
                    assert reply.json()["error"]["code"] == "not_signed_in"
                assert (await page.post("chats", text="hi")).status_code == 401

    run(work())


def test_a_key_opens_the_page_and_an_api_key_does_not() -> None:
    async def work() -> None:
        settings = ServerSettings(api_key="of the API")
        with answering() as runtime:
            async with open_page(runtime, settings, signed_in=False) as page:
                bearer = {"authorization": "Bearer of the API"}
                reply = await page.http.get("/web/chats", headers=bearer)
                assert reply.status_code == 401
                key = page.page.keys.make_key()
                assert (await page.post("session", key="x" + key)).status_code == 401
                reply = await page.post("session", key=key)
                assert reply.status_code == 204
                cookie = reply.headers["set-cookie"].lower()
                assert "httponly" in cookie and "samesite=strict" in cookie
                assert (await page.http.get("/web/chats")).json() == []
                assert (await page.post("session", key=key)).status_code == 401
                refused = await page.http.get("/v1/models")  # the cookie opens no API
                assert refused.status_code == 401
                await page.http.delete("/web/session", headers={HEADER: "1"})
                assert (await page.http.get("/web/chats")).status_code == 401

    run(work())


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://app.example"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_no_other_page_reaches_the_conversations(headers: dict[str, str]) -> None:
    async def work() -> None:
        settings = ServerSettings(origins=("https://app.example",))
        with answering() as runtime:
            async with open_page(runtime, settings) as page:
                reply = await page.http.get("/web/chats", headers=headers)
                assert reply.status_code == 403
                bare = await page.http.post("/web/chats", json={"text": "hi"})
                assert bare.status_code == 403  # without the page's own header

    run(work())


def test_an_answer_streams_and_is_saved_as_the_terminals_chats_are(
    sessions: Sessions,
) -> None:
    async def work() -> None:
        with answering(THOUGHT + YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                made = await page.ask("Is it?\nReally?")
                done = await page.finished(made["id"])
                [turn] = done["turns"]
                assert turn["question"] == "Is it?\nReally?"
                assert [(i["kind"], i["text"]) for i in turn["items"]] == [
                    ("reasoning", "Hm."),
                    ("answer", "Yes."),
                ]
                assert turn["stats"]["tokens"] > 5
                [row] = (await page.http.get("/web/chats")).json()
                assert (row["id"], row["title"]) == (made["id"], "Is it?")

                again = Chat.from_json(runtime, sessions.load(made["id"]))
                assert again.questions == ["Is it?\nReally?"]
                assert again.messages[-1].text == "Yes."

    run(work())


def test_events_add_up_to_the_conversation_whenever_a_tab_comes_back() -> None:
    async def work() -> None:
        with answering(THOUGHT + FINAL.format("One two three.")) as runtime:
            async with open_page(runtime) as page:
                made = await page.ask("Count.")
                whole = await page.finished(made["id"])
                found = await page.page.conversations.open(made["id"])
                events = await page.events(made["id"], count=1)
                assert events[0]["name"] == "chat"
                assert events[0]["value"]["turns"] == whole["turns"]
                last = events[0]["id"]
                found.log.add("delta", {"at": 0, "text": "a"})
                found.log.add("delta", {"at": 0, "text": "b"})
                [missed] = await page.events(made["id"], after=last, count=1)
                assert missed["value"] == {"at": 0, "text": "ab"}
                [other] = await page.events(made["id"], after="0-3", count=1)
                assert other["name"] == "chat"  # of another server: all of it

    run(work())


def test_what_is_added_while_an_event_is_sent_comes_next() -> None:
    async def work() -> None:
        with answering(YES) as runtime:
            async with open_page(runtime) as page:
                made = await page.finished((await page.ask("Is it?"))["id"])
                found = await page.page.conversations.open(made["id"])
                stream: Any = frames(page.page, found, "")
                sent = [await anext(stream)]
                for text in "abc":
                    found.log.add("item", {"at": 0, "item": {"text": text}})
                while b'"c"' not in sent[-1]:
                    sent.append(await anext(stream))
                    if b'"b"' in sent[-1]:  # meanwhile
                        found.log.add("delta", {"at": 0, "text": "later"})
                sent.append(await anext(stream))
                assert b"later" in sent[-1]
                await stream.aclose()

    run(work())


def test_a_call_waits_for_the_session_that_asked() -> None:
    ran: list[str] = []

    def look(place: str = "") -> str:
        """Look."""
        ran.append(place)
        return "rain"

    def offer() -> ToolOffer:
        return ToolOffer({"look": lambda: opened(Tool.from_function(look))})

    async def work() -> None:
        calls = [LOOK.format(json.dumps({"place": place})) for place in "abcd"]
        script = [calls[0], YES, calls[1], YES, calls[2], YES, calls[3], NO]
        with answering(*script) as runtime:
            async with open_page(runtime, offer=offer()) as page:
                made = await page.ask("a?", settings={"tools": ["look"]})
                id = made["id"]
                asking = await page.until(id, lambda chat: chat["asking"])
                assert asking["turns"][-1]["items"][-1]["state"] == "asking"
                other = page.page.keys.sign_in(page.page.keys.make_key())
                stranger = {"cookie": f"mlx-gptoss-page-80={other}", HEADER: "1"}
                body = {"call": asking["asking"], "choice": "once"}
                path = f"/web/chats/{id}/approval"
                async with page.another_browser() as browser:
                    reply = await browser.post(path, json=body, headers=stranger)
                assert reply.status_code == 403 and ran == []
                await page.decide(id, "no")
                refused = await page.finished(id)
                assert refused["turns"][-1]["items"][0]["state"] == "refused"
                assert ran == []

                await page.post(f"chats/{id}/messages", text="b?")
                await page.decide(id, "once")
                done = await page.finished(id)
                assert done["turns"][-1]["items"][0]["result"] == "rain"
                assert ran == ["b"]
                await page.post(f"chats/{id}/messages", text="c?")
                await page.decide(id, "always")
                await page.finished(id)
                await page.post(f"chats/{id}/messages", text="d?")
                await page.finished(id)  # nobody is asked again
                assert ran == ["b", "c", "d"]

    run(work())


def test_a_stopped_answer_keeps_what_has_arrived_and_its_open_call() -> None:
    offer = ToolOffer({"look": lambda: opened(Tool.from_function(look_now))})

    async def work() -> None:
        with answering(LOOK_NOW) as runtime:
            async with open_page(runtime, offer=offer) as page:
                wanted = {"tools": ["look", "unknown"]}
                made = await page.ask("Look!", settings=wanted)
                assert made["settings"]["tools"] == ["look"]
                await page.until(made["id"], lambda chat: chat["asking"])
                await page.post(f"chats/{made['id']}/stop")
                done = await page.finished(made["id"])
                [turn] = done["turns"]
                assert (turn["cut"], turn["items"][0]["state"]) == ("stopped", "open")
                assert done["problem"] is None

    run(work())


def look_now() -> str:
    """Look."""
    return "sun"


def test_another_answer_is_another_version_with_arrows(sessions: Sessions) -> None:
    async def work() -> None:
        with answering(YES, NO, FINAL.format("Who knows.")) as runtime:
            async with open_page(runtime, store=sessions) as page:
                first = await page.finished((await page.ask("Is it?"))["id"])
                body = {"turn": 1}
                second = (await page.post(f"chats/{first['id']}/redo", **body)).json()
                second = await page.finished(second["id"])
                assert second["turns"][0]["items"][-1]["text"] == "No."
                ids = [first["id"], second["id"]]
                assert second["turns"][0]["versions"] == {"at": 1, "of": ids}
                edit = {"turn": 1, "text": "Is it not?"}
                third = (await page.post(f"chats/{second['id']}/redo", **edit)).json()
                third = await page.finished(third["id"])
                assert third["turns"][0]["versions"]["at"] == 2
                back = (await page.http.get(f"/web/chats/{ids[0]}")).json()
                assert back["turns"][0]["items"][-1]["text"] == "Yes."
                [row] = (await page.http.get("/web/chats")).json()
                assert (row["id"], row["versions"]) == (third["id"], 3)
                assert len(sessions.list()) == 3  # the terminal has each of them
                gone = await page.http.delete(
                    f"/web/chats/{ids[0]}", headers={HEADER: "1"}
                )
                assert gone.json() == {"deleted": 3} and sessions.list() == ()

    run(work())


def test_settings_and_titles_stay_with_a_conversation(sessions: Sessions) -> None:
    async def work() -> None:
        with answering(YES, NO) as runtime:
            async with open_page(runtime, store=sessions) as page:
                given = {"effort": "low", "temperature": 0.5, "system": "Be brief."}
                made = await page.ask("Is it?", settings=given)
                id = (await page.finished(made["id"]))["id"]
                path, headers = f"/web/chats/{id}", {HEADER: "1"}
                change = {"title": "Named", "settings": given | {"effort": "high"}}
                reply = await page.http.patch(path, json=change, headers=headers)
                assert reply.json()["settings"]["effort"] == "high"
                await page.post(f"chats/{id}/messages", text="And?")
                done = await page.finished(id)
                assert (done["title"], done["settings"]["system"]) == (
                    "Named",
                    "Be brief.",
                )
                saved = sessions.load(id)
                assert (saved["title"], saved["effort"]) == ("Named", "high")
                assert saved["notes"]["temperature"] == 0.5
                text = (await page.http.get(f"{path}/export")).text
                assert text.startswith("# Named\n") and "Be brief." in text
                whole = (await page.http.get(f"{path}/export?form=json")).json()
                assert Chat.from_json(runtime, whole).questions == ["Is it?", "And?"]
                bad = {"settings": {"effort": "huge"}}
                reply = await page.http.patch(path, json=bad, headers=headers)
                assert reply.status_code == 400

    run(work())


def test_search_finds_questions_and_answers(store: Any) -> None:
    async def work() -> None:
        with answering(YES, FINAL.format("Oslo has fjords.")) as runtime:
            async with open_page(runtime, store=store) as page:
                await page.finished((await page.ask("Is it?"))["id"])
                second = await page.finished((await page.ask("Where?"))["id"])
                found = (await page.http.get("/web/chats?search=FJORDS")).json()
                assert [(row["id"]) for row in found] == [second["id"]]
                assert "fjords" in found[0]["snippet"]

    run(work())


def test_files_go_with_a_question_and_come_back_apart(sessions: Sessions) -> None:
    async def work() -> None:
        with answering(YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                files = [
                    {"name": "a`b.py", "text": "x = '```'\n"},
                    {"name": "notes.txt", "text": "`odd`:\n```\nfence\n```"},
                ]
                made = await page.ask("Read.", files=files)
                done = await page.finished(made["id"])
                [turn] = done["turns"]
                assert turn["question"] == "Read."
                assert [one["name"] for one in turn["files"]] == ["a_b.py", "notes.txt"]
                assert turn["files"][1]["text"] == files[1]["text"]

    run(work())


def test_a_question_that_could_not_be_answered_is_not_lost() -> None:
    async def work() -> None:
        with answering(YES) as runtime:
            runtime.context = 8
            async with open_page(runtime) as page:
                made = await page.ask("far too long for this context")
                done = await page.finished(made["id"])
                assert "context" in done["problem"]
                assert done["turns"][-1]["unsent"] is True
                assert done["turns"][-1]["question"].startswith("far too long")
                runtime.context = None
                body = {"turn": 1}
                await page.post(f"chats/{made['id']}/redo", **body)
                done = await page.finished(made["id"])
                assert done["turns"][0]["items"][-1]["text"] == "Yes."
                assert done["problem"] is None

    run(work())


def test_a_server_that_ends_keeps_what_has_arrived_for_the_next(
    sessions: Sessions,
) -> None:
    offer = ToolOffer({"look": lambda: opened(Tool.from_function(look_now))})

    async def work() -> None:
        with answering(THOUGHT + LOOK_NOW) as runtime:
            async with open_page(runtime, store=sessions, offer=offer) as page:
                made = await page.ask("Look!", settings={"tools": ["look"]})
                await page.until(made["id"], lambda chat: chat["asking"])
                page.page.drain.start()
                late = await page.post("chats", text="And?")
                assert late.status_code == 503
                page.page.drain.abort()
        with answering(YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                back = (await page.http.get(f"/web/chats/{made['id']}")).json()
                [turn] = back["turns"]
                assert [item["kind"] for item in turn["items"]] == ["reasoning", "call"]
                assert turn["cut"] == "stopped"
                await page.post(f"chats/{made['id']}/messages", text="Then?")
                done = await page.finished(made["id"])
                assert done["turns"][-1]["items"][-1]["text"] == "Yes."

    run(work())


def test_figures_of_answers_outlive_the_server(sessions: Sessions) -> None:
    async def read(id: str) -> dict[str, Any]:
        with answering(YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                return (await page.http.get(f"/web/chats/{id}")).json()

    async def work() -> None:
        with answering(THOUGHT + YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                made = await page.ask("Is it?")
                before = await page.finished(made["id"])
        [turn] = before["turns"]
        assert turn["stats"]["tokens"] > 0 and turn["items"][0]["seconds"] >= 0
        assert (await read(made["id"]))["turns"] == [turn]

        data = sessions.load(made["id"])  # the terminal answers it once more
        data["messages"][-1]["content"] = "No."
        sessions.save(StoredState(data))
        [other] = (await read(made["id"]))["turns"]
        assert other["stats"] is None and "seconds" not in other["items"][0]

    run(work())


@pytest.mark.parametrize("note", [1, {"x": 1}, {"stats": {"tokens": "1"}}])
def test_figures_that_are_none_are_not_shown(note: Any) -> None:
    turns = [{"source": "a", "items": [{"kind": "reasoning", "text": "b"}]}]
    data = with_figures({"notes": {}}, turns, {"stats": None, "seconds": [1.5]})
    [key] = data["notes"][FIGURES]
    add_figures(turns, data)
    [item] = turns[0]["items"]
    assert (turns[0]["stats"], item["seconds"]) == (None, 1.5)

    del item["seconds"]
    for notes in ({FIGURES: note}, {FIGURES: {key: note}}):
        add_figures(turns, {"notes": notes})
        assert turns[0]["stats"] is None
        assert "seconds" not in item


class HeldStore(MemoryStore):
    """Waits before it keeps the figures of an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.let_go = threading.Event(), threading.Event()

    def save(self, chat: Any) -> None:
        if FIGURES in chat.to_json().get("notes", {}):
            self.held.set()
            assert self.let_go.wait(20)
        super().save(chat)


def test_an_answer_is_shown_once_while_its_figures_are_saved() -> None:
    async def work() -> None:
        store = HeldStore()
        with answering(YES, NO) as runtime:
            async with open_page(runtime, store=store) as page:
                id = (await page.ask("Is it?"))["id"]
                await asyncio.to_thread(store.held.wait, 20)
                seen = (await page.http.get(f"/web/chats/{id}")).json()
                store.let_go.set()
                assert [turn["question"] for turn in seen["turns"]] == ["Is it?"]
                assert seen["running"] and seen["turns"][0]["items"][-1]["text"]
                done = await page.finished(id)
                assert len(done["turns"]) == 1

    run(work())


def test_a_second_question_waits_for_the_first() -> None:
    offer = ToolOffer({"look": lambda: opened(Tool.from_function(look_now))})

    async def work() -> None:
        with answering(LOOK_NOW) as runtime:
            async with open_page(runtime, offer=offer) as page:
                made = await page.ask("Look!", settings={"tools": ["look"]})
                await page.until(made["id"], lambda chat: chat["asking"])
                reply = await page.post(f"chats/{made['id']}/messages", text="And?")
                assert reply.status_code == 409
                empty = await page.post("chats", text="  ")
                assert empty.status_code == 400
                gone = await page.http.delete(
                    f"/web/chats/{made['id']}", headers={HEADER: "1"}
                )
                assert gone.json() == {"deleted": 1}  # the answer was stopped first

    run(work())


def test_what_the_terminal_adds_is_there_at_the_next_look(sessions: Sessions) -> None:
    async def work() -> None:
        with answering(YES, NO, YES) as runtime:
            async with open_page(runtime, store=sessions) as page:
                id = (await page.finished((await page.ask("Is it?"))["id"]))["id"]
                terminal = Sessions.open(sessions.path)
                chat = Chat.from_json(
                    runtime, terminal.load(id), on_change=terminal.save
                )
                list(chat.send("Is it not?"))
                back = (await page.http.get(f"/web/chats/{id}")).json()
                assert len(back["turns"]) == 2
                await page.post(f"chats/{id}/messages", text="So?")
                done = await page.finished(id)
                assert (len(done["turns"]), done["problem"]) == (3, None)

    run(work())


def opened(tool: Tool) -> AbstractContextManager[Tool]:
    return nullcontext(tool)


@pytest.fixture
def sessions(tmp_path: Any) -> Sessions:
    return Sessions.open(tmp_path / "chats.sqlite3")


@pytest.fixture(params=["kept", "private"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    return (
        MemoryStore() if request.param == "private" else Sessions.open(tmp_path / "c")
    )
