"""Any sequence of tokens makes a consistent stream of a response."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.generation import TokenCounts
from mlx_gptoss.api.responses.reply import ResponseBuilder
from mlx_gptoss.api.responses.tool_names import ToolNames, ToolOrigin
from mlx_gptoss.api.responses.wire import ResponseReply
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.harmony.messages import TextGrammar, ToolDescription, text_tool
from mlx_gptoss.harmony.parse.parser import Parser
from tests.support.fakes import byte_tokenizer, token_ids
from tests.support.response_events import rebuilt

TOKENIZER = byte_tokenizer()
TOOLS = [
    ToolDescription("f", "", {"type": "object"}),
    text_tool("apply_patch"),
    text_tool("bound", "", TextGrammar("regex", ".*")),
    ToolDescription("a__f", "", {"type": "object"}),
    ToolDescription("tool_search", "", {"type": "object"}),
]
NAMES = ToolNames()
NAMES.add(ToolOrigin("f", "a"))
NAMES.add(ToolOrigin("tool_search", is_search=True))
USAGE = TokenCounts(10, 4, 7, 3)
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
ANSWER = "<|channel|>final<|message|>Yes.<|return|>"


def reply() -> ResponseReply:
    given: Any = dict.fromkeys(
        (
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "previous_response_id",
            "prompt_cache_key",
            "safety_identifier",
            "user",
        )
    )
    return ResponseReply(
        id="resp_1",
        created_at=1,
        status="in_progress",
        model="demo",
        output=[],
        parallel_tool_calls=True,
        reasoning={},
        service_tier="default",
        store=False,
        temperature=1,
        text={},
        tool_choice="auto",
        tools=[],
        top_logprobs=0,
        top_p=1,
        truncation="disabled",
        metadata={},
        **given,
    )


def heard(ids: list[int], reason: str = "stop", **options: Any) -> list[dict[str, Any]]:
    """Return the events of a stream whose model generates `ids`."""
    output = ResponseBuilder(
        reply(),
        text_tools={"apply_patch", "bound"},
        grammar_tools={"bound"},
        names=NAMES,
        **options,
    )
    parser = Parser(TOKENIZER, tools=TOOLS)
    events = output.begin()
    for token in ids:
        events += output.feed(parser.feed(token))
    events += output.feed(parser.finish())
    return [*events, *output.end(reason, USAGE)]


def response(text: str, reason: str = "stop", **options: Any) -> dict[str, Any]:
    return rebuilt(heard(token_ids(text, TOKENIZER), reason, **options))


def called(name: str, text: str) -> str:
    return f"<|channel|>commentary to=functions.{name}<|message|>{text}<|call|>"


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [THINK, ANSWER, called("f", '{"a": 1}'), "<|start|>assistant"]
            ),
            st.sampled_from(list(TOKENIZER.specials)),
            st.sampled_from([called("apply_patch", '{"x": "y"}'), "<|end|>", "ä", "{"]),
            st.sampled_from([called("bound", "{}"), called("g", "1"), "user", " "]),
            st.sampled_from([called("a__f", "{}"), called("tool_search", "{}")]),
            st.text(max_size=4),
        ),
        max_size=12,
    ),
    st.sampled_from(["stop", "length", "tool_calls", "cancelled"]),
    st.booleans(),
    st.booleans(),
)
def test_any_stream_adds_up(
    pieces: list[str], reason: str, sealed: bool, summarized: bool
) -> None:
    final = response("".join(pieces), reason, sealed=sealed, summarized=summarized)

    ends = {"length": "incomplete", "cancelled": "cancelled"}
    assert final["status"] == ends.get(reason, "completed")
    ResponseReply.model_validate(final)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 299), max_size=60))
def test_any_ids_add_up(ids: list[int]) -> None:
    rebuilt(heard(ids))


def test_reasoning_and_answer_are_items_of_their_own() -> None:
    thought, answer = response(THINK + ANSWER, sealed=True)["output"]

    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert unseal(thought["encrypted_content"]) == "Hm."
    assert (answer["content"][0]["text"], answer["phase"]) == ("Yes.", "final_answer")


def test_what_is_not_sealed_is_left_out() -> None:
    events = heard(token_ids(THINK + ANSWER, TOKENIZER))

    items = [event["item"] for event in events if "item" in event]
    assert not [item for item in items if "encrypted_content" in item]
    assert "encrypted_content" not in events[-1]["response"]["output"][0]


def test_a_summary_is_told_once_and_stands_beside_the_text() -> None:
    events = heard(token_ids(THINK + ANSWER, TOKENIZER), summarized=True)

    said = [event for event in events if "reasoning" in event["type"]]
    assert [event["type"].removeprefix("response.reasoning_") for event in said] == [
        "summary_part.added",
        *["summary_text.delta"] * len("Hm."),
        "summary_text.done",
        "summary_part.done",
    ]
    thought = events[-1]["response"]["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}]


def test_open_responses_has_other_names_for_reasoning() -> None:
    ids = token_ids(THINK + ANSWER, TOKENIZER)
    ours = heard(ids)
    theirs = heard(ids, reasoning_events="open-responses")

    names = [event["type"] for event in theirs]
    assert "response.reasoning.delta" in names and "response.reasoning.done" in names
    renamed = [name.replace("reasoning.", "reasoning_text.") for name in names]
    assert renamed == [event["type"] for event in ours]


def test_a_preamble_is_a_message_before_the_call() -> None:
    said = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    message, call = response(said + called("f", '{"a": 1}'))["output"]

    assert (message["phase"], message["content"][0]["text"]) == (
        "commentary",
        "I look.",
    )
    assert (call["name"], call["arguments"]) == ("f", '{"a": 1}')


@pytest.mark.parametrize(
    ("name", "written", "given_back"),
    [
        ("apply_patch", "*** Begin Patch\n", "*** Begin Patch\n"),
        ("apply_patch", '{"input": "*** Begin"}', "*** Begin"),
        ("apply_patch", '{"a": "b", "c": "d"}', '{"a": "b", "c": "d"}'),
        ("apply_patch", "{ not json", "{ not json"),
        ("apply_patch", "", ""),
        ("bound", '{"input": "kept"}', '{"input": "kept"}'),
    ],
)
def test_a_custom_tool_gets_its_text(name: str, written: str, given_back: str) -> None:
    [call] = response(called(name, written))["output"]

    assert (call["type"], call["name"]) == ("custom_tool_call", name)
    assert (call["input"], call["status"]) == (given_back, "completed")


def test_a_call_goes_back_with_its_namespace() -> None:
    [call] = response(called("a__f", "{}"))["output"]
    [plain] = response(called("f", "{}"))["output"]

    assert (call["namespace"], call["name"]) == ("a", "f")
    assert "namespace" not in plain


@pytest.mark.parametrize(
    ("written", "arguments"),
    [('{"query": "add"}', {"query": "add"}), ("", {}), ('{"query', '{"query')],
)
def test_a_search_is_called_with_an_object(written: str, arguments: Any) -> None:
    [call] = response(called("tool_search", written))["output"]

    assert (call["type"], call["execution"]) == ("tool_search_call", "client")
    assert call["arguments"] == arguments


def test_what_was_cut_off_is_incomplete() -> None:
    final = response(THINK + "<|channel|>final<|message|>Ye", "length")

    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]


def test_an_empty_answer_is_still_a_message() -> None:
    [message] = response("<|channel|>final<|message|><|return|>")["output"]

    assert message["content"][0]["text"] == ""


def test_usage_tells_cached_and_reasoning_tokens() -> None:
    assert response(ANSWER)["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 17,
    }


def test_a_failure_is_the_last_event() -> None:
    output = ResponseBuilder(reply())
    failed, error = output.fail(ApiError(500, "internal error", "internal_error"))

    assert (failed["type"], error["type"]) == ("response.failed", "error")
    assert error["sequence_number"] == failed["sequence_number"] + 1
    assert (error["code"], error["message"]) == ("internal_error", "internal error")
    assert error["error"]["message"] == "internal error"  # what OpenAI's client raises
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {
        "code": "server_error",
        "message": "internal error",
    }


@pytest.mark.parametrize("name", ["f", "apply_patch", "bound"])
@pytest.mark.parametrize("written", ["", '{"a"', "{}", "*** Begin Patch"])
@pytest.mark.parametrize("reason", ["length", "cancelled"])
def test_a_call_that_is_cut_is_no_item_and_never_ends(
    name: str, written: str, reason: str
) -> None:
    """Clients run a call when its item is done, whatever its status."""
    text = called("f", "{}").replace("<|call|>", "<|end|><|start|>assistant")
    text += called(name, written).removesuffix("<|call|>")
    events = heard(token_ids(text, TOKENIZER), reason)

    [whole] = rebuilt(events)["output"]
    assert (whole["arguments"], whole["status"]) == ("{}", "completed")
    done = [e for e in events if e["type"].startswith("response.output_item.done")]
    assert len(done) == 1
    assert not [e for e in events if e["type"].endswith("input.done")]


def test_a_failure_within_a_call_leaves_no_call() -> None:
    output, parser = ResponseBuilder(reply()), Parser(TOKENIZER, tools=TOOLS)
    for token in token_ids(called("f", "{").removesuffix("<|call|>"), TOKENIZER):
        output.feed(parser.feed(token))

    assert len(output.snapshot()["output"]) == 1
    failed, _ = output.fail(ApiError(500, "internal error", "internal_error"))
    assert failed["response"]["output"] == []
