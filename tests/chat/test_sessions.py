"""Chats on disk are saved, listed, searched, and securely deleted."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions, as_markdown
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import PromptError, SessionError
from mlx_gptoss.harmony.events import Answer
from mlx_gptoss.harmony.messages import (
    answer,
    developer,
    preamble,
    reasoning,
    tool_call,
    tool_result,
    user,
)
from tests.support.fakes import answering
from tests.support.saved_chats import GREEDY, REPLY, saved, start
from tests.support.scripted_chat import scripted_runtime

CALL = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with scripted_runtime(REPLY) as runtime:
        yield runtime


@pytest.fixture(params=[None, False], ids=["full text", "without"])
def sessions(tmp_path: Path, request: pytest.FixtureRequest) -> Sessions:
    return Sessions.open(tmp_path / "chats" / "c.sqlite3", full_text=request.param)


def bytes_of(folder: Path) -> bytes:
    """The content of a folder, in lower case like the index."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"".join(path.read_bytes() for path in files).lower()


def test_a_turn_is_saved_as_it_goes(sessions: Sessions) -> None:
    seen: list[list[str]] = []

    def save(chat: Chat) -> None:
        sessions.save(chat)
        roles = [message["role"] for message in sessions.load(chat.id)["messages"]]
        seen.append(roles)

    with answering(CALL, REPLY) as runtime:
        chat = start(runtime, tools=[look], on_change=save)
        list(chat.send("Rain?"))

        loaded = Chat.from_json(runtime, sessions.load(chat.id), tools=[look])

    assert [len(roles) for roles in seen] == [1, 3, 4, 5]
    assert loaded.to_json() == chat.to_json()


def look() -> str:
    """Looks."""
    return "rain"


def test_an_interrupted_answer_and_a_waiting_call_are_resumed(
    sessions: Sessions,
) -> None:
    with answering(REPLY, CALL, REPLY) as runtime:
        options: dict[str, Any] = {"tools": [{"name": "look"}], "params": GREEDY}
        chat = start(runtime, on_change=sessions.save, **options)
        events = chat.send("hi")
        assert next(events) == Answer("Y")
        events.close()
        list(chat.send("Rain?"))

        again = Chat.from_json(runtime, sessions.load(chat.id), **options)

        assert again.messages[:2] == [user("hi"), answer("Y")]
        assert [call.id for call in again.waiting] == ["call_1"]
        list(again.submit_result("call_1", "sun"))
        sessions.save(again)

    assert sessions.load(chat.id)["messages"][-1]["content"] == "Yes."


@pytest.mark.parametrize("change", ["edit", "undo", "regenerate"])
def test_what_is_taken_back_leaves_the_disk_too(
    sessions: Sessions, runtime: Runtime, change: str
) -> None:
    chat = start(runtime, on_change=sessions.save)
    list(chat.send("first"))
    list(chat.send("Xylophone quartz"))
    if change == "undo":
        chat.undo()
    elif change == "edit":
        list(chat.edit(2, "second"))
    else:
        chat.messages.append(answer("Xylophone quartz"))
        sessions.save(chat)
        list(chat.edit(2, "other"))
        list(chat.regenerate())

    assert sessions.search("quartz") == ()
    assert b"quartz" not in bytes_of(sessions.path.parent)
    assert Chat.from_json(runtime, sessions.load(chat.id)).messages == chat.messages


def test_chats_are_listed_the_latest_first(
    sessions: Sessions, runtime: Runtime
) -> None:
    one, two = (saved(sessions, runtime, text) for text in ("one", "two"))
    list(one.send("more"))
    sessions.save(one)

    assert [(s.id, s.title, s.turns) for s in sessions.list()] == [
        (one.id, "one", 2),
        (two.id, "two", 1),
    ]
    assert [s.id for s in sessions.list(limit=1)] == [one.id]
    assert sessions.list()[0].updated == one.updated.isoformat()


def test_a_chat_is_found_by_what_was_said(sessions: Sessions, runtime: Runtime) -> None:
    blue = saved(sessions, runtime, "Why is the Sky blue?", 'He said "no" AND left')
    tokyo = saved(sessions, runtime, "東京の天気は?", "100%_sure")
    thought = start(runtime, user("a"), reasoning("secret thoughts"), answer("b"))
    thought.title = "Named garden"
    sessions.save(thought)

    def found(text: str) -> list[str]:
        return [one.chat.id for one in sessions.search(text)]

    assert found("sky") == found("SKY blue") == found("the kY") == [blue.id]
    assert found("sky red") == []
    assert found('"no" and') == found("he") == [blue.id]
    assert found("東京") == found("京の天気") == found("100%_") == [tokyo.id]
    assert found("%") == [tokyo.id]
    assert found("garden") == [thought.id]
    assert found("secret thoughts") == found("") == found("OR") == []
    assert len(found("ok")) == 2


def test_a_find_shows_where(sessions: Sessions, runtime: Runtime) -> None:
    saved(sessions, runtime, "x " * 100 + "needle\nin " + "y " * 100)

    [one] = sessions.search("needle")

    assert one.snippet.startswith("…x x") and one.snippet.endswith("y y…")
    assert "x needle in y" in one.snippet


def test_deleting_leaves_nothing_behind(sessions: Sessions, runtime: Runtime) -> None:
    kept = saved(sessions, runtime, "keep this")
    texts = [f"Xylophone quartz {n} " + "padding " * 200 for n in range(20)]
    chat = saved(sessions, runtime, *texts)
    assert b"quartz" in bytes_of(sessions.path.parent)
    before = sessions.path.stat().st_size

    assert sessions.delete(chat.id[:9]) == chat.id

    assert b"quartz" not in bytes_of(sessions.path.parent)
    assert sessions.path.stat().st_size < before
    assert [s.id for s in sessions.list()] == [kept.id]
    assert sessions.search("quartz") == ()
    with pytest.raises(SessionError, match="no chat has an id that begins with"):
        sessions.load(chat.id)


def test_the_index_keeps_no_letters_of_what_was_deleted(
    tmp_path: Path, runtime: Runtime
) -> None:
    sessions = Sessions.open(tmp_path / "c.sqlite3")
    saved(sessions, runtime, "keep this")
    sessions.delete(saved(sessions, runtime, "quartz").id)

    with closing(sqlite3.connect(sessions.path)) as db:
        db.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, row)")
        terms = {row[0] for row in db.execute("SELECT term FROM temp.terms")}
        db.execute("INSERT INTO words (words) VALUES ('integrity-check')")

    assert "kee" in terms and not terms & {"qua", "uar", "art", "rtz"}


def test_a_chat_without_messages_is_not_kept(
    sessions: Sessions, runtime: Runtime
) -> None:
    chat = start(runtime)
    sessions.save(chat)
    assert sessions.list() == ()
    chat.on_change = sessions.save
    list(chat.send("hi"))
    chat.undo()
    assert sessions.list() == ()
    list(chat.send("hi again"))
    assert [s.title for s in sessions.list()] == ["hi again"]


def test_an_id_may_be_shortened_while_it_is_one_chat(
    sessions: Sessions, runtime: Runtime
) -> None:
    chats = [saved(sessions, runtime, "a"), saved(sessions, runtime, "b")]
    for chat, id in zip(chats, ("abc1", "abc2"), strict=True):
        chat.id = id
        sessions.save(chat)

    assert sessions.find("abc1") == "abc1"
    for id in ("abc", ""):
        with pytest.raises(SessionError, match="chats have an id that begins with"):
            sessions.find(id)
    with pytest.raises(SessionError, match="no chat has an id that begins with `%`"):
        sessions.find("%")


CHANGES = st.lists(
    st.tuples(st.sampled_from(["say", "cut", "edit"]), st.integers(0, 9), st.text()),
    max_size=12,
)


@settings(max_examples=15, deadline=None)
@given(changes=CHANGES)
def test_whatever_is_changed_the_disk_has_it(
    changes: list[tuple[str, int, str]],
    tmp_path_factory: pytest.TempPathFactory,
    runtime: Runtime,
) -> None:
    sessions = Sessions.open(tmp_path_factory.mktemp("s") / "c.sqlite3")
    chat = start(runtime, user("begin"))
    for what, place, text in changes:
        at = 1 + place % len(chat.messages)
        if what == "say":
            chat.messages += [user(text), answer(text)]
        elif what == "cut":
            del chat.messages[at:]
        elif at < len(chat.messages):
            chat.messages[at] = replace(chat.messages[at], content=text)
        sessions.save(chat)
        assert sessions.load(chat.id) == chat.to_json()


def test_a_chat_is_exported_as_markdown(runtime: Runtime) -> None:
    chat = start(
        runtime,
        user("Why?\n\nReally."),
        reasoning("Hm ``` hm."),
        preamble("I look."),
        tool_call("look", '{"at": "sky"}'),
        tool_result("look", "```\n````code\n"),
        answer("Because **so**."),
        developer("Be brief."),
        user("Thanks"),
        system="Be kind.",
        effort="low",
    )

    text = as_markdown(chat.to_json())

    assert (
        text
        == f"""# Why?

{chat.updated:%Y-%m-%d %H:%M} UTC, effort low

**Instructions**

```
Be kind.
```

## You

Why?

Really.

## gpt-oss

<details><summary>Reasoning</summary>

````
Hm ``` hm.
````

</details>

I look.

Calls `look`:

```json
{{"at": "sky"}}
```

Result of `look`:

`````
```
````code
`````

Because **so**.

(developer message)

## You

Thanks
"""
    )
    with pytest.raises(PromptError, match="not a saved chat"):
        as_markdown({})
