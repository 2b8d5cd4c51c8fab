"""A Python function becomes a tool, and its errors become text."""

import enum
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.chat.tools import Tool, as_tool
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import ToolDescription
from mlx_gptoss.harmony.parse.argument_errors import argument_errors

KEYS = st.sampled_from(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "a",
        "#/a",
    ]
)


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


def get_weather(
    city: str,
    days: int = 1,
    unit: Unit = Unit.CELSIUS,
    near: list[float] | None = None,
) -> dict[str, Any]:
    """Tell the weather.

    Reads it from a table.

    Args:
        city: The city, as in
            "Paris".
        days (int): How many days.

    Returns:
        The forecast.
    """
    return {"city": city, "days": days, "unit": unit.name, "near": near}


WEATHER_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": 'The city, as in "Paris".'},
        "days": {"type": "integer", "default": 1, "description": "How many days."},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "near": {
            "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]
        },
    },
    "required": ["city"],
}


def test_signature_and_docstring_become_the_description() -> None:
    tool = Tool.from_function(get_weather)

    assert tool.description == ToolDescription(
        "get_weather", "Tell the weather.\n\nReads it from a table.", WEATHER_SCHEMA
    )


def test_annotations_map_to_json_types() -> None:
    def search(
        query: Annotated[str, "What to look for"],
        kind: Literal["web", "news"],
        size: Literal[1, 2],
        tags: set[str],
        scores: dict[str, float],
        anything: Any,
        *,
        exact: bool = False,
        pair: tuple[int, ...] = (1, 2),
    ) -> str:
        return repr((query, kind, size, sorted(tags), scores, anything, exact, pair))

    tool = Tool.from_function(search)

    assert tool.description.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for"},
            "kind": {"type": "string", "enum": ["web", "news"]},
            "size": {"enum": [1, 2]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "scores": {"type": "object", "additionalProperties": {"type": "number"}},
            "anything": {},
            "exact": {"type": "boolean", "default": False},
            "pair": {"type": "array", "items": {"type": "integer"}, "default": (1, 2)},
        },
        "required": ["query", "kind", "size", "tags", "scores", "anything"],
    }
    arguments = {
        "query": "q",
        "kind": "web",
        "size": 2,
        "tags": ["b", "a", "b"],
        "scores": {"x": 1},
        "anything": None,
        "pair": [3.0],
    }
    assert tool.run(json.dumps(arguments)) == (
        "('q', 'web', 2, ['a', 'b'], {'x': 1.0}, None, False, (3,))"
    )


def test_arguments_arrive_in_their_python_types() -> None:
    tool = Tool.from_function(get_weather)

    text = tool.run('{"city": "Zürich", "unit": "fahrenheit", "days": 2.0}')

    assert text == '{"city": "Zürich", "days": 2, "unit": "FAHRENHEIT", "near": null}'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{}", "Error: `city` is missing"),
        ('{"city": 3}', "Error: `city` must be string, not 3"),
        ('{"city": "a", "days": "2"}', 'Error: `days` must be integer, not "2"'),
        ('{"city": "a", "days": true}', "Error: `days` must be integer, not true"),
        (
            '{"city": "a", "unit": "kelvin"}',
            'Error: `unit` must be one of "celsius", "fahrenheit", not "kelvin"',
        ),
        (
            '{"city": "a", "near": ["x"]}',
            'Error: `near[0]` must be number, not "x" or '
            '`near` must be null, not ["x"]',
        ),
        (
            '{"city": "a", "town": "b"}',
            "Error: `town` is unknown: the tool takes `city`, `days`, `unit`, `near`",
        ),
        ('["a"]', 'Error: the arguments must be object, not ["a"]'),
        (
            '{"city": "a',
            "Error: the arguments are not valid JSON (Unterminated string starting "
            "at: line 1 column 10 (char 9))",
        ),
        (
            '{"days": "x"}',
            'Error: `city` is missing; `days` must be integer, not "x"',
        ),
    ],
)
def test_wrong_arguments_are_explained_to_the_model(
    arguments: str, expected: str
) -> None:
    assert Tool.from_function(get_weather).run(arguments) == expected


def test_what_a_tool_raises_is_told_to_the_model() -> None:
    def fail() -> str:
        raise ValueError("no such table")

    assert Tool.from_function(fail).run("") == "Error: ValueError: no such table"


def test_a_tool_without_parameters_takes_none() -> None:
    def now() -> str:
        return "noon"

    tool = Tool.from_function(now)

    assert tool.description == ToolDescription("now", "", None)
    assert (tool.run(""), tool.run("{}")) == ("noon", "noon")
    assert tool.run('{"x": 1}') == "Error: `x` is unknown: the tool takes nothing"


def test_a_schema_with_references_is_checked() -> None:
    schema = {
        "type": "object",
        "properties": {
            "points": {"type": "array", "items": {"$ref": "#/$defs/point"}},
            "loop": {"$ref": "#/$defs/loop"},
        },
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "required": ["x"],
                "additionalProperties": False,
            },
            "loop": {"$ref": "#/$defs/loop"},
        },
    }
    tool = Tool.from_schema("plot", "", schema, function=lambda points: len(points))

    assert tool.run('{"points": [{"x": 1}, {"x": 2}]}') == "2"
    assert tool.run('{"points": [{"x": 1}, {"y": 2}]}') == (
        "Error: `points[1].x` is missing; `points[1].y` is unknown: the tool takes `x`"
    )


def test_a_tool_without_a_function_cannot_be_run() -> None:
    assert (
        Tool.from_schema("outside").run("{}") == "Error: `outside` cannot be run here"
    )


def no_json(value: complex) -> None: ...


def variadic(*values: int) -> None: ...


def by_position(value: int, /) -> None: ...


def mixed(pair: tuple[int, str]) -> None: ...


def unresolved(value: "Missing") -> None: ...  # noqa: F821 # type: ignore


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_json, "`value` of tool `no_json` has type `<class 'complex'>`"),
        (variadic, r"`variadic` takes `\*values: int`, which cannot be passed by name"),
        (by_position, "`by_position` takes `value: int`, which cannot be passed by"),
        (mixed, "`pair` of tool `mixed` is a tuple of mixed types"),
        (unresolved, "annotations of tool `unresolved` cannot be resolved"),
        (lambda: None, "a lambda has no name"),
    ],
)
def test_what_json_cannot_carry_is_refused_at_once(
    function: Callable[..., Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        Tool.from_function(function)


def test_every_usual_form_of_a_tool_is_taken() -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}}
    described = ToolDescription("f", "does f", parameters)
    openai = {
        "type": "function",
        "function": {"name": "f", "description": "does f", "parameters": parameters},
    }

    tools = [as_tool(form) for form in (Tool(described), described, openai)]

    assert tools == [Tool(described)] * 3
    assert as_tool(get_weather).name == "get_weather"
    with pytest.raises(PromptError, match="needs a `name`"):
        as_tool({"type": "function"})


@given(st.text(alphabet='{}[]":,.0123eE-+ax ntrufls', max_size=40))
def test_no_arguments_make_a_tool_fail(arguments: str) -> None:
    assert isinstance(Tool.from_function(get_weather).run(arguments), str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json_values, st.dictionaries(KEYS, json_values, max_size=3))
def test_no_schema_makes_the_check_of_arguments_raise(
    value: Any, schema: dict[str, Any]
) -> None:
    assert all(isinstance(line, str) for line in argument_errors(value, schema))
