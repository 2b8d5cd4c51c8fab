"""The `anthropic` library against a real server."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.serve_process import Served

anthropic = pytest.importorskip("anthropic", reason="pip install 'mlx-gptoss[test]'")

ASK = "What is the weather in Oslo?"
SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"
GREEDY = {"temperature": 0}  # the library has no such argument any more
TOOL: Any = {
    "name": "get_weather",
    "description": "Gets the weather for a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with anthropic.Anthropic(
        base_url=served.url, api_key=served.token, max_retries=0, timeout=120
    ) as opened:
        yield opened


def ask(client: Any, *messages: Any, **more: Any) -> Any:
    return client.messages.create(
        model="demo",
        max_tokens=1024,
        messages=list(messages),
        extra_body=GREEDY,
        **more,
    )


def text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_is_answered(client: Any) -> None:
    reply = ask(client, user(SUM), system="Be brief.")
    assert (text(reply), reply.stop_reason) == (TOTAL, "end_turn")
    assert reply.usage.input_tokens > 0 and reply.usage.output_tokens > 0


def test_a_message_streams_to_the_same_message(client: Any) -> None:
    with client.messages.stream(
        model="demo", max_tokens=1024, messages=[user(SUM)], extra_body=GREEDY
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text(final) == TOTAL
    assert len(pieces) > 3


def test_a_tool_is_used_and_its_result_answered(client: Any) -> None:
    first = ask(client, user(ASK), tools=[TOOL])
    assert first.stop_reason == "tool_use"
    (use,) = [block for block in first.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": use.id}
    result["content"] = '{"temperature": 21}'
    back = {"role": "assistant", "content": first.content}
    last = ask(client, user(ASK), back, user([result]), tools=[TOOL])
    assert (text(last), last.stop_reason) == ("The temperature is 21.", "end_turn")


def test_a_streamed_tool_use_gathers_its_input(client: Any) -> None:
    with client.messages.stream(
        model="demo",
        max_tokens=1024,
        messages=[user(ASK)],
        tools=[TOOL],
        extra_body=GREEDY,
    ) as stream:
        final = stream.get_final_message()
    assert final.content[-1].input == {"city": "Oslo"}


def test_a_tool_can_be_demanded(client: Any) -> None:
    choice = {"type": "tool", "name": "get_weather"}
    schema = {"type": "string", "maxLength": 12}  # or it would have no end
    schema = {"type": "object", "properties": {"city": schema}, "required": ["city"]}
    tools = [TOOL | {"input_schema": schema}]
    reply = ask(client, user("Hello!"), tools=tools, tool_choice=choice)
    assert reply.content[-1].name == "get_weather"


def test_thinking_comes_apart_and_may_be_sent_back(client: Any) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    first = client.messages.create(
        model="demo",
        max_tokens=2048,
        messages=[user(SUM)],
        thinking=thinking,
        extra_body=GREEDY,
    )
    assert first.content[0].type == "thinking" and first.content[0].thinking
    back = {"role": "assistant", "content": first.content}
    again = ask(client, user(SUM), back, user("Hello!"))
    assert text(again)


def test_a_limit_is_the_stop_reason(client: Any) -> None:
    reply = client.messages.create(model="demo", max_tokens=5, messages=[user(SUM)])
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 5)


def test_errors_are_those_the_library_knows(served: Served, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", max_tokens=9, messages=[user("Hi")])
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="demo", max_tokens=0, messages=[user("Hi")])
    stranger = anthropic.Anthropic(base_url=served.url, api_key="other", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="demo", max_tokens=9, messages=[user("Hi")])
