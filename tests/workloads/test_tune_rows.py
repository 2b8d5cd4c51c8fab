"""Rows that cannot be learned from are refused, with what to do."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import PromptError
from mlx_gptoss.workloads.tune.documents import Renderer
from mlx_gptoss.workloads.tune.examples import TrainingExample
from mlx_gptoss.workloads.tune.row_forms import read_example
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from tests.support.tune_conversations import chat_row, harmony_row, talks
from tests.support.vocabulary import O200k

VOCABULARY = O200k()
SETTINGS = CorpusSettings()
ASKED = {"role": "user", "content": "q"}
ANSWERED = {"role": "assistant", "content": "f"}


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"function": function, **more}]}


def tool(name: str = "get_weather") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


WRONG: dict[str, tuple[Any, str]] = {
    "a number": (3, "is not a JSON object"),
    "no known key": ({"a": 1, "b": 2}, "its keys are `a`, `b`"),
    "an empty object": ({}, "no keys"),
    "no messages": ({"messages": []}, "no list of messages in `messages`"),
    "a message that is a text": ({"messages": ["hi"]}, r"`messages\[0\]`"),
    "an unknown role": ({"messages": [{"role": "bot"}]}, "role `bot`"),
    "nothing of the assistant": ({"messages": [ASKED]}, "no message of the assistant"),
    "an empty answer": (
        {"messages": [ASKED, {"role": "assistant", "content": ""}]},
        r"messages\[1\] is the assistant's and has neither text nor calls",
    ),
    "a prompt alone": ({"prompt": "q"}, "`prompt` but no `completion`"),
    "a completion alone": ({"completion": "q"}, "`completion` but no `prompt`"),
    "a prompt of text and a completion of messages": (
        {"prompt": "q", "completion": [ANSWERED]},
        "no list of messages in `prompt`",
    ),
    "a text that is a number": ({"text": 3}, "`text` that is no text"),
    "an empty text": ({"text": ""}, "empty `text`"),
    "typed control tokens": (
        {"text": "<|start|>user<|message|>q<|end|>"},
        "control tokens",
    ),
    "an image": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
                ANSWERED,
            ]
        },
        "has a `image_url`",
    ),
    "a call without a result": (
        {"messages": [ASKED, called({}), ANSWERED]},
        "call without a result",
    ),
    "a result without a call": (
        {
            "messages": [
                ASKED,
                {"role": "tool", "tool_call_id": "x", "content": "r"},
                ANSWERED,
            ]
        },
        "result of no call",
    ),
    "arguments that are no JSON": (
        {"messages": [ASKED, called("{city: Oslo}")]},
        "call of `get_weather` whose `arguments`",
    ),
    "arguments that are a list": (
        {"messages": [ASKED, called("[1]")]},
        "`arguments` are not a JSON object",
    ),
    "no arguments": ({"messages": [ASKED, called("")]}, "write `{}`"),
    "an unknown effort": (
        {"messages": [ASKED, ANSWERED], "reasoning_effort": "extreme"},
        "reasoning effort `extreme`",
    ),
    "tools that are no list": (
        {"messages": [ASKED, ANSWERED], "tools": {"a": 1}},
        "`tools` that are not a list",
    ),
    "tools that are no JSON": (
        {"messages": [ASKED, ANSWERED], "tools": "get_weather"},
        "`tools` that are not JSON",
    ),
    "a weight of a half": (
        {"messages": [ASKED, {**ANSWERED, "weight": 0.5}]},
        "`weight` other than 0 and 1",
    ),
    "harmony without a role": (
        {"messages": [{"channel": "final", "content": "f"}]},
        "no `role`",
    ),
    "harmony with a channel that is a number": (
        {"messages": [{"role": "assistant", "channel": 3, "content": "f"}]},
        "`channel` that is no text",
    ),
    "harmony with an image": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "channel": "final",
                    "content": [{"type": "image"}],
                }
            ]
        },
        "neither text nor one of",
    ),
    "harmony with tools that are a list": (
        {
            "messages": [
                {
                    "role": "developer",
                    "content": [{"type": "developer_content", "tools": [tool()]}],
                }
            ]
        },
        "`tools` that is no JSON object",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_cannot_be_learned_is_refused_with_the_reason(case: str) -> None:
    row, message = WRONG[case]
    with pytest.raises(PromptError, match=message):
        read_example(row, SETTINGS)


def example(row: Any) -> TrainingExample:
    found = read_example(row, SETTINGS)
    assert isinstance(found, TrainingExample)
    return found


def test_arguments_and_tools_may_be_values_or_json() -> None:
    arguments = {"city": "Oslo"}
    rows = [
        {"messages": [ASKED, called(arguments)], "tools": [tool()]},
        {"messages": [ASKED, called('{"city":"Oslo"}')], "tools": json.dumps([tool()])},
    ]

    assert example(rows[0]) == example(rows[1])


def test_a_tool_that_is_not_offered_is_named() -> None:
    row = {"messages": [ASKED, called({})], "tools": [tool("other")]}

    assert example(row).not_offered() == "get_weather"
    assert example({**row, "tools": [tool()]}).not_offered() is None


def test_a_conversation_may_end_with_a_call() -> None:
    messages = example([ASKED, called({})]).messages

    assert messages[-1].recipient == "functions.get_weather"


KEYS = [
    *("messages", "prompt", "completion", "text", "tools", "functions", "weight"),
    *("role", "content", "thinking", "tool_calls", "function", "name", "arguments"),
    *("channel", "recipient", "content_type", "author", "type", "date", "tool_call_id"),
    *("reasoning_effort", "model_identity", "response_format", "chat_template_kwargs"),
    *("instructions", "channel_config", "valid_channels", "parameters", "description"),
]
WORDS = [
    *("user", "assistant", "system", "developer", "tool", "final", "analysis", "text"),
    *("system_content", "developer_content", "functions.f", "low", "{}", "[]", ""),
]
odd_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def odd_rows(draw: st.DrawFn) -> Any:
    """Draw a good row with one value, at any depth, replaced."""
    write = draw(st.sampled_from([chat_row, harmony_row]))
    row: Any = json.loads(json.dumps(write(draw(talks()))))
    inner: Any = row
    while True:
        places = list(inner) if isinstance(inner, dict) else range(len(inner))
        place = draw(st.sampled_from(places))
        nested = isinstance(inner[place], dict | list) and inner[place]
        if not nested or draw(st.integers(0, 4)) == 0:
            inner[place] = draw(odd_values)
            return row
        inner = inner[place]


@settings(deadline=None, max_examples=100)
@given(odd_rows() | odd_values | st.dictionaries(st.sampled_from(KEYS), odd_values))
def test_any_row_is_read_or_refused(row: Any) -> None:
    renderer = Renderer(VOCABULARY, SETTINGS)
    try:
        documents = renderer.documents(read_example(row, SETTINGS))
    except PromptError as error:
        assert str(error)
    else:
        assert all(not document.learned[0] for document in documents)
