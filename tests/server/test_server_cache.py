"""A server reads ahead: the next request of a conversation reads its own words only."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.messages import tool_result, user
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.serving import WEATHER, asked, question

PATIENCE = 30.0  # seconds, for work that takes none


@pytest.fixture
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


async def ask(client: httpx2.AsyncClient, messages: list[Any], **fields: Any) -> Any:
    body = question("", **fields) | {"messages": messages}
    return (await client.post("/v1/chat/completions", json=body)).json()


async def idle(runtime: Runtime, tokens: int) -> None:
    """Wait until so many tokens were read ahead since the start."""
    async with asyncio.timeout(PATIENCE):
        while runtime.cache_statistics.prepared_tokens < tokens:
            await asyncio.sleep(0.02)


def read(reply: Any) -> int:
    usage = reply["usage"]
    return usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]


def test_the_next_turn_reads_the_new_question_only(demo: Runtime) -> None:
    async def work() -> int:
        async with asked(demo) as client:
            messages = [{"role": "user", "content": "What is 417 + 285?"}]
            first = await ask(client, messages)
            answer = first["choices"][0]["message"]["content"]
            await idle(demo, len(demo.tokenizer.encode(answer)))
            messages += [{"role": "assistant", "content": answer}]
            messages += [{"role": "user", "content": "And 1 + 1?"}]
            return read(await ask(client, messages))

    new = render_messages([user("And 1 + 1?")], demo.tokenizer)
    assert asyncio.run(work()) == len(new)


def test_a_result_is_read_alone_although_its_reasoning_was_left_out(
    demo: Runtime,
) -> None:
    text = '{"temperature": 21}'

    async def work() -> int:
        async with asked(demo) as client:
            messages: list[Any] = [
                {"role": "user", "content": "What is the weather in Oslo?"}
            ]
            first = await ask(client, messages, tools=[WEATHER])
            said = first["choices"][0]["message"]
            [call] = said["tool_calls"]
            messages.append({"role": "assistant", "tool_calls": [call]})
            messages.append(
                {"role": "tool", "tool_call_id": call["id"], "content": text}
            )
            return read(await ask(client, messages, tools=[WEATHER]))

    new = render_messages([tool_result("get_weather", text)], demo.tokenizer)
    assert asyncio.run(work()) == len(new)


def test_figures_tell_the_bytes_of_prompts_and_their_bound(demo: Runtime) -> None:
    async def work() -> str:
        async with asked(demo) as client:
            await ask(client, [{"role": "user", "content": "What is 417 + 285?"}])
            demo.run(lambda: None)  # the answer has given its cache back
            return (await client.get("/metrics")).text

    figures = dict(line.rsplit(" ", 1) for line in asyncio.run(work()).splitlines())
    name = 'mlx_gptoss_prompt_cache{}bytes{{model="demo"}}'
    size = demo.cache_size
    assert float(figures[name.format("_")]) > 100_000
    assert float(figures[name.format("_limit_")]) == size.limit > size.nbytes
