"""Anthropic's content blocks become Harmony messages, or are ignored or refused."""

from typing import Any

import pytest

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.messages.blocks import read_messages, system_text
from mlx_gptoss.api.messages.wire import InputMessage
from mlx_gptoss.api.sealed import seal
from mlx_gptoss.harmony import messages as m

USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "42"}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def read(*given: tuple[str, Any], **options: Any) -> Any:
    messages = [InputMessage(role=role, content=said) for role, said in given]  # pyright: ignore[reportArgumentType]
    return read_messages(messages, **options)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("user", "hi")], [m.user("hi")]),
        ([("user", [text("a"), text("b")])], [m.user("a\n\nb")]),
        (
            [("user", "hi"), ("system", "new rule"), ("user", "go")],
            [m.user("hi"), m.developer("new rule"), m.user("go")],
        ),
        (
            [
                (
                    "assistant",
                    [
                        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                        text("I look."),
                        USE,
                    ],
                ),
                ("user", [RESULT, text("and?")]),
            ],
            [
                m.reasoning("Hm."),
                m.preamble("I look."),
                m.tool_call("f", '{"a": 1}'),
                m.tool_result("f", "42"),
                m.user("and?"),
            ],
        ),
        (
            [
                (
                    "assistant",
                    [{"type": "thinking", "thinking": "", "signature": seal("a")}],
                )
            ],
            [m.reasoning("a")],
        ),
        ([("assistant", [{"type": "redacted_thinking", "data": "foreign"}])], []),
        ([("assistant", [text("a"), text("b")])], [m.answer("a\n\nb")]),
        (
            [("assistant", [text("a"), text("b"), USE]), ("user", [RESULT])],
            [
                m.preamble("a"),
                m.preamble("b"),
                m.tool_call("f", '{"a": 1}'),
                m.tool_result("f", "42"),
            ],
        ),
        (
            [
                ("assistant", [USE]),
                ("user", [{**RESULT, "is_error": True, "content": [text("no")]}]),
            ],
            [m.tool_call("f", '{"a": 1}'), m.tool_result("f", "Error: no")],
        ),
        (
            [
                (
                    "user",
                    [
                        {
                            "type": "document",
                            "source": {"type": "text", "data": "a file"},
                        }
                    ],
                )
            ],
            [m.user("a file")],
        ),
    ],
)
def test_blocks_are_read_as_messages(given: Any, expected: list[m.Message]) -> None:
    found = read(*given).messages
    assert [one.text.replace(" ", "") for one in found] == [
        one.text.replace(" ", "") for one in expected
    ]
    assert [(one.role, one.channel, one.name, one.recipient) for one in found] == [
        (one.role, one.channel, one.name, one.recipient) for one in expected
    ]


def test_blocks_of_others_are_passed_over_and_counted() -> None:
    found = read(("assistant", [{"type": "server_tool_use"}, text("ok")]))

    assert (found.messages, found.ignored) == ([m.answer("ok")], ["server_tool_use"])


def test_reasoning_is_restored_before_calls() -> None:
    found = read(
        ("assistant", [USE]),
        ("user", [RESULT]),
        restore=lambda said, calls: [m.reasoning(",".join(calls)), *said],
    )

    assert found.messages[0] == m.reasoning("t1")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([("user", [{"type": "image", "source": {}}])], "messages[0].content[0]"),
        ([("user", [{"type": "text"}])], "messages[0].content[0]"),
        ([("user", [{}])], "messages[0].content[0]"),
        ([("user", [RESULT])], "messages[0].content[0].tool_use_id"),
        ([("assistant", [{**USE, "name": 5}])], "messages[0].content[0].name"),
        (
            [("assistant", [USE]), ("user", [{**RESULT, "content": 5}])],
            "messages[1].content[0].content",
        ),
    ],
)
def test_what_cannot_be_read_is_named(given: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(*given)

    assert (caught.value.status, caught.value.param) == (400, param)


def test_system_may_come_in_blocks() -> None:
    assert system_text([text("a"), text("b")]) == "a\n\nb"
    assert system_text(None) == ""
    with pytest.raises(ApiError):
        system_text([{"type": "image"}])
