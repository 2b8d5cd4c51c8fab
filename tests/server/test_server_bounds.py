"""Many requests at once, or one that waits for long: what the others feel of it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from mlx_gptoss.api.errors import MAX_MESSAGE_CHARACTERS, ApiError
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import StorageError
from mlx_gptoss.server.responses.database import Database
from mlx_gptoss.server.responses.registry import ResponseRegistry
from mlx_gptoss.server.responses.store import FILE, STEPS, ResponseStore
from tests.support.answering_app import constant
from tests.support.serving import DATE, asked

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    with constant() as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
        ),
    ],
)
def test_an_error_does_not_repeat_a_long_name(
    fake: Runtime, path: str, asks: dict[str, object]
) -> None:
    async def work() -> httpx2.Response:
        async with asked(fake) as client:
            return await client.post(path, json=asks | {"model": "x" * 100_000})

    reply = asyncio.run(work())
    message = reply.json()["error"]["message"]

    assert (reply.status_code, len(message)) == (
        404,
        MAX_MESSAGE_CHARACTERS + len(" … "),
    )
    assert message.startswith("The model `xxx")
    assert message.endswith("xxx` does not exist: this server has `demo`")


def test_bodies_that_are_too_large_together_are_told_to_come_back(
    fake: Runtime,
) -> None:
    limits = RequestLimits(body_bytes=100_000, bodies=1)
    begin = b'{"messages": [{"role": "user", "content": "Hi"}], "user": "'
    end = b'"}'

    async def main() -> list[httpx2.Response]:
        sent, goes_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield begin + b"a" * 60_000
            sent.set()
            await goes_on.wait()
            yield end

        async with asked(fake, ServerSettings(date=DATE, limits=limits)) as client:
            body = begin + b"a" * 60_000 + end
            slow = asyncio.create_task(
                client.post(CHAT, content=slowly(), headers=JSON)
            )
            await sent.wait()
            second = await client.post(CHAT, content=body, headers=JSON)
            goes_on.set()
            first = await slow
            return [second, first, await client.post(CHAT, content=body, headers=JSON)]

    replies = asyncio.run(main())

    assert [reply.status_code for reply in replies] == [429, 200, 200]
    assert replies[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert replies[0].headers["retry-after"] == "5"


def test_who_waits_for_the_store_takes_no_thread_of_others(tmp_path: Path) -> None:
    store = ResponseStore.open(tmp_path / FILE)
    locked, gate, done = threading.Event(), threading.Event(), list[str]()

    def hold(_: object) -> None:
        locked.set()
        assert gate.wait(60)

    async def look(kept: ResponseRegistry) -> None:
        with pytest.raises(ApiError, match="no such response"):
            await kept.snapshot("resp_1")
        done.append("stored")

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        kept = ResponseRegistry(store)
        holding = threading.Thread(target=store._database.read, args=(hold,))
        holding.start()
        locked.wait(60)
        looking = [asyncio.create_task(look(kept)) for _ in range(3)]
        await asyncio.sleep(0)  # they begin
        await asyncio.to_thread(done.append, "other")
        gate.set()
        await asyncio.gather(*looking)
        holding.join()
        kept.close()

    asyncio.run(asyncio.wait_for(main(), 60))

    assert done == ["other", "stored", "stored", "stored"]


def test_who_waits_for_the_store_gives_up_beside_who_waits_first(
    tmp_path: Path,
) -> None:
    database = Database(tmp_path / FILE, STEPS, busy_seconds=0.05)
    locked, gate = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        locked.set()
        gate.wait(20)

    holding = threading.Thread(target=database.read, args=(hold,))
    holding.start()
    assert locked.wait(60)
    try:
        with pytest.raises(StorageError, match="another program is using it"):
            database.read(lambda _: None)
        assert holding.is_alive()
    finally:
        gate.set()
        holding.join()
