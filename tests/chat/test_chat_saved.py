"""A chat is written as JSON and read back, or refused with a reason."""

import json
from typing import Any

import pytest

from mlx_gptoss import load
from mlx_gptoss.chat import Chat
from mlx_gptoss.errors import ConfigError, PromptError
from mlx_gptoss.harmony.messages import (
    Message,
    ResponseFormat,
    ToolDescription,
    ToolNamespace,
    answer,
    developer,
    system,
    user,
)
from tests.support.adapters import random_adapter
from tests.support.chat_history import CALL, GREEDY, LOOK, ONE, said, start
from tests.support.fakes import answering


def test_reading_what_was_written_gives_the_same_chat() -> None:
    with answering(CALL, ONE) as runtime:
        chat = start(runtime, tools=[LOOK], system="s", effort="low")
        chat.messages += [
            system(
                "low", namespaces=[ToolNamespace("n", "d", (ToolDescription("t"),))]
            ),
            Message(
                "developer",
                developer(
                    "d", tools=[ToolDescription("f", "d", {"type": "object"})]
                ).content,
            ),
            developer(response_formats=[ResponseFormat("r", {"type": "object"})]),
            user("lone \ud800 surrogate", name="Ann"),
            answer("a"),
        ]
        list(chat.send("Look!"))
        chat.title = "Named"

        text = json.dumps(chat.to_json())
        again = Chat.from_json(runtime, text, tools=[LOOK], params=GREEDY)

        assert again.to_json() == chat.to_json()
        assert again.conversation == chat.conversation
        assert said(again.submit_result("call_1", "sun")) == "One."
        louder = Chat.from_json(runtime, chat.to_json(), effort="high")
        assert louder.effort == "high"


def test_a_chat_saved_before_endings_were_is_read() -> None:
    data = wrong(version=1)
    with answering() as runtime:
        again = Chat.from_json(runtime, data)

        assert again.to_json() == data | {"version": 2}


def test_a_chat_keeps_the_name_of_its_adapter() -> None:
    data = wrong(version=3, adapter="french")
    with answering() as runtime:
        again = Chat.from_json(runtime, data)  # which has no adapter
        assert again.adapter is None
        assert again.to_json() == {
            key: value for key, value in data.items() if key != "adapter"
        } | {"version": 2}

    with load("demo") as runtime:
        runtime.add_adapter(random_adapter(runtime.config, 1, "french"))
        again = Chat.from_json(runtime, data)
        assert again.adapter == "french"
        assert again.to_json() == data
        assert Chat.from_json(runtime, data, adapter=None).adapter is None
        assert Chat.from_json(runtime, wrong()).adapter is None


def test_a_chat_answers_with_the_active_adapter_unless_it_has_its_own() -> None:
    with load("demo") as runtime:
        for seed, name in enumerate(("one", "two")):
            runtime.add_adapter(random_adapter(runtime.config, seed, name))
        follows, fixed = start(runtime), start(runtime, adapter="two")
        runtime.use_adapter("one")
        assert (follows.adapter, fixed.adapter) == ("one", "two")
        fixed.adapter = None
        assert (fixed.adapter, fixed.branch().adapter) == (None, None)
        with pytest.raises(ConfigError, match="no adapter `three` is loaded"):
            fixed.adapter = "three"


def wrong(**changes: Any) -> dict[str, Any]:
    with answering() as runtime:
        chat = start(runtime)
        chat.messages = [user("hi")]
        return chat.to_json() | changes


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("{}", "it lacks `created`"),
        ("[1]", "it is not a JSON object"),
        ("nonsense", "nor JSON"),
        (
            wrong(version=5),
            "by a newer mlx-gptoss .format 5, this one reads 4.: update",
        ),
        (wrong(format="x"), "`format` is `x` 2"),
        (wrong(colour="red"), "unknown key `colour`"),
        (wrong(messages="hi"), "`messages` of it is str"),
        (wrong(messages=[{"role": "user"}]), r"messages\[0\] lacks `content`"),
        (
            wrong(messages=[{"role": "cat", "content": ""}]),
            r"messages\[0\]: role `cat`",
        ),
        (wrong(messages=[{"role": "user", "content": {"a": {}}}]), "neither text nor"),
        (wrong(messages=[{"role": "user", "content": {}}]), "neither text nor"),
        (
            wrong(messages=[{"role": "developer", "content": {"developer": {}}}]),
            r"messages\[0\]: 'namespaces'",
        ),
        (wrong(effort="huge"), "effort `huge` is unknown"),
        (wrong(created="yesterday"), "`created` is not a time"),
        (wrong(updated="2026-01-02T03:04:05"), "`updated` has no time zone"),
        (wrong(forgotten=2), "`forgotten` is 2 of 1"),
        (wrong(forgotten=True), "`forgotten` of it is bool"),
        (wrong(waiting=[{"id": "call_1"}]), r"waiting\[0\] lacks `arguments`"),
    ],
)
def test_what_is_no_saved_chat_is_refused_with_the_reason(
    data: dict[str, Any] | str, problem: str
) -> None:
    with answering() as runtime, pytest.raises(PromptError, match=problem):
        Chat.from_json(runtime, data)


def test_notes_are_kept_with_a_chat_and_with_its_branches() -> None:
    data = wrong(version=4, adapter=None, notes={"family": "a", "tools": ["python"]})
    with answering() as runtime:
        again = Chat.from_json(runtime, data)
        assert again.to_json() == data
        other = again.branch()
        other.notes["family"] = "b"
        assert again.notes["family"] == "a"
        plain = Chat.from_json(runtime, data, notes={})
        assert plain.to_json()["version"] == 2
        with pytest.raises(PromptError, match="lacks `notes`"):
            Chat.from_json(runtime, wrong(version=4, adapter=None))
