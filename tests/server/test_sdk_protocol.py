"""The protocols as the clients' own types have them, and loops of real agents.

Over a real socket and the demo model: the `openai` and `anthropic` packages, and the
loop of `openai-agents`.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from mlx_gptoss import load
from mlx_gptoss.api.settings import ServerSettings
from tests.support import sse
from tests.support.live import Live, live
from tests.support.response_events import rebuilt
from tests.support.serving import DATE, WEATHER

OSLO = "What is the weather in Oslo?"
FUNCTION: Any = {"type": "function", **WEATHER["function"]}
TOOL: Any = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
PING = {"type": "ping"}
CLIENTS = "pip install 'mlx-gptoss[clients]'"
CELSIUS = '{"temperature": 21}'


class Ping(BaseModel):
    """An event that Anthropic's client knows and has no type for."""

    type: Literal["ping"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("store")
    with (
        load("demo") as runtime,
        live(runtime, ServerSettings(date=DATE, store=folder)) as it,
    ):
        yield it


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
        yield made


@pytest.fixture(scope="module")
def claude(server: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none") as made:
        yield made


def judged(reply: Any, kind: Any) -> list[Any]:
    """The data of a stream, each held against the client's own type."""
    types: TypeAdapter[Any] = TypeAdapter(kind)
    found = sse.objects("\n".join([*reply.iter_lines(), ""]))
    for one in found:
        types.validate_json(json.dumps(one), strict=True)
    return found


@pytest.mark.parametrize("summary", [None, "auto"])
def test_responses_events_are_of_openais_types(
    client: openai.OpenAI, summary: Any
) -> None:
    with client.responses.with_streaming_response.create(
        model="demo",
        input=OSLO,
        tools=[FUNCTION],
        temperature=0,
        stream=True,
        reasoning={"summary": summary},
    ) as reply:
        events = judged(reply, ResponseStreamEvent)

    Response.model_validate_json(json.dumps(rebuilt(events)), strict=True)


@pytest.mark.parametrize("text", [OSLO, "Hello!"])
def test_chat_completions_are_of_openais_types(
    client: openai.OpenAI, text: str
) -> None:
    ask: Any = {
        "model": "demo",
        "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": WEATHER["function"]}],
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.with_raw_response.create(**ask).text
    usage: Any = {"include_usage": True}
    with client.chat.completions.with_streaming_response.create(
        **ask, stream=True, stream_options=usage
    ) as reply:
        chunks = judged(reply, ChatCompletionChunk)

    [found] = ChatCompletion.model_validate_json(whole, strict=True).choices
    assert found.message.annotations == []
    assert found.logprobs and "refusal" in found.logprobs.model_fields_set
    assert bool(found.message.tool_calls) == (text == OSLO)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]


def test_messages_are_of_anthropics_types(claude: anthropic.Anthropic) -> None:
    ask: Any = {
        "model": "demo",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": OSLO}],
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "extra_body": {"temperature": 0},
    }
    whole = claude.messages.with_raw_response.create(**ask).text()
    with claude.messages.with_streaming_response.create(**ask, stream=True) as reply:
        ping, *events = sorted(
            judged(reply, RawMessageStreamEvent | Ping), key=lambda one: one != PING
        )

    found = AnthropicMessage.model_validate_json(whole, strict=True)
    assert [block.type for block in found.content] == ["thinking", "tool_use"]
    assert found.usage.cache_creation and found.usage.service_tier == "standard"
    assert (ping, events[0]["type"]) == (PING, "message_start")


def test_openais_client_streams_and_goes_on_by_id(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="demo", input=OSLO, tools=[FUNCTION], temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_response()
    call: Any = first.output[-1]
    second = client.responses.create(
        model="demo",
        previous_response_id=first.id,
        tools=[FUNCTION],
        temperature=0,
        input=[
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": CELSIUS,
            }
        ],
    )

    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    assert "21" in second.output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    listed = client.responses.input_items.list(second.id, order="asc")
    assert [one.type for one in listed][-1] == "function_call_output"
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


class City(BaseModel):
    city: Literal["Oslo", "Rome"]


def test_openais_client_parses_a_pydantic_answer(client: openai.OpenAI) -> None:
    found = client.responses.parse(
        model="demo",
        input=OSLO,
        temperature=0,
        text_format=City,
        max_output_tokens=800,
    )

    assert isinstance(found.output_parsed, City)


def test_anthropics_client_streams_a_tool_loop(claude: anthropic.Anthropic) -> None:
    fields: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 500,
        "extra_body": {"temperature": 0},  # this client knows it no longer
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    question: Any = {"role": "user", "content": OSLO}
    with claude.messages.stream(messages=[question], **fields) as stream:
        kinds = [event.type for event in stream]
        first = stream.get_final_message()
    use: Any = first.content[-1]
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": CELSIUS}
    second = claude.messages.create(
        messages=[
            question,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ],
        **fields,
    )

    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert (first.stop_reason, use.input) == ("tool_use", {"city": "Oslo"})
    answer: Any = second.content[-1]
    assert "21" in answer.text
    assert second.usage.cache_read_input_tokens


def test_anthropics_client_counts_and_reads_errors(claude: anthropic.Anthropic) -> None:
    question: Any = {"role": "user", "content": OSLO}
    counted = claude.messages.count_tokens(model="demo", messages=[question])
    found = claude.messages.create(model="demo", messages=[question], max_tokens=5)
    used = found.usage
    with pytest.raises(anthropic.BadRequestError) as wrong:
        claude.messages.create(model="demo", messages=[question], max_tokens=0)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="no", messages=[question], max_tokens=5)

    read = used.input_tokens + (used.cache_read_input_tokens or 0)
    assert counted.input_tokens == read
    assert wrong.value.type == "invalid_request_error"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("by_id", [False, True], ids=["items", "by-id"])
def test_the_loop_of_openais_agents_runs(
    server: Live, streamed: bool, by_id: bool
) -> None:
    agents: Any = pytest.importorskip("agents", reason=CLIENTS)
    asked: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Gets the weather for a city."""
        asked.append(city)
        return CELSIUS

    async def work() -> Any:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none"
        ) as client:
            agent = agents.Agent(
                name="weather",
                tools=[get_weather],
                model=agents.OpenAIResponsesModel("demo", client),
                model_settings=agents.ModelSettings(temperature=0),
            )
            config = agents.RunConfig(tracing_disabled=True)
            more: dict[str, Any] = {"auto_previous_response_id": by_id}
            if not streamed:
                return await agents.Runner.run(agent, OSLO, run_config=config, **more)
            result = agents.Runner.run_streamed(agent, OSLO, run_config=config, **more)
            async for _ in result.stream_events():
                pass
            return result

    found = asyncio.run(work())
    assert asked == ["Oslo"]
    assert "21" in str(found.final_output)
