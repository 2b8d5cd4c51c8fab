"""A server that ends: what runs then, waits, or comes too late hears of it.

Each client sees an error in the form of its API, streamed or not, and official ones
raise it; the log has a line and no trace.
"""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from mlx_gptoss.api.errors import draining
from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt
from mlx_gptoss.api.reply_parser import ReplyParser
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.raw_text import TextParser
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from tests.server.test_server_disconnect import ASKS, ENDLESS
from tests.server.test_server_process import (
    PATIENCE,
    endless,
    running,
    started,
    wait_until,
)
from tests.support import sse
from tests.support.answering_app import constant
from tests.support.live import Live, live
from tests.support.serving import DATE

SAID = "the server is shutting down"
LONG = {"max_tokens": 3000, "max_output_tokens": 3000}


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Live]:
    """A server whose answers do not end before the test does."""
    with (
        constant(ENDLESS, step_seconds=0.005) as runtime,
        live(runtime, ServerSettings(date=DATE, store=tmp_path)) as found,
    ):
        yield found


def cut(server: Live) -> None:
    """What is done when the time to drain is over."""
    server.loop.call_soon_threadsafe(server.service.drain.abort)


@pytest.mark.parametrize("path", ASKS)
def test_an_answer_that_is_cut_ends_with_the_error_of_its_api(
    slow: Live, path: str
) -> None:
    body = ASKS[path] | LONG
    with ThreadPoolExecutor() as pool, httpx2.Client(timeout=60) as client:
        url = f"{slow.url}{path}"
        whole = pool.submit(client.post, url, json=body)
        with client.stream("POST", url, json=body | {"stream": True}) as reply:
            events = sse.read(reply.iter_lines())
            next(events)
            wait_until(lambda: slow.service.models.active_leases == 2)
            cut(slow)
            last = [one.data for one in events if one.data != sse.DONE][-1]
        told = whole.result()
    slow.wait_until_quiet()

    assert last["error"]["message"] == SAID
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert told.json()["error"]["message"] == SAID


def test_a_response_that_is_cut_is_stored_as_one_that_failed(slow: Live) -> None:
    body: dict[str, Any] = {"input": "Is it?", "max_output_tokens": 3000}
    client = openai.OpenAI(base_url=f"{slow.url}/v1", api_key="x", max_retries=0)
    kinds, ids = [], []
    with pytest.raises(openai.APIError, match=SAID):
        for event in client.responses.create(stream=True, **body):
            if event.type == "response.created":
                ids.append(event.response.id)
                cut(slow)
            kinds.append(event.type)

    assert kinds[-1] == "response.failed"
    assert client.responses.retrieve(ids[0]).status == "failed"


def test_what_comes_while_it_drains_is_told_to_come_back(slow: Live) -> None:
    slow.service.drain.start()
    with httpx2.Client(base_url=slow.url, timeout=60) as client:
        for path, body in ASKS.items():
            reply = client.post(path, json=body)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert client.get("/health").json()["status"] == "ok"


def test_an_answer_that_has_ended_is_not_cut() -> None:
    async def ended_then_failed(runtime: Runtime) -> AnswerStream:
        reader = ReplyParser(TextParser(runtime.tokenizer))
        params = SamplingParams(max_tokens=3, temperature=0)
        turn = AnswerStream(runtime, PreparedPrompt([1, 2], params, reader))
        await turn.start()
        while turn.stats is None:
            await asyncio.sleep(0.005)
        turn.fail(draining())
        async for _ in turn:
            pass
        return turn

    with constant() as runtime:
        turn = asyncio.run(ended_then_failed(runtime))

    assert turn.finish_reason == "stop"


def test_official_clients_raise_when_a_server_ends(tmp_path: Path) -> None:
    """Answers that run, one that waits, and a body that never comes, in a process."""
    ended: dict[str, BaseException] = {}

    def ask(name: str, work: Callable[[], Any]) -> None:
        try:
            answer = work()
            for _ in answer if name.startswith("stream") else ():
                pass
        except (openai.APIError, anthropic.APIError) as error:
            ended[name] = error

    with started(tmp_path, "--drain", "0.3s", "--parallel", "4") as process:
        asks = questions(process.ready)
        threads = [threading.Thread(target=ask, args=pair) for pair in asks.items()]
        for thread in threads:
            thread.start()
        with half_a_request(process.ready) as half:
            wait_until(lambda: running(process) == len(asks))
            process.child.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert process.child.wait(PATIENCE) == 0
            assert time.monotonic() - begun < 20
            told = half.recv(65536).decode()
        for thread in threads:
            thread.join(PATIENCE)
        log = process.said()

    assert ended.keys() == asks.keys()
    assert all(SAID in str(error) for error in ended.values())
    whole = [error for name, error in ended.items() if name.startswith("whole")]
    statuses = [getattr(error, "status_code", None) for error in whole]
    assert statuses == [503] * len(whole)
    assert told.startswith("HTTP/1.1 503") and SAID in told
    assert "Traceback" not in log
    assert "requests aborted at the end of the drain time: " in log


def half_a_request(ready: dict[str, Any]) -> socket.socket:
    """A connection whose client has not sent all of its body."""
    port = int(ready["url"].rpartition(":")[2])
    half = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        f"Authorization: Bearer {ready['token']}\r\n\r\n{{"
    )
    half.sendall(head.encode())
    return half


def questions(ready: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """One for each API, streamed and whole, none of which comes to an end."""
    key: dict[str, Any] = {"api_key": ready["token"], "max_retries": 0}
    openais = openai.OpenAI(base_url=f"{ready['url']}/v1", **key)
    anthropics = anthropic.Anthropic(base_url=ready["url"], **key)
    bias = endless()["logit_bias"]
    talk: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Count to a million."}],
        "extra_body": {"logit_bias": bias, "max_reasoning_tokens": -1},
    }
    raw: dict[str, Any] = {"model": "demo", **endless()}
    items: dict[str, Any] = {
        "model": "demo",
        "input": "Count to a million.",
        "extra_body": talk["extra_body"],
    }
    many: dict[str, Any] = {"max_tokens": 100_000}
    return {
        "stream chat": lambda: openais.chat.completions.create(stream=True, **talk),
        "stream raw": lambda: openais.completions.create(stream=True, **raw),
        "stream items": lambda: openais.responses.create(stream=True, **items),
        "stream talk": lambda: anthropics.messages.create(stream=True, **talk, **many),
        "whole chat": lambda: openais.chat.completions.create(**talk),
        "whole raw": lambda: openais.completions.create(**raw),
        "whole items": lambda: openais.responses.create(**items),
        "whole two": lambda: openais.chat.completions.create(n=2, **talk),
    }
