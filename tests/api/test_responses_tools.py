"""Tools of namespaces, items and searches: their names and descriptions."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.responses.items import read_items
from mlx_gptoss.api.responses.tool_choice import to_chat_tool_choice
from mlx_gptoss.api.responses.tool_names import ToolNames, ToolOrigin
from mlx_gptoss.api.responses.tools import ResponsesTools, read_tools
from mlx_gptoss.api.responses.wire import ResponsesTool
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.harmony import messages as m

ADD = {"type": "function", "name": "add", "description": "Add.", "strict": True}
PATCH = {"type": "custom", "name": "patch"}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Search."}
USER = {"role": "user", "content": "go"}


def space(name: str, *tools: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "namespace", "name": name, "tools": list(tools), **fields}


def added(*tools: Any) -> dict[str, Any]:
    return {"type": "additional_tools", "role": "developer", "tools": list(tools)}


def searched(*tools: Any, call_id: str | None = "c1") -> list[dict[str, Any]]:
    own = {"call_id": call_id, "execution": "client" if call_id else "server"}
    call = {"type": "tool_search_call", "arguments": {"query": "add"}, **own}
    return [call, {"type": "tool_search_output", "tools": list(tools), **own}]


def offer(*tools: Any, items: Any = ()) -> ResponsesTools:
    given = [ResponsesTool.model_validate(tool) for tool in tools]
    return read_tools(given, items, RequestLimits())


def offered(*tools: Any, items: Any = ()) -> list[str]:
    return [tool.name for tool in offer(*tools, items=items).offered.descriptions]


def messages(items: list[Any], *tools: Any) -> list[m.Message]:
    return read_items(items, tools=offer(*tools, items=items)).messages


# Names


def test_tools_of_one_name_are_told_apart_by_their_namespaces() -> None:
    found = offer(ADD, space("a", ADD, PATCH), space("mcp__b__", ADD))

    assert [tool.name for tool in found.offered.descriptions] == [
        "add",
        "a__add",
        "a__patch",
        "mcp__b__add",
    ]
    assert found.names.origin_of("mcp__b__add") == ToolOrigin("add", "mcp__b__")
    assert found.offered.strict == {"add", "a__add", "mcp__b__add"}


def test_a_name_that_is_taken_gets_a_number() -> None:
    found = offer(ADD | {"name": "a__add"}, space("a", ADD), space("functions", ADD))

    assert [tool.name for tool in found.offered.descriptions] == [
        "a__add",
        "a__add_2",
        "add",
    ]
    assert found.names.origin_of("a__add_2") == ToolOrigin("add", "a")
    assert found.names.model_name("add", "a") == "a__add_2"


words = st.text("ab_. <", min_size=1, max_size=4)
origins = st.builds(ToolOrigin, words, st.none() | words | st.just("functions"))


@settings(max_examples=50, deadline=None)
@given(st.lists(origins, unique=True))
def test_every_tool_has_a_name_of_its_own(tools: list[ToolOrigin]) -> None:
    names = ToolNames()
    shown = [names.add(tool) for tool in tools]

    assert len({m.wire_name(name) for name in shown}) == len(tools)
    assert [names.origin_of(name) for name in shown] == tools
    assert [names.model_name(one.name, one.namespace) for one in tools] == shown


@settings(max_examples=50, deadline=None)
@given(st.lists(origins, unique=True), origins)
def test_a_tool_that_is_found_later_renames_none(
    tools: list[ToolOrigin], later: ToolOrigin
) -> None:
    names = ToolNames()
    before = [names.add(tool) for tool in tools]
    names.add(later)

    assert [names.add(tool) for tool in tools] == before


# Tools on offer


def test_a_namespace_is_described_at_its_first_tool() -> None:
    found = offer(space("a", ADD, PATCH, description="Numbers."))

    assert [tool.description for tool in found.initial] == [
        "All of `a`: Numbers.\n\nAdd.",
        "",
    ]


def test_what_cannot_be_offered_is_named() -> None:
    given = [
        space("a", ADD, {"type": "web_search"}, space("b", ADD)),
        space("empty"),
        {"type": "tool_search"},  # run by a server, so not offered
        {"type": "local_shell"},
    ]

    found = offer(*given, items=[added({"type": "image_generation"})])
    assert found.offered.ignored == (
        "web_search",
        "namespace",
        "namespace",
        "tool_search",
        "local_shell",
        "image_generation",
    )
    assert [tool.name for tool in found.offered.descriptions] == ["a__add"]


def test_tools_of_the_first_items_stand_in_the_opening() -> None:
    rules = {"role": "developer", "content": "rules"}
    found = offer(PATCH, items=[rules, added(space("a", ADD)), USER])

    assert [tool.name for tool in found.initial] == ["patch", "a__add"]
    assert found.by_item == {}


def test_tools_that_come_later_are_shown_where_they_come() -> None:
    found, [_, shown] = offer(items=[USER, added(ADD)]), messages([USER, added(ADD)])

    assert found.initial == ()
    assert shown == m.developer(tools=found.offered.descriptions)


def test_a_tool_defined_again_counts_as_it_was_defined_last() -> None:
    again = ADD | {"description": "Add, better.", "strict": False}
    found = offer(ADD, items=[USER, added(again)])

    assert [tool.description for tool in found.offered.descriptions] == ["Add, better."]
    assert found.offered.strict == frozenset()


@pytest.mark.parametrize(
    ("tools", "items", "complaint"),
    [
        ([ADD, ADD], [], "two tools are named `add`"),
        ([space("a", ADD), space("a", ADD)], [], "two tools are named `add`"),
        ([space("", ADD)], [], "`tools[0]` is a namespace: give its `name`"),
        ([{"type": "namespace", "name": "a"}], [], "`tools[0]` is a namespace"),
        ([space("a", 5)], [], "`tools[0].tools[0]`: Input should be"),
        ([space("a", {"type": "function"})], [], "`tools[0].tools[0]` has no `name`"),
        ([], [{"type": "additional_tools"}], "`input[0].tools` is not a list"),
        ([], [added({"name": "f"})], "`input[0].tools[0].type`: Field required"),
    ],
)
def test_a_tool_that_cannot_be_read_is_named(
    tools: list[Any], items: list[Any], complaint: str
) -> None:
    with pytest.raises(ApiError) as raised:
        offer(*tools, items=items)

    assert raised.value.status == 400
    assert complaint in raised.value.message


@pytest.mark.parametrize(
    ("search", "run_by_client"),
    [
        ({"execution": "client"}, True),
        ({"execution": "server", "parameters": {}}, False),
        ({"parameters": {"type": "object"}}, True),
        ({}, False),
    ],
)
def test_a_search_is_offered_where_the_client_runs_it(
    search: dict[str, Any], run_by_client: bool
) -> None:
    assert offered({"type": "tool_search"} | search) == ["tool_search"] * run_by_client


# Earlier searches and calls


def test_what_a_search_found_is_its_result() -> None:
    call, result = messages(searched(space("a", ADD)), SEARCH)

    assert call == m.tool_call("tool_search", '{"query":"add"}')
    assert result.name == "functions.tool_search"
    assert "type a__add = () => any;" in result.text
    assert offered(SEARCH, items=searched(space("a", ADD))) == ["tool_search", "a__add"]


def test_a_search_that_found_nothing_says_so() -> None:
    [_, result] = messages(searched(), SEARCH)

    assert result == m.tool_result("tool_search", "No tools were found.")


def test_a_search_that_a_server_ran_leaves_its_tools() -> None:
    items = [USER, *searched(ADD, call_id=None)]
    read = read_items(items, tools=offer(items=items))

    assert read.ignored == ["tool_search_call"]
    assert read.messages[1].role == "developer"
    assert offered(items=items) == ["add"]


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ({"name": "add", "namespace": "a"}, "a__add"),
        ({"name": "add", "namespace": "gone"}, "gone__add"),
        ({"name": "add", "namespace": None}, "a__add"),  # unambiguous
        ({"name": "a__add"}, "a__add"),
        ({"name": "other"}, "other"),
    ],
)
def test_calls_of_the_past_bear_the_names_of_the_tools(
    call: dict[str, Any], shown: str
) -> None:
    own = {"type": "function_call", "call_id": "c1", "arguments": "{}", **call}
    result = {"type": "function_call_output", "call_id": "c1", "output": "5"}

    assert messages([own, result], space("a", ADD)) == [
        m.tool_call(shown, "{}"),
        m.tool_result(shown, "5"),
    ]


def test_a_result_without_a_call_names_its_tool() -> None:
    late = {"type": "function_call_output", "name": "add", "namespace": "a"}

    assert messages([late | {"output": "5"}]) == [m.tool_result("a__add", "5")]


def test_a_message_between_agents_is_read_whole() -> None:
    parts = [
        {"type": "input_text", "text": "Sender: /root"},
        {"type": "encrypted_content", "encrypted_content": "Count the files."},
    ]
    told = {"type": "agent_message", "author": "/root", "content": parts}

    assert messages([told]) == [m.user("Sender: /root\n\nCount the files.")]


# tool_choice


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"type": "function", "name": "add", "namespace": "a"}, "a__add"),
        ({"type": "function", "name": "a__add"}, "a__add"),
        ({"type": "custom", "name": "patch"}, "a__patch"),
        ({"type": "function", "function": {"name": "patch"}}, "a__patch"),
        ({"type": "tool_search"}, "tool_search"),
        ({"type": "namespace", "name": "b"}, ["b__add"]),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "web_search"}],
            },
            [],
        ),
        (
            {
                "type": "allowed_tools",
                "tools": [
                    {"type": "namespace", "name": "a"},
                    {"type": "function", "name": "add", "namespace": "b"},
                    {"type": "tool_search"},
                ],
            },
            ["a__add", "a__patch", "b__add", "tool_search"],
        ),
    ],
)
def test_a_choice_is_written_by_the_names_shown(given: Any, names: Any) -> None:
    found = offer(space("a", ADD, PATCH), space("b", ADD), SEARCH)
    read = to_chat_tool_choice(given, found.names)

    chosen = (
        [tool["name"] for tool in read["tools"]] if "tools" in read else read["name"]
    )
    assert chosen == names


def test_a_choice_that_may_mean_two_tools_asks_for_the_namespace() -> None:
    found = offer(space("a", ADD), space("b", ADD))

    with pytest.raises(ApiError, match="give its `namespace`"):
        to_chat_tool_choice({"type": "function", "name": "add"}, found.names)
