"""Constraints on conversations: choices, formats, budgets and stops of whole turns."""

import json
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError, SchemaError
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.messages import answer, reasoning
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer

TOKENIZER = byte_tokenizer()
THINK = "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant"
CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city":"Paris"}<|call|>'
)
BYE = "<|channel|>final<|message|>Bye.<|return|>"


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def start(
    runtime: Runtime, constraints: Constraints | None = None, **more: Any
) -> Chat:
    settings = {"params": SamplingParams(temperature=0, max_tokens=200), "date": ""}
    return Chat(runtime, constraints=constraints, **settings | more)


def done(events: list[Event]) -> Done:
    [last] = [event for event in events if isinstance(event, Done)]
    return last


def text_of(events: list[Event], kind: type[Answer | Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_a_call_that_is_required_is_required_once() -> None:
    with answering(THINK + CALL, BYE) as runtime:
        chat = start(runtime, Constraints(tool_choice="required"), tools=[get_weather])

        events = list(chat.send("Rain?"))

    assert [type(e) for e in events if isinstance(e, ToolCall | ToolResult)] == [
        ToolCall,
        ToolResult,
    ]
    assert (text_of(events, Answer), done(events).finish_reason) == ("Bye.", "stop")


def test_a_call_answered_by_the_caller_is_not_required_again() -> None:
    with answering(CALL, BYE, CALL) as runtime:
        required = Constraints(tool_choice="get_weather")
        chat = start(runtime, required, tools=[{"name": "get_weather"}])
        list(chat.send("Rain?"))

        events = list(chat.submit_result("call_1", "sun"))

        assert text_of(events, Answer) == "Bye."
        assert done(list(chat.send("Again?"))).finish_reason == "tool_calls"


def test_the_model_reads_the_schema_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    told = AnswerFormat.json_schema(schema, name="verdict")
    with answering('<|channel|>final<|message|>{"ok":true}<|return|>', BYE) as runtime:
        chat = start(runtime, Constraints(response_format=told))
        events = list(chat.send("Is it?"))
        prompt = TOKENIZER.decode(runtime.model.prompts[0])
        chat.constraints = Constraints()
        list(chat.send("Bye"))
        last = TOKENIZER.decode(runtime.model.prompts[1])

    assert text_of(events, Answer) == '{"ok":true}'
    written = json.dumps(schema, separators=(",", ":"))
    assert f"# Response Formats\n\n## verdict\n\n{written}" in prompt
    assert "# Response Formats" not in last


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, AnswerFormat.json_object()),
        ({"type": "json_object", "schema": {}}, AnswerFormat.json_object()),
        (
            {"type": "json_object", "schema": {"a": 1}},
            AnswerFormat.json_schema({"a": 1}),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}},
            AnswerFormat.json_schema({"a": 1}, name="n"),
        ),
        (
            {"type": "json_schema", "name": "n", "schema": {}},
            AnswerFormat.json_schema({}, name="n"),
        ),
        ({"type": "regex", "regex": "a+"}, AnswerFormat.regex("a+")),
    ],
)
def test_formats_are_read_as_openai_writes_them(value: Any, expected: Any) -> None:
    assert AnswerFormat.of(value) == expected


@pytest.mark.parametrize(
    "value", [{}, {"type": "yaml"}, {"type": "json_schema"}, {"type": "regex"}]
)
def test_other_formats_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=r"response format .* is unknown"):
        AnswerFormat.of(value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"enforce": "some"}, "`enforce` is 'some'"),
        ({"max_reasoning_tokens": -1}, "`max_reasoning_tokens` is -1"),
        ({"max_reasoning_tokens": 1.5}, "`max_reasoning_tokens` is 1.5"),
        ({"stop": "###"}, "`stop` is '###': give a tuple"),
        ({"stop": ("",)}, "`stop` is"),
        ({"enforce": "off", "tool_choice": "none"}, "`tool_choice` cannot be kept"),
        (
            {"enforce": "off", "max_reasoning_tokens": 1},
            "`max_reasoning_tokens` cannot be kept",
        ),
    ],
)
def test_constraints_that_contradict_are_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        Constraints(**wrong)


def test_a_tool_with_an_odd_schema_ends_no_conversation() -> None:
    odd = {"name": "odd", "parameters": {"properties": {"x": {"not": {}}}}}
    with answering(BYE) as runtime:
        chat = start(runtime, tools=[odd, get_weather])

        assert done(list(chat.send("hi"))).finish_reason == "stop"
        assert chat.unenforced == ["not enforced in `functions.odd`: `not` of `x`"]


def test_a_strict_answer_that_cannot_be_kept_is_refused_in_time() -> None:
    answer = AnswerFormat.json_schema({"type": "array", "contains": {}}, strict=True)
    with answering(BYE) as runtime:
        chat = start(runtime, Constraints(response_format=answer))

        with pytest.raises(SchemaError, match=r"response format cannot .*`contains`"):
            list(chat.send("hi"))

        assert (chat.messages, runtime.model.feeds) == ([], [])


def test_a_budget_holds_for_all_rounds_of_a_turn() -> None:
    thought = len(TOKENIZER.encode("Look it up."))
    think_again = THINK.replace("Look it up.", "It rains.") + BYE
    with answering(THINK + CALL, think_again) as runtime:
        budget = Constraints(max_reasoning_tokens=thought + 3)
        chat = start(runtime, budget, tools=[get_weather])

        events = list(chat.send("Rain?"))

    assert text_of(events, Reasoning) == "Look it up." + "It "
    assert done(events).stats.finish_details == ("reasoning_budget",)


def test_each_turn_has_a_budget_of_its_own() -> None:
    thought = len(TOKENIZER.encode("Look it up."))
    with answering(THINK + BYE, THINK + BYE) as runtime:
        chat = start(runtime, Constraints(max_reasoning_tokens=thought + 3))

        turns = [list(chat.send("Rain?")) for _ in range(2)]

    assert [text_of(events, Reasoning) for events in turns] == ["Look it up."] * 2
    assert [done(events).stats.finish_details for events in turns] == [(), ()]


def test_arguments_that_are_cut_off_are_never_run() -> None:
    run: list[str] = []

    def get_weather(city: str) -> str:
        run.append(city)
        return ""

    enough = len(TOKENIZER.encode(CALL)) - sum(
        len(n) - 1 for n in TOKENIZER.specials for _ in range(CALL.count(n))
    )
    with answering(CALL) as runtime:
        params = SamplingParams(temperature=0, max_tokens=enough - 1)
        chat = start(runtime, tools=[get_weather], params=params)

        events = list(chat.send("Rain?"))

    assert done(events).finish_reason == "length"
    assert run == []
    assert chat.waiting == []
    assert not any(message.is_call for message in chat.messages)


@pytest.mark.parametrize("counts", [True, False])
def test_a_call_on_analysis_counts_unless_it_is_not_to(counts: bool) -> None:
    """The call as an unconstrained model writes it."""
    call = CALL.replace("commentary", "analysis")
    free = Constraints(enforce="off", calls_on_analysis=counts)
    with answering(call, BYE) as runtime:
        events = list(start(runtime, free, tools=[get_weather]).send("Rain?"))

    called = [event for event in events if isinstance(event, ToolCall)]
    refused = [event for event in events if isinstance(event, ToolCallFailed)]
    assert (len(called), len(refused)) == ((1, 0) if counts else (0, 1))
    assert text_of(events, Answer) == "Bye."


def test_a_stop_string_ends_the_answer_and_the_conversation_goes_on() -> None:
    mentioned = "<|channel|>analysis<|message|>Use END.<|end|><|start|>assistant"
    long = mentioned + "<|channel|>final<|message|>One. END. Two.<|return|>"
    with answering(long, BYE) as runtime:
        chat = start(runtime, Constraints(stop=("END", "never")))

        events = list(chat.send("Go."))

        assert text_of(events, Reasoning) == "Use END."
        assert text_of(events, Answer) == "One. "
        last = done(events)
        assert last.finish_reason == "stop"
        assert last.stats.finish_details == ("stop_string",)
        assert chat.messages[1:] == [reasoning("Use END."), answer("One. ")]
        assert text_of(list(chat.send("Bye")), Answer) == "Bye."


def test_what_a_model_would_break_is_kept_whole() -> None:
    """The peers' most frequent fault: a header that is not one."""
    broken = "<|channel|>commentary?<|end|><|start|>assistant" + BYE
    with answering(broken) as runtime:
        assert isinstance(runtime.model, AnsweringModel)
        events = list(start(runtime).send("hi"))

    assert not [event for event in events if isinstance(event, ToolCall)]
    assert done(events).finish_reason in ("stop", "length")
