"""The `openai` library against a real server: a stranger's script, its URL changed."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.support.serve_process import Served

openai = pytest.importorskip("openai", reason="pip install 'mlx-gptoss[test]'")

ASK = "What is the weather in Oslo?"
ANSWER = "The temperature is 21."
SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
DESCRIBED = {
    "name": "get_weather",
    "description": "Gets the weather for a city.",
    "parameters": PARAMETERS,
}
# Nobody asks for a call there, so the tiny model would write a name without an end.
SHORT = PARAMETERS | {"properties": {"city": {"type": "string", "maxLength": 12}}}
SHORT_TOOL: Any = {"type": "function", "function": DESCRIBED | {"parameters": SHORT}}
TOOL: Any = {"type": "function", "function": DESCRIBED}
FLAT_TOOL: Any = {"type": "function", "strict": False} | DESCRIBED
PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files."}


class Person(BaseModel):
    """What answers are parsed into."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=served.v1, api_key=served.token, max_retries=0, timeout=120
    ) as opened:
        yield opened


def chat(client: Any, text: str, **more: Any) -> Any:
    messages = more.pop("messages", None) or user(text)
    return client.chat.completions.create(
        model="demo", messages=messages, temperature=0, **more
    )


def respond(client: Any, asked: Any, **more: Any) -> Any:
    return client.responses.create(model="demo", input=asked, temperature=0, **more)


# chat completions


def test_the_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"


def test_a_chat_answers_and_counts(client: Any) -> None:
    reply = chat(client, SUM)
    assert reply.choices[0].message.content == TOTAL
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (
        0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    )
    assert reply.choices[0].message.reasoning.startswith("I work in columns.")


def test_a_chat_streams_the_same_text(client: Any) -> None:
    chunks = list(
        chat(client, SUM, stream=True, stream_options={"include_usage": True})
    )
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == TOTAL
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
    assert len(deltas) > 5
    assert chunks[-1].usage.completion_tokens > 0


def test_a_tool_is_called_and_its_result_answered(client: Any) -> None:
    first = chat(client, ASK, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert (call.function.name, call.function.arguments) == (
        "get_weather",
        '{"city":"Oslo"}',
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
    messages = [*user(ASK), first.message, result]
    last = chat(client, "", messages=messages, tools=[TOOL]).choices[0]
    assert (last.finish_reason, last.message.content) == ("stop", ANSWER)


def test_the_streaming_helper_gathers_a_call(client: Any) -> None:
    with client.chat.completions.stream(
        model="demo", messages=user(ASK), tools=[TOOL], temperature=0
    ) as stream:
        events = list(stream)
        choice = stream.get_final_completion().choices[0]
    kinds = {event.type for event in events}
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_can_be_demanded(client: Any, choice: Any) -> None:
    reply = chat(client, "Hello!", tools=[SHORT_TOOL], tool_choice=choice).choices[0]
    (call,) = reply.message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert reply.finish_reason == "tool_calls"


def test_no_call_is_made_where_none_may_be(client: Any) -> None:
    reply = chat(client, ASK, tools=[TOOL], tool_choice="none").choices[0]
    assert (reply.message.tool_calls, reply.finish_reason) == (None, "stop")


def test_an_answer_is_parsed_into_a_pydantic_model(client: Any) -> None:
    reply = client.chat.completions.parse(
        model="demo",
        messages=user("My name is Maria."),
        response_format=Person,
        temperature=0,
    )
    assert isinstance(reply.choices[0].message.parsed, Person)


def test_arguments_are_parsed_into_a_pydantic_model(client: Any) -> None:
    class GetWeather(BaseModel):
        """Gets the weather for a city."""

        city: str

    reply = client.chat.completions.parse(
        model="demo",
        messages=user(ASK),
        tools=[openai.pydantic_function_tool(GetWeather, name="get_weather")],
        temperature=0,
    )
    (call,) = reply.choices[0].message.tool_calls
    assert call.function.parsed_arguments == GetWeather(city="Oslo")


def test_an_answer_may_be_any_json_object(client: Any) -> None:
    reply = chat(
        client,
        "Hello!",
        response_format={"type": "json_object"},
        max_completion_tokens=300,
        reasoning_effort="low",
    ).choices[0]
    if reply.finish_reason == "stop":
        assert isinstance(json.loads(reply.message.content), dict)
    else:  # an object of a model that finds no end is cut, and said to be
        assert reply.finish_reason == "length"


def test_logprobs_come_with_their_alternatives(client: Any) -> None:
    reply = chat(client, SUM, logprobs=True, top_logprobs=3)
    tokens = reply.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == TOTAL
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in tokens)


def test_several_choices_and_the_same_seed_again(client: Any) -> None:
    options = {"model": "demo", "messages": user("Hello!"), "n": 2, "seed": 7}
    first, second = (client.chat.completions.create(**options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1]
    assert texts == [choice.message.content for choice in second.choices]


def test_a_stop_string_ends_the_answer_before_it(client: Any) -> None:
    assert chat(client, SUM, stop=[" ="]).choices[0].message.content == "417 + 285"


def test_a_limit_cuts_and_says_so(client: Any) -> None:
    reply = chat(client, SUM, max_completion_tokens=5)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 5


def test_a_raw_prompt_is_completed(client: Any) -> None:
    reply = client.completions.create(model="demo", prompt="One two", max_tokens=4)
    assert reply.usage.completion_tokens == 4
    assert reply.object == "text_completion"


def test_requests_of_one_moment_keep_their_answers(served: Served) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=served.v1, api_key=served.token, max_retries=0
        ) as client:
            asked = [
                client.chat.completions.create(
                    model="demo", messages=user(f"What is {n} + 100?"), temperature=0
                )
                for n in (211, 322, 433)
            ]
            replies = await asyncio.gather(*asked)
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(ask_all()) == [
        "211 + 100 = 311",
        "322 + 100 = 422",
        "433 + 100 = 533",
    ]


# errors


def test_errors_are_those_the_library_knows(served: Served, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="demo") as unknown:
        client.chat.completions.create(model="gpt-5", messages=user("Hi"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        chat(client, "Hi", top_p=7)
    assert wrong.value.param == "top_p"
    with pytest.raises(openai.BadRequestError):
        chat(
            client, "", messages=[{"role": "tool", "content": "x", "tool_call_id": "y"}]
        )
    stranger = openai.OpenAI(base_url=served.v1, api_key="other", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


# responses


def test_a_response_answers_and_reasons_apart(client: Any) -> None:
    reply = respond(client, SUM, store=False)
    assert (reply.status, reply.output_text) == ("completed", TOTAL)
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.output[0].content[0].text.startswith("I work in columns.")
    assert reply.usage.output_tokens_details.reasoning_tokens > 0


def test_a_response_streams_to_the_same_response(client: Any) -> None:
    with client.responses.stream(model="demo", input=SUM, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert {"response.reasoning_text.delta", "response.output_text.delta"} <= set(kinds)
    assert final.output_text == TOTAL


def test_a_response_calls_a_tool_and_takes_its_result(client: Any) -> None:
    first = respond(client, ASK, tools=[FLAT_TOOL], store=False)
    call = first.output[-1]
    assert (call.type, call.name, call.arguments) == (
        "function_call",
        "get_weather",
        '{"city":"Oslo"}',
    )
    result = {"type": "function_call_output", "call_id": call.call_id}
    asked = [*user(ASK), *first.output, result | {"output": '{"temperature": 21}'}]
    last = respond(client, asked, tools=[FLAT_TOOL], store=False)
    assert last.output_text == ANSWER


def test_a_stored_response_is_gone_on_from(client: Any) -> None:
    first = respond(client, ASK, tools=[FLAT_TOOL])
    result = {"type": "function_call_output", "call_id": first.output[-1].call_id}
    last = respond(
        client,
        [result | {"output": '{"temperature": 21}'}],
        tools=[FLAT_TOOL],
        previous_response_id=first.id,
    )
    assert last.output_text == ANSWER
    assert last.previous_response_id == first.id


def test_a_stored_response_is_found_and_forgotten(client: Any) -> None:
    made = respond(client, SUM)
    assert client.responses.retrieve(made.id).output_text == TOTAL
    (asked,) = client.responses.input_items.list(made.id).data
    assert asked.content[0].text == SUM
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_response_is_parsed_into_a_pydantic_model(client: Any) -> None:
    reply = client.responses.parse(
        model="demo", input="My name is Maria.", text_format=Person, temperature=0
    )
    assert isinstance(reply.output_parsed, Person)


def test_a_custom_tool_is_called_with_text(client: Any) -> None:
    with client.responses.stream(
        model="demo",
        input="Add a file.",
        tools=[PATCH],
        tool_choice={"type": "custom", "name": "apply_patch"},
        reasoning={"effort": "low"},
        temperature=0,
        max_output_tokens=200,
        store=False,
    ) as stream:
        events = list(stream)
    reply = events[-1].response  # cut, maybe: the library wants a completed one
    kinds = {event.type for event in events}
    calls = [item for item in reply.output if item.type == "custom_tool_call"]
    assert calls[0].name == "apply_patch"
    assert "response.custom_tool_call_input.delta" in kinds


def test_a_response_that_was_cut_is_incomplete(client: Any) -> None:
    reply = respond(client, SUM, max_output_tokens=5, store=False)
    assert (reply.status, reply.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
