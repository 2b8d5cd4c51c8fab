"""Tools that are called with plain text: how they are shown, read, and bound."""

import re
from collections.abc import Iterator

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import ToolCall
from mlx_gptoss.harmony.messages import (
    Message,
    TextGrammar,
    developer,
    text_call,
    text_tool,
)
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import answering, byte_tokenizer, token_ids

PATCH = text_tool("apply_patch", "Edit files.")
WRITTEN = '*** Begin Patch\n{"a": 1}\n*** End Patch'
CALL = f"<|channel|>commentary to=functions.apply_patch<|message|>{WRITTEN}<|call|>"
LARK = """start: "city: " name LF
name: /[A-Z][a-z]{1,9}/
%import common.LF
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


def test_the_model_reads_it_as_a_function_of_a_string() -> None:
    tokenizer = byte_tokenizer()
    shown = tokenizer.decode(render_messages([developer(tools=[PATCH])], tokenizer))

    assert "// Edit files.\ntype apply_patch = (_: string) => any;" in shown


def test_a_call_gives_the_text_as_it_was_written() -> None:
    tokenizer = byte_tokenizer()
    parser = Parser(tokenizer, tools=[PATCH])
    events = [e for token in token_ids(CALL, tokenizer) for e in parser.feed(token)]

    assert [event for event in events if isinstance(event, ToolCall)] == [
        ToolCall("call_1", "apply_patch", WRITTEN)
    ]
    assert (parser.messages, parser.repairs) == (
        [text_call("apply_patch", WRITTEN)],
        [],
    )


def test_a_header_cannot_announce_json() -> None:
    wished = CALL.replace("<|message|>", " <|constrain|>json<|message|>")
    chat = Chat(answering(wished.replace("*** Begin Patch\n", "")), tools=[PATCH])
    list(chat.send("go"))

    assert [one.content_type for one in chat.messages if isinstance(one, Message)] == [
        None
    ] * len(chat.messages)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (TextGrammar("lark", LARK), r"city: [A-Z][a-z]{1,9}\n"),
        (TextGrammar("regex", "[0-9]{3}-[0-9]{2}"), "[0-9]{3}-[0-9]{2}"),
    ],
    ids=lambda one: getattr(one, "kind", ""),
)
def test_a_grammar_binds_the_text(
    demo: Runtime, grammar: TextGrammar, pattern: str
) -> None:
    chat = Chat(
        demo,
        # The name of a tool that the demo model likes to call.
        tools=[text_tool("get_weather", "Gets the weather for a city.", grammar)],
        constraints=Constraints(tool_choice="get_weather"),
        params=SamplingParams(max_tokens=200, temperature=0),
    )
    calls = [
        one
        for one in chat.send("What is the weather in Oslo?")
        if isinstance(one, ToolCall)
    ]

    assert calls
    assert all(re.fullmatch(pattern, call.arguments) for call in calls)


def test_a_grammar_that_cannot_be_kept_is_refused(demo: Runtime) -> None:
    broken = text_tool("t", "", TextGrammar("lark", "start: missing"))

    with pytest.raises(SchemaError, match=r"`functions\.t` cannot be enforced"):
        list(Chat(demo, tools=[broken]).send("go"))
