"""Long requests do not delay others, and are rejected early."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.thread_pools import LONG_WORK, ThreadPools
from tests.support.long_requests import CONTEXT, Client, run
from tests.support.serve_process import serve
from tests.support.serving import WEATHER

MB = 10**6
ALLOWED = 32 * 2**20  # bytes of a body
GROWTH = 150 * MB  # what a server may keep of bodies that it refused
HEALTH_SECONDS = 5.0  # on a machine that is busy with other tests
TEXT = "so it goes " * 40_000  # more bytes than so many of the longest tokens
USER = {"role": "user", "content": TEXT}
REFUSED = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/chat/render": {"messages": [USER]},
    "/v1/responses": {"input": TEXT},
    "/v1/responses/render": {"input": TEXT},
    "/v1/responses/input_tokens": {"input": TEXT},
    "/v1/messages": {"messages": [USER], "max_tokens": 9},
    "/v1/messages/render": {"messages": [USER], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/completions": {"prompt": ["Hi", TEXT]},
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo", context=CONTEXT) as runtime:
        yield runtime


@pytest.mark.parametrize("path", REFUSED)
def test_a_prompt_that_can_never_fit_is_refused_in_the_words_of_its_api(
    demo: Runtime, path: str
) -> None:
    assert len(TEXT) // len(demo.tokenizer._spellings[0]) > CONTEXT

    reply = run(demo, lambda client: client.post(path, json=REFUSED[path]))

    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    if path.startswith("/v1/messages"):
        assert "prompt is too long: " in error["message"]
        assert f"tokens > {CONTEXT - 1} maximum (at least" in error["message"]
    else:
        assert error["code"] == "context_length_exceeded"
        assert " tokens or more and leave no room" in error["message"]


def test_names_of_tokens_without_number_are_refused(demo: Runtime) -> None:
    body = {"prompt": "<|start|>" * 20_000, "parse_special": True}

    reply = run(demo, lambda client: client.post("/v1/completions", json=body))

    says = "resulted in 20000 tokens or more and leave no room"
    assert (reply.status_code, says in reply.json()["error"]["message"]) == (400, True)


def test_what_is_only_counted_may_fill_the_context(demo: Runtime) -> None:
    text = "so it goes " * (CONTEXT // 2)  # some 3,000 tokens

    reply = run(
        demo,
        lambda client: client.post(
            "/v1/messages/count_tokens",
            json={"messages": [{"role": "user", "content": text}]},
        ),
    )

    assert reply.json()["input_tokens"] > CONTEXT


def test_an_outgrown_conversation_is_shortened_however_long_it_is(
    demo: Runtime,
) -> None:
    items = [USER, {"role": "assistant", "content": "Yes."}]
    items.append({"role": "user", "content": "Hello!"})
    body = {"input": items, "truncation": "auto"}

    reply = run(demo, lambda client: client.post("/v1/responses/render", json=body))

    assert reply.json()["prompt"].count("so it goes") == 0
    assert "Hello!" in reply.json()["prompt"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"tools": [WEATHER]}),
        ("/v1/chat/render", {"tools": [WEATHER]}),
        ("/v1/messages", {"tools": [{"name": "f", "input_schema": {}}]}),
        ("/v1/responses", {"tools": [{"type": "function", "name": "f"}]}),
    ],
)
def test_no_tool_is_read_or_checked_in_the_event_loop(
    demo: Runtime, path: str, body: dict[str, Any]
) -> None:
    ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1} | body
    if path == "/v1/responses":
        ask = {"input": "Hi", "max_output_tokens": 1} | body
    called: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        called.add(frame.f_code.co_name)

    async def work(client: Client) -> Any:
        sys.setprofile(note)  # of this thread, which is the event loop's
        try:
            return await client.post(path, json=ask)
        finally:
            sys.setprofile(None)

    reply = run(demo, work)

    assert reply.status_code == 200
    assert "read_and_handle" in called
    checks = {"check_tools", "check_schema", "check_depth", "depth_of", "read_tool"}
    assert called & {*checks, "check_served", "encode_pieces", "_encode"} == set()


def test_long_work_does_not_keep_short_work_waiting() -> None:
    async def main() -> tuple[list[str], set[int]]:
        lanes, gate, done = ThreadPools(), threading.Event(), list[str]()

        def long() -> int:
            assert gate.wait(60)
            done.append("long")
            return threading.get_ident()

        work = [lanes.run(LONG_WORK + 1, long) for _ in range(3)]
        waiting = [asyncio.ensure_future(one) for one in work]
        await lanes.run(LONG_WORK, done.append, "short")
        await lanes.compile(1, done.append, "grammar")
        gate.set()
        threads = set(await asyncio.gather(*waiting))
        lanes.close()
        return done, threads

    done, threads = asyncio.run(main())

    assert done == ["short", "grammar", "long", "long", "long"]
    assert len(threads) == 1


def test_a_server_answers_beside_the_largest_prompt_and_gives_its_memory_back() -> None:
    chance = random.Random(0)
    words = ["the", "river", "was", "wide", "12", "and", "slow,", "\n"]
    text = " ".join(chance.choices(words, k=50_000)) + " "
    prompts = [(text * 200)[: ALLOWED - MB], *[(text * 9)[: MB // 2]] * 3]
    bodies = [{"messages": [{"role": "user", "content": one}]} for one in prompts]
    with serve("--context", str(8 * CONTEXT)) as server:
        key = {"authorization": f"Bearer {server.token}"}
        with httpx2.Client(base_url=server.v1, headers=key, timeout=120) as client:
            client.post("/completions", json={"prompt": "Hi", "max_tokens": 1})
            before = psutil.Process(server.pid).memory_info().rss
            waits, replies = beside(client, server.url, bodies)
            kept = psutil.Process(server.pid).memory_info().rss - before

    assert [reply.status_code for reply in replies] == [400] * 4
    assert {reply.json()["error"]["code"] for reply in replies} == {
        "context_length_exceeded"
    }
    assert len(waits) > 1 and max(waits) < HEALTH_SECONDS
    assert kept < GROWTH


def beside(
    client: httpx2.Client, url: str, bodies: list[Any]
) -> tuple[list[float], list[httpx2.Response]]:
    """Send all at once; how long `/health` took meanwhile, and their replies."""
    replies: list[httpx2.Response] = []

    def ask(body: Any) -> None:
        replies.append(client.post("/chat/completions", json=body))

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    waits: list[float] = []
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 200
        waits.append(time.monotonic() - began)
    return waits, replies
