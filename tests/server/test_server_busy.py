"""A server with too much to do says so, and when to come back; nothing breaks."""

import asyncio
from typing import Any

import httpx2

from mlx_gptoss import load
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.scheduler import BatchOptions
from tests.support.serving import DATE, asked, question

FEW = BatchOptions(max_running=1, max_waiting=1)


def long_answer(text: str) -> dict[str, Any]:
    return question(text, max_tokens=60, reasoning_effort="high")


def test_who_does_not_fit_into_the_queue_is_told_when_to_come_back() -> None:
    async def work() -> list[httpx2.Response]:
        with load("demo", batch=FEW) as runtime:
            async with asked(runtime) as client:
                bodies = [long_answer(f"What is {n} + 285?") for n in range(401, 407)]
                return await asyncio.gather(
                    *(client.post("/v1/chat/completions", json=one) for one in bodies)
                )

    replies = asyncio.run(work())
    statuses = [one.status_code for one in replies]
    assert set(statuses) == {200, 429}
    refused = next(one for one in replies if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_a_stream_that_waits_tells_its_place_in_the_queue() -> None:
    quick = ServerSettings(date=DATE, limits=RequestLimits(heartbeat_seconds=0.01))

    async def work() -> list[httpx2.Response]:
        with load("demo", batch=BatchOptions(max_running=1, max_waiting=4)) as runtime:
            async with asked(runtime, quick) as client:
                texts = [f"What is {n} + 285?" for n in range(401, 404)]
                bodies = [long_answer(text) | {"stream": True} for text in texts]
                return await asyncio.gather(
                    *(client.post("/v1/chat/completions", json=one) for one in bodies)
                )

    replies = [one.text for one in asyncio.run(work())]
    assert any(": waiting, place 2 in the queue\n\n" in one for one in replies)
    assert all(one.endswith("data: [DONE]\n\n") for one in replies)


def test_a_prompt_that_memory_can_never_hold_is_told_what_would_help() -> None:
    async def work() -> tuple[httpx2.Response, httpx2.Response]:
        small = BatchOptions(kv_memory=3 * 2**20)
        with load("demo", batch=small) as runtime:
            async with asked(runtime, ServerSettings(date=DATE)) as client:
                [served] = (await client.get("/v1/models")).json()["data"]
                assert served["context_length"] == runtime.longest_sequence == 768
                long = question("word " * 4000)
                refused = await client.post("/v1/chat/completions", json=long)
                brief = question("Hi!", max_tokens=4)
                return refused, await client.post("/v1/chat/completions", json=brief)

    refused, after = asyncio.run(work())
    assert refused.status_code == 507
    error = refused.json()["error"]
    assert error["code"] == "insufficient_memory"
    assert "shorten it" in error["message"]
    assert after.status_code == 200


def ask_all(
    batch: BatchOptions, asks: list[tuple[str, dict[str, Any]]]
) -> list[httpx2.Response]:
    """Ask one after another; nobody waits for anybody else."""

    async def work() -> list[httpx2.Response]:
        with load("demo", batch=batch) as runtime:
            async with asked(runtime) as client:
                return [await client.post(path, json=body) for path, body in asks]

    return asyncio.run(work())


def test_without_a_queue_an_idle_server_answers() -> None:
    none = BatchOptions(max_running=1, max_waiting=0)
    brief = question("Hi!", max_tokens=2)
    replies = ask_all(none, [("/v1/chat/completions", brief)] * 8)

    assert [one.status_code for one in replies] == [200] * 8


def test_choices_that_find_no_place_are_computed_after_the_others() -> None:
    none = BatchOptions(max_running=3, max_waiting=0)
    many = question("Hi!", n=16, max_tokens=2)
    prompts = {"prompt": ["a", "b", "c", "d"], "n": 2, "max_tokens": 2}
    chat, raw = ask_all(
        none, [("/v1/chat/completions", many), ("/v1/completions", prompts)]
    )

    assert [len(one.json()["choices"]) for one in (chat, raw)] == [16, 8]


def test_without_a_queue_who_cannot_begin_is_told_to_come_back() -> None:
    async def work() -> list[httpx2.Response]:
        with load("demo", batch=BatchOptions(max_running=1, max_waiting=0)) as runtime:
            async with asked(runtime) as client:
                bodies = [long_answer(f"What is {n} + 285?") for n in range(401, 405)]
                return await asyncio.gather(
                    *(client.post("/v1/chat/completions", json=one) for one in bodies)
                )

    statuses = sorted(one.status_code for one in asyncio.run(work()))
    assert statuses[0] == 200
    assert statuses[-1] == 429
