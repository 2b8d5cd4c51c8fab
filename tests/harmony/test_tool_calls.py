"""Tool calls: which are accepted, on which channel, and with which arguments."""

from typing import Any

import pytest

from mlx_gptoss.harmony import events as e
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.parse.argument_errors import argument_errors
from mlx_gptoss.harmony.parse.arguments import parse_arguments
from tests.harmony.test_harmony_parse import parse
from tests.support.parser_account import BUILT_IN
from tests.support.vocabulary import ids_of

# Calls


CALL = "<|channel|>{} to=functions.f<|message|>{}<|call|>"


def calls(stream: str, **options: Any) -> list[str]:
    _, events = parse(ids_of(stream), **options)
    return [event.name for event in events if isinstance(event, e.ToolCall)]


@pytest.mark.parametrize(
    ("channel", "options", "expected"),
    [
        ("commentary", {"tools": ["f"]}, ["f"]),
        ("analysis", {"tools": ["f"]}, ["f"]),
        ("final", {"tools": ["f"]}, ["f"]),
        ("analysis", {}, ["f"]),
        ("analysis", {"tools": ["f"], "calls_on_analysis": False}, []),
        ("commentary", {"tools": ["f"], "calls_on_analysis": False}, ["f"]),
        ("commentary", {"tools": ["g"]}, []),
        ("analysis", {"tools": []}, []),
    ],
)
def test_a_call_is_accepted_by_channel_and_offer(
    channel: str, options: dict[str, Any], expected: list[str]
) -> None:
    assert calls(CALL.format(channel, "{}"), **options) == expected


CODE = "if x:\n    print({'a': [1]})"


@pytest.mark.parametrize(
    "header",
    [
        " to=python<|channel|>analysis code",
        "<|channel|>analysis to=python code",
        "<|channel|>analysis to=python",
        "<|channel|>analysis to=python <|constrain|>python",
        "<|channel|>commentary to=python code",
        "<|channel|>analysis to=functions.python code",
    ],
)
def test_code_for_the_python_tool_comes_as_it_is_written(header: str) -> None:
    ids = ids_of(f"{header}<|message|>{CODE}<|call|>")
    parser, events = parse(ids, tools=["f"], built_in=BUILT_IN)
    streamed = [one.text for one in events if isinstance(one, e.ToolCallDelta)]

    assert events[0] == e.ToolCallStarted("call_1", "python")
    assert "".join(streamed) == CODE and len(streamed) > 1
    assert e.ToolCall("call_1", "python", CODE) in events
    assert parser.messages[0].recipient == "python"


def test_the_browser_is_called_on_analysis_with_json() -> None:
    stream = '<|channel|>analysis to=browser.search<|message|>{"query": "x"}<|call|>'
    parser, events = parse(ids_of(stream), tools=[], built_in=BUILT_IN)

    assert events[-2] == e.ToolCall("call_1", "browser.search", '{"query": "x"}')
    assert parser.repairs == []


@pytest.mark.parametrize(
    ("closer", "kind"), [("<|end|>", e.Reasoning), ("<|call|>", e.ToolCallFailed)]
)
def test_a_built_in_tool_that_was_not_offered_is_not_called(
    closer: str, kind: type
) -> None:
    ids = ids_of(f"<|channel|>analysis to=python code<|message|>1 + 1{closer}")
    _, events = parse(ids, tools=["f"])

    assert [type(event) for event in events if isinstance(event, kind | e.ToolCall)]
    assert not [event for event in events if isinstance(event, e.ToolCall)]


CITY = m.ToolDescription(
    "f",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
)


@pytest.mark.parametrize(
    ("channel", "arguments", "expected"),
    [
        ("analysis", '{"city": "Oslo"}', ["f"]),
        ("analysis", '{"city": 3}', []),
        ("analysis", "{}", []),
        ("commentary", "{}", ["f"]),  # the tool itself says what is missing
    ],
)
def test_on_analysis_the_arguments_must_be_what_the_schema_says(
    channel: str, arguments: str, expected: list[str]
) -> None:
    assert calls(CALL.format(channel, arguments), tools=[CITY]) == expected


def test_what_the_schema_says_is_told_to_a_model_that_waits() -> None:
    _, events = parse(ids_of(CALL.format("analysis", "{}")), tools=[CITY])

    assert events[-2] == e.ToolCallFailed("call_1", "f", "{}", "`city` is missing")


def test_a_call_streams_its_arguments_and_numbers_itself() -> None:
    stream = (
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>'
        "<|start|>assistant<|channel|>commentary to=functions.g<|message|>{}<|call|>"
    )
    _, events = parse(ids_of(stream))
    told = [event for event in events if not isinstance(event, e.MessageEnded)]

    assert told == [
        e.ToolCallStarted("call_1", "f"),
        e.ToolCallDelta("call_1", '{"'),
        e.ToolCallDelta("call_1", "a"),
        e.ToolCallDelta("call_1", '":'),
        e.ToolCallDelta("call_1", " "),
        e.ToolCallDelta("call_1", "1"),
        e.ToolCallDelta("call_1", "}"),
        e.ToolCall("call_1", "f", '{"a": 1}'),
        e.ToolCallStarted("call_2", "g"),
        e.ToolCallDelta("call_2", "{}"),
        e.ToolCall("call_2", "g", "{}"),
    ]


NOT_OBJECTS = [
    "null",
    "[1]",
    "{} {}",
    '{"a": NaN}',
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '{"a": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", NOT_OBJECTS, ids=lambda text: text[:12])
def test_arguments_that_are_no_json_object_are_a_problem(text: str) -> None:
    assert parse_arguments(text).problem


def test_a_call_with_unreadable_arguments_fails_with_the_reason() -> None:
    _, events = parse(ids_of(CALL.format("commentary", "[1]")))

    assert events[-2] == e.ToolCallFailed(
        "call_1", "f", "[1]", "the arguments are not a JSON object: this is a number"
    )


def test_true_is_not_one_to_an_enum() -> None:
    schema = {"enum": [1]}

    assert list(argument_errors(1.0, schema)) == []
    assert list(argument_errors(True, schema)) != []
