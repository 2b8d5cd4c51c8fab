"""Conversation files become messages; errors say what is wrong."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.conversation_file import read_conversation
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.openai_chat import from_chat_messages

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def read(given: Any, **options: Any) -> list[m.Message]:
    """The messages after the system message."""
    return read_conversation(json.dumps(given), **options)[1:]


def turn(**fields: Any) -> list[m.Message]:
    return read([{"role": "assistant", **fields}])


ASSISTANT: dict[str, tuple[dict[str, Any], list[m.Message]]] = {
    "text is the answer": ({"content": "hi"}, [m.answer("hi")]),
    "parts are joined": (
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        [m.answer("a\n\nb")],
    ),
    "reasoning comes first, once": (
        {"content": "hi", "reasoning": "r", "reasoning_content": "r"},
        [m.reasoning("r"), m.answer("hi")],
    ),
    "thinking is reasoning": (
        {"content": "hi", "thinking": "t"},
        [m.reasoning("t"), m.answer("hi")],
    ),
    "text beside calls is a preamble": (
        {"content": "wait", "tool_calls": [CALL]},
        [m.preamble("wait"), m.tool_call("f", "{}")],
    ),
    "arguments may be values": (
        {"tool_calls": [{"function": {"name": "f", "arguments": {"a": [1]}}}]},
        [m.tool_call("f", '{"a":[1]}')],
    ),
    "a refusal is an answer": (
        {"content": None, "refusal": "no"},
        [m.answer("no")],
    ),
    "thoughts and refusals in parts": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "r"}]},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "refusal", "refusal": "no"},
            ]
        },
        [m.reasoning("r"), m.answer("no")],
    ),
    "thoughts of a field go before those in parts": (
        {"reasoning": "r", "content": [{"type": "reasoning", "text": "s"}]},
        [m.reasoning("r")],
    ),
    "a picture that it made": (
        {"content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        [m.answer("[image, not shown: gpt-oss reads text]")],
    ),
    "nothing is nothing": ({"content": None}, []),
}


@pytest.mark.parametrize("case", ASSISTANT)
def test_an_assistant_message_is_taken_apart(case: str) -> None:
    fields, expected = ASSISTANT[case]

    assert turn(**fields) == expected


def test_results_find_their_calls_by_id_by_name_and_in_order() -> None:
    def call(call_id: str | None, name: str) -> dict[str, Any]:
        return {"id": call_id, "function": {"name": name, "arguments": "{}"}}

    calls = [call("1", "f"), call("2", "g"), call("3", "i"), call(None, "h")]
    given = [
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "2", "content": "G"},
        {"role": "function", "name": "i", "content": "I"},
        {"role": "tool", "tool_call_id": "lost", "name": "h", "content": "H"},
        {"role": "tool", "content": "F"},
    ]

    assert read(given)[4:] == [
        m.tool_result("f", "F"),
        m.tool_result("g", "G"),
        m.tool_result("i", "I"),
        m.tool_result("h", "H"),
    ]


def test_a_call_and_its_result_in_their_older_form() -> None:
    called = {"name": "f", "arguments": '{"a":1}'}
    given = [
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": "f", "content": "F"},
    ]

    assert read(given) == [m.tool_call("f", '{"a":1}'), m.tool_result("f", "F")]


def test_a_file_may_end_with_a_call() -> None:
    given = [{"role": "assistant", "tool_calls": [CALL]}]

    assert read(given) == [m.tool_call("f", "{}")]
    with pytest.raises(PromptError, match=r"no result of messages\[0\].*`a`"):
        from_chat_messages(given)


def test_options_go_before_what_the_file_says() -> None:
    given = {"messages": [], "reasoning_effort": "high", "date": "2026-01-01"}
    text = json.dumps(given)

    assert read_conversation(text) == [m.system("high", conversation_date="2026-01-01")]
    assert read_conversation(text, effort="low", conversation_date="today") == [
        m.system("low", conversation_date="today")
    ]


def test_a_response_format_without_a_schema_is_not_written() -> None:
    given = {"messages": [], "response_format": {"type": "json_object"}}

    assert read(given) == []


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "this is not JSON"),
    "no messages": ({"text": "hi"}, "there are no messages"),
    "a message that is text": (["hi"], r"messages\[0\] is not a JSON object"),
    "an unknown role": ([{"role": "robot"}], r"messages\[0\] has role `robot`"),
    "no role": ([{"content": "hi"}], r"messages\[0\] has role `None`"),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url"}]}],
        r"messages\[0\] has content of type `image_url`: gpt-oss reads text only",
    ),
    "content that is a number": ([{"role": "user", "content": 3}], "neither text"),
    "a call without a name": (
        [{"role": "assistant", "tool_calls": [{"function": {}}]}],
        r"messages\[0\]\.tool_calls\[0\] has no `function\.name`",
    ),
    "a result of no call": ([{"role": "tool", "content": "r"}], "result of no call"),
    "tools that are no list": ({"messages": [], "tools": {"f": 1}}, "`tools` is not a"),
    "a tool that is no function": (
        {"messages": [], "tools": [{"type": "web_search"}]},
        r"tools\[0\] has no `name`: only functions",
    ),
    "a schema that is text": (
        {
            "messages": [],
            "response_format": {"type": "json_schema", "json_schema": {"schema": "x"}},
        },
        "`schema` of `response_format.json_schema`",
    ),
    "an unknown effort": ({"messages": [], "reasoning_effort": "xl"}, "`xl` is unkn"),
    "a broken saved chat": (
        dict.fromkeys(["effort", "system", "identity", "date"])
        | {"messages": [{"a": 1}]},
        "this is not a saved chat",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_read_is_named(case: str) -> None:
    given, message = WRONG[case]
    text = given if isinstance(given, str) else json.dumps(given)

    with pytest.raises(PromptError, match=message):
        read_conversation(text)


def saved_chat(*messages: m.Message, **changed: Any) -> dict[str, Any]:
    time = datetime(2026, 1, 2, tzinfo=UTC)
    chat = saved.SavedChat(
        id="1",
        title=None,
        created=time,
        updated=time,
        effort="low",
        system=None,
        identity="I",
        date="",
        forgotten=0,
        messages=messages,
        waiting=(),
    )
    return saved.to_json(chat) | changed


REFUSED_SAVED_CHATS: dict[str, dict[str, Any]] = {
    "no format": {key: value for key, value in saved_chat().items() if key != "format"},
    "a newer version": saved_chat(version=4),
    "an unknown key": saved_chat(colour="red"),
    "no messages": {
        key: value for key, value in saved_chat().items() if key != "messages"
    },
    "a message without a role": saved_chat(messages=[{"content": "hi"}]),
    "content that is a number": saved_chat(messages=[{"role": "user", "content": 1}]),
    "a system message of text in a dict": saved_chat(
        messages=[{"role": "system", "content": {"text": "hi"}}]
    ),
    "more forgotten than there are": saved_chat(forgotten=2),
}


@pytest.mark.parametrize("case", REFUSED_SAVED_CHATS)
def test_a_saved_chat_is_refused_in_the_words_of_its_reader(case: str) -> None:
    given = REFUSED_SAVED_CHATS[case]
    with pytest.raises(PromptError) as expected:
        saved.from_json(given)

    with pytest.raises(PromptError) as refused:
        read_conversation(json.dumps(given))

    assert str(refused.value) == str(expected.value)


def test_a_saved_system_message_is_read_as_its_reader_reads_it() -> None:
    messages = [m.system("high"), m.developer("Be brief."), m.user("hi")]
    given = saved_chat(*messages)

    assert list(saved.from_json(given).messages) == messages
    assert read(given) == messages


def test_a_saved_chat_may_be_given_its_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]

    assert read_conversation(json.dumps(saved_chat(tools=tools))) == [
        m.system("low", identity="I"),
        m.developer(tools=[m.ToolDescription("f")]),
    ]


def test_without_a_system_message_there_is_no_developer_message() -> None:
    assert from_chat_messages([{"role": "user", "content": "hi"}]) == [
        m.system("medium"),
        m.user("hi"),
    ]
