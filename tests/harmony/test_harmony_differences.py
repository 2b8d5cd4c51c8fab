"""Each row of the tables in harmony/README.md, run on both sides.

The tables are the test data: both columns are compared with what each side does.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import openai_harmony
import pytest

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.render.encode import encode_pieces
from mlx_gptoss.harmony.render.prompt import (
    render_message,
    render_messages,
    training_pieces,
)
from tests.support.harmony_strategies import oracle_conversation, oracle_message
from tests.support.readme_tables import code, table
from tests.support.vocabulary import O200k, is_oss_harmony, oracle

VOCABULARY = O200k()
ASSISTANT = openai_harmony.Role.ASSISTANT


# TypeScript

SCHEMAS = table("| schema | root |")


@pytest.mark.parametrize("row", SCHEMAS, ids=lambda row: row[0])
def test_a_schema_is_written_as_the_table_says(row: list[str]) -> None:
    root = json.loads("".join(code(row[1])) or "{}")
    field = {"x": json.loads(code(row[0])[0])}
    schema = {"type": "object", "properties": field, "required": ["x"], **root}
    message = m.developer(tools=[m.ToolDescription("f", "", schema)])
    sides = [
        oracle().decode(oracle().render(oracle_message(message))),
        VOCABULARY.decode(render_message(message, VOCABULARY)),
    ]

    assert [type_of_field(text) for text in sides] == [code(row[2])[0], code(row[3])[0]]


def type_of_field(text: str) -> str:
    found = re.search(r"\{\nx:(.*?),?\n,?\n?\}\) => any;", text, re.DOTALL)
    assert found is not None, text
    return " ".join(found[1].split())


# Rendering

CALL = m.tool_call("Web Search", "{}")
TURNS = [
    m.user("q1"),
    m.reasoning("c1"),
    m.answer("f1"),
    m.user("q2"),
    m.reasoning("c2"),
    m.answer("f2"),
    m.user("q3"),
]
LOOP = [*TURNS[:5], m.tool_call("f", "{}"), m.tool_result("f", "r")]
FORMAT = m.ResponseFormat("shop", {"type": "object"}, "What to buy")
LONG_FLOAT = 0.9097462559682401
DEEP = 100


def theirs(given: list[m.Message]) -> str:
    """Return the library's prompt, after its own dropping, or the word `error`."""
    try:
        conversation = oracle_conversation(given)
        ids = oracle().render_conversation_for_completion(conversation, ASSISTANT)
    except ValueError:
        return "error"
    return oracle().decode(ids)


def ours(given: list[m.Message]) -> str:
    try:
        return VOCABULARY.decode(render_messages(given, VOCABULARY))
    except PromptError:
        return "error"


def trained(given: list[m.Message]) -> tuple[str, str]:
    conversation = oracle_conversation(given)
    library = oracle().render_conversation_for_training(conversation)
    own = encode_pieces(training_pieces(given), VOCABULARY)
    return oracle().decode(library), VOCABULARY.decode(own)


def tool(schema: Any) -> list[m.Message]:
    field = {"type": "object", "properties": {"x": schema}}
    return [m.developer(tools=[m.ToolDescription("f", "", field)])]


def default(value: Any) -> tuple[str, str]:
    given = tool({"type": "number", "default": value})
    return tuple(text.split("default: ")[-1].split("\n")[0] for text in both(given))  # type: ignore[return-value]


def both(given: list[m.Message]) -> tuple[str, str]:
    return theirs(given), ours(given)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def check_analysis_of_earlier_turns() -> None:
    library, own = both(TURNS)
    assert [mark in library for mark in ("c1", "c2")] == [False, True]
    assert [mark in own for mark in ("c1", "c2")] == [False, False]


def check_analysis_in_a_tool_loop() -> None:
    library, own = both(LOOP)
    assert [mark in library for mark in ("c1", "c2")] == [True, True]
    assert [mark in own for mark in ("c1", "c2")] == [False, True]


def check_analysis_in_training() -> None:
    library, own = trained(TURNS[:3])
    assert ("c1" in library, "c1" in own) == (False, True)


def check_tool_names() -> None:
    library, own = both([CALL])
    assert " to=functions.Web Search" in library and " to=functions.Web_Search" in own


def check_two_tools_of_one_name() -> None:
    given = [m.developer(tools=[m.ToolDescription("f"), m.ToolDescription("f")])]
    library, own = both(given)
    assert (library.count("type f = "), own) == (2, "error")


def check_response_formats() -> None:
    own = ours([m.developer("Hi", response_formats=[FORMAT])])
    assert not hasattr(openai_harmony.DeveloperContent, "with_response_formats")
    assert '# Response Formats\n\n## shop\n\n// What to buy\n{"type":"object"}' in own


def check_half_a_surrogate_pair() -> None:
    library, own = both([m.user("a\ud83d")])
    assert (library, "a\ufffd" in own) == ("error", True)


def check_a_default_that_is_no_number() -> None:
    library, own = default(float("nan"))
    assert (library, own) == ("error", "null")


def check_a_long_float() -> None:
    library, own = default(LONG_FLOAT)
    assert (float(library) == LONG_FLOAT, own) == (False, repr(LONG_FLOAT))


def check_a_deep_schema() -> None:
    library, own = both(tool(nested(DEEP)))
    assert ("any[]" in library, "any[]" in own) == (False, True)
    assert "string" + "[]" * DEEP in library
    assert theirs(tool(nested(2 * DEEP))) == "error"


def check_the_recipient_on_commentary() -> None:
    library, own = both([m.tool_call("f", "{}")])
    behind = "<|channel|>commentary to=functions.f"
    assert (behind in library) == is_oss_harmony()
    assert "assistant to=functions.f<|channel|>commentary" in own
    ids = render_message(m.tool_call("f", "{}"), VOCABULARY, recipient_in="channel")
    assert behind in VOCABULARY.decode(ids)


def check_a_bare_content_type() -> None:
    library, own = both([m.Message("assistant", "{}", "final", None, "json")])
    constrained = "final <|constrain|>json<|message|>"
    assert (constrained in library) == is_oss_harmony()
    assert "final json<|message|>" in own


RENDERED: dict[str, Callable[[], None]] = {
    "analysis of earlier turns": check_analysis_of_earlier_turns,
    "analysis of earlier turns in a tool loop": check_analysis_in_a_tool_loop,
    "analysis in training examples": check_analysis_in_training,
    "tool names": check_tool_names,
    "two tools of one name": check_two_tools_of_one_name,
    "response formats": check_response_formats,
    "half a surrogate pair": check_half_a_surrogate_pair,
    "a default that is no number": check_a_default_that_is_no_number,
    "a long float in a schema": check_a_long_float,
    "schema nested deeper than 64": check_a_deep_schema,
    "recipient on commentary": check_the_recipient_on_commentary,
    "bare content type": check_a_bare_content_type,
}


@pytest.mark.parametrize(
    "row", table("| what | openai-harmony"), ids=lambda row: row[0]
)
def test_rendering_differs_as_the_table_says(row: list[str]) -> None:
    RENDERED[row[0]]()


def test_the_table_of_rendering_is_whole() -> None:
    assert {row[0] for row in table("| what | openai-harmony")} == set(RENDERED)
