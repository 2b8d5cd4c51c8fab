"""Streams say how their prompt is read: in comments, and in fields on request."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from time import sleep
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.memory import PREFILL_CHUNK as CHUNK
from tests.support import sse
from tests.support.scripted_chat import scripted_runtime
from tests.support.serving import asked

LONG = "word " * 300  # a token per byte: several chunks of prefill
MESSAGES = [{"role": "user", "content": LONG}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": LONG, "max_tokens": 4},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 50},
    "/v1/responses": {"input": LONG},
}
COMMENT = re.compile(r"^: prompt (\d+)/(\d+) tokens, [\d,.]+ tok/s, .* left$", re.M)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with scripted_runtime("<|channel|>final<|message|>Yes.<|return|>") as runtime:
        hidden = runtime.model.hidden

        def slow_prefill(ids: mx.array, *arguments: Any, **options: Any) -> Any:
            sleep(0.06 if ids.shape[-1] > 1 else 0)
            return hidden(ids, *arguments, **options)

        runtime.model.hidden = slow_prefill
        yield runtime


def streamed(
    runtime: Runtime,
    path: str,
    settings: ServerSettings | None = None,
    **fields: Any,
) -> str:
    async def ask() -> str:
        async with asked(runtime, settings) as client:
            body = BODIES[path] | {"model": "demo", "stream": True} | fields
            reply = await client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            assert "x-mlx-gptoss-ignored" not in reply.headers
            return reply.text

    return asyncio.run(ask())


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_says_in_comments_how_its_prompt_is_read(
    runtime: Runtime, path: str
) -> None:
    text = streamed(runtime, path)

    counts = [(int(done), int(total)) for done, total in COMMENT.findall(text)]
    total = counts[0][1]
    done = [done for done, _ in counts]
    assert done == [*range(done[0], total, CHUNK)]  # some came before the stream
    assert {of for _, of in counts} == {total}
    assert all("prompt_progress" not in one for one in sse.objects(text))


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_may_have_no_comments_but_empty_lines(
    runtime: Runtime, path: str
) -> None:
    """shell-gpt 1.0.1 takes every line that is not empty for JSON."""
    limits = RequestLimits(heartbeat_seconds=0.001)
    settings = ServerSettings(limits=limits, stream_comments=False)
    text = streamed(runtime, path, settings)

    lines = text.splitlines()
    assert all(line.startswith(("data: ", "event: ")) for line in lines if line)
    assert "\n\n\n" in text or text.startswith("\n")  # signs of life all the same


def check_shape(
    path: str, first: dict[str, Any], events: Sequence[dict[str, Any]]
) -> None:
    """Check that an event with progress is one that clients know."""
    del first["prompt_progress"]
    if path == "/v1/chat/completions":
        [choice] = first["choices"]
        assert choice["delta"] == {}
        assert choice["finish_reason"] is None
    elif path == "/v1/completions":
        [choice] = first["choices"]
        assert choice["text"] == ""
        assert choice["finish_reason"] is None
    elif path == "/v1/messages":
        assert first == {"type": "ping"}
    else:
        assert first["type"] == "response.in_progress"
        numbers = [one["sequence_number"] for one in events]
        assert numbers == list(range(len(events)))


@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_asks_gets_the_progress_in_the_form_of_llama_server(
    runtime: Runtime, path: str
) -> None:
    events = sse.objects(streamed(runtime, path, return_progress=True))

    places = [n for n, one in enumerate(events) if "prompt_progress" in one]
    reports = [events[n]["prompt_progress"] for n in places]
    total = reports[0]["total"]
    assert [one["processed"] for one in reports] == [*range(0, total, CHUNK), total]
    assert {*reports[0]} == {"total", "cache", "processed", "time_ms"}
    assert {(one["total"], one["cache"]) for one in reports} == {(total, 0)}
    times = [one["time_ms"] for one in reports]
    assert times == sorted(times)
    assert places == list(range(places[0], places[0] + len(places)))  # none later
    check_shape(path, events[places[0]], events)


def test_what_was_cached_is_not_counted_as_read(runtime: Runtime) -> None:
    path = "/v1/completions"
    streamed(runtime, path)
    events = sse.objects(
        streamed(runtime, path, prompt=LONG + LONG, return_progress=True)
    )

    last = [one["prompt_progress"] for one in events if "prompt_progress" in one][-1]
    assert 0 < last["cache"] <= len(LONG)
    assert last["processed"] == last["total"] == 2 * len(LONG)


def test_a_whole_reply_and_a_short_prompt_say_nothing(runtime: Runtime) -> None:
    path = "/v1/chat/completions"
    whole = streamed(runtime, path, stream=False, return_progress=True)
    short = streamed(runtime, path, messages=[{"role": "user", "content": "hi"}])

    assert "prompt_progress" not in whole
    assert not any(line.startswith(":") for line in short.splitlines())


def test_several_choices_report_one_reading_of_their_prompt(runtime: Runtime) -> None:
    """They used to begin their stream once the prompt was read."""
    text = streamed(runtime, "/v1/chat/completions", n=3, return_progress=True)

    reports = [one for one in sse.objects(text) if "prompt_progress" in one]
    read = [one for one in reports if one["prompt_progress"]["processed"]]
    by_choice = [
        [
            one["prompt_progress"]["processed"] - one["prompt_progress"]["cache"]
            for one in read
            if one["choices"][0]["index"] == n
        ]
        for n in range(3)
    ]
    total = reports[0]["prompt_progress"]["total"]
    assert by_choice[0][-1] == total
    assert all(counts[-1] < CHUNK for counts in by_choice[1:])
    assert COMMENT.search(text)
    fed = sum(len(feed) for feed in runtime.model.feeds)
    assert fed < total + 2 * CHUNK
