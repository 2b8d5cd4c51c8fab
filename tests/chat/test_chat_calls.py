"""Calls are run, or wait for their results, and each result finds its call."""

import json
from itertools import permutations
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    developer,
    reasoning,
    system,
    tool_result,
    user,
)
from tests.support.chat_turns import (
    BYE,
    CALL,
    DATE,
    GREEDY,
    TOKENIZER,
    get_weather,
    joined,
    prompts,
    rendered,
    start,
)
from tests.support.fakes import (
    answering,
)

CALL_MESSAGE = Message(
    "assistant",
    '{"city": "Paris"}',
    "commentary",
    "functions.get_weather",
    "<|constrain|>json",
)
OPENING = system("medium", conversation_date=DATE)


def test_tools_are_run_and_the_model_goes_on() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[get_weather])

        events = list(chat.send("Rain?"))

        assert joined(events) == [
            Reasoning("Look."),
            ToolCall("call_1", "get_weather", '{"city": "Paris"}'),
            ToolResult("call_1", "rain in Paris"),
            Answer("Bye."),
            "stop",
        ]
        opening = [OPENING, developer(tools=[chat.tools["get_weather"].description])]
        loop = [
            user("Rain?"),
            reasoning("Look."),
            CALL_MESSAGE,
            tool_result("get_weather", "rain in Paris"),
        ]
        assert prompts(runtime)[1] == rendered(*opening, *loop)
    assert chat.messages == [*loop, answer("Bye.")]
    [done] = [event for event in events if isinstance(event, Done)]
    assert (done.stats.generations, done.stats.finish_reason) == (2, "stop")


def test_a_call_without_function_waits_for_its_result() -> None:
    weather = {"name": "get_weather", "parameters": {"type": "object"}}
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[weather])
        call = ToolCall("call_1", "get_weather", '{"city": "Paris"}')

        events = list(chat.send("Rain?"))

        assert joined(events) == [Reasoning("Look."), call, "tool_calls"]
        assert chat.waiting == [call]
        with pytest.raises(PromptError, match=r"no call `call_9` waits.*`call_1`"):
            chat.submit_result("call_9", "")

        events = list(chat.submit_result("call_1", "sun"))

        assert joined(events) == [Answer("Bye."), "stop"]
    assert chat.messages[-2:] == [tool_result("get_weather", "sun"), answer("Bye.")]


def test_several_calls_are_all_answered_before_the_model_goes_on() -> None:
    two = CALL.replace("<|call|>", "<|end|>") + (
        "<|start|>assistant<|channel|>commentary to=functions.outside <|constrain|>json"
        "<|message|>{}<|call|>"
    )
    with answering(two, BYE) as runtime:
        chat = start(runtime, tools=[get_weather, {"name": "outside"}])

        events = list(chat.send("Rain?"))

        assert [type(event) for event in joined(events)] == [
            Reasoning,
            ToolCall,
            ToolCall,
            ToolResult,
            str,
        ]
        assert [call.id for call in chat.waiting] == ["call_2"]
        assert joined(chat.submit_result("call_2", "x")) == [Answer("Bye."), "stop"]
    assert [m.name for m in chat.messages if m.role == "tool"] == [
        "functions.get_weather",
        "functions.outside",
    ]


SEVERAL = "<|end|><|start|>assistant".join(
    f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"
    for name, arguments in [
        ("outside", "{}"),
        ("get_weather", '{"city": "Rome"}'),
        ("outside", '{"n": 3}'),
        ("outside", "{}"),
    ]
)
OUTSIDE = {"name": "outside", "parameters": {"type": "object"}}


@pytest.mark.parametrize("order", list(permutations(["call_1", "call_3", "call_4"])))
@pytest.mark.parametrize("saved", [False, True])
def test_results_stand_in_the_order_of_their_calls(
    order: tuple[str, ...], saved: bool
) -> None:
    options: dict[str, Any] = {"tools": [OUTSIDE, get_weather], "params": GREEDY}
    with answering(SEVERAL + "<|call|>", BYE) as runtime:
        chat = start(runtime, **options)
        list(chat.send("?"))
        for call_id in order:
            if saved:
                text = json.dumps(chat.to_json())
                chat = Chat.from_json(runtime, text, **options)
            list(chat.submit_result(call_id, f"of {call_id}"))

    results = [message.text for message in chat.messages if message.role == "tool"]
    assert results == ["of call_1", "rain in Rome", "of call_3", "of call_4"]


def test_calls_closed_by_a_question_keep_the_order_of_the_results() -> None:
    with answering(SEVERAL + "<|call|>", BYE) as runtime:
        chat = start(runtime, tools=[OUTSIDE, get_weather])
        list(chat.send("?"))
        list(chat.submit_result("call_3", "of call_3"))

        list(chat.send("never mind"))

    closed = "Error: the call was interrupted"
    results = [message.text for message in chat.messages if message.role == "tool"]
    assert results == [closed, "rain in Rome", "of call_3", closed]


@pytest.mark.parametrize("place", [-1, 2, True, "0"])
def test_a_saved_call_at_no_place_is_refused(place: Any) -> None:
    with answering(CALL) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}])
        list(chat.send("?"))
        saved = chat.to_json()
        saved["waiting"][0]["place"] = place

        with pytest.raises(PromptError, match=r"`place` of waiting\[0\] is"):
            Chat.from_json(runtime, saved)


def test_a_call_that_cannot_run_is_answered_with_why() -> None:
    wrong = CALL.replace("get_weather", "get_wether")
    broken = CALL.replace('"}', "")
    with answering(wrong, broken, BYE) as runtime:
        free = Constraints(enforce="off")
        chat = start(runtime, tools=[get_weather], constraints=free)

        events = joined(chat.send("Rain?"))

    results = [event.text for event in events if isinstance(event, ToolResult)]
    assert len([e for e in events if isinstance(e, ToolCallFailed)]) == 2
    assert "there is no tool `functions.get_wether`" in results[0]
    assert "the arguments are not a JSON object" in results[1]
    assert events[-2:] == [Answer("Bye."), "stop"]


def test_an_unanswered_call_is_closed_by_the_next_question() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}])
        list(chat.send("Rain?"))

        list(chat.send("never mind"))

    assert chat.messages[3:] == [
        tool_result("get_weather", "Error: the call was interrupted"),
        user("never mind"),
        answer("Bye."),
    ]
    assert chat.waiting == []


def test_endless_tool_loops_are_ended() -> None:
    with answering(CALL, CALL, CALL) as runtime:
        chat = start(runtime, tools=[get_weather], max_rounds=3)

        events = joined(chat.send("Rain?"))

    assert [e for e in events if isinstance(e, ToolResult)][-1].id == "call_3"
    assert events[-1] == "length"


def test_max_tokens_bound_the_whole_turn() -> None:
    call_tokens = len(TOKENIZER.encode(CALL))  # more than one CALL, less than two
    params = SamplingParams(temperature=0, max_tokens=call_tokens)
    with answering(CALL, CALL) as runtime:
        chat = start(runtime, tools=[get_weather], params=params)

        events = list(chat.send("Rain?"))

    [done] = [event for event in events if isinstance(event, Done)]
    assert (done.finish_reason, done.stats.completion_tokens) == ("length", call_tokens)
    # The incomplete second call is not kept: no result could answer it.
    assert sum(message.is_call for message in chat.messages) == 1
