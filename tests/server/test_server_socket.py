"""The WebSocket of `/v1/responses`: who may open it, its limits, and its end."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from tests.support.answering_app import constant, obliging
from tests.support.live import Live, live
from tests.support.serving import DATE, WEATHER
from tests.support.sockets import SECONDS, ask, read, send, talking

KEY = "a key of mine"
OPENING = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
LONG = "<|channel|>final<|message|>" + "".join(map(str, range(400))) + "<|return|>"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with obliging() as runtime, live(runtime, ServerSettings(date=DATE)) as it:
        yield it


@contextmanager
def serving(runtime: Any = None, **settings: Any) -> Iterator[Live]:
    own = ServerSettings(date=DATE, **settings)
    with runtime or constant() as opened, live(opened, own) as it:
        yield it


def closed(socket: ClientConnection) -> int:
    """Return the code with which the server closes a connection."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            socket.recv(SECONDS)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def wait_until_nothing_is_left(server: Live) -> None:
    server.wait_until_quiet()
    until = time.monotonic() + SECONDS
    while server.service.body_budget.used:
        assert time.monotonic() < until, "messages still count in the budget"
        time.sleep(0.01)


def refused(server: Live, **options: Any) -> tuple[int, str]:
    """Return the status and code with which an opening is refused."""
    with pytest.raises(InvalidStatus) as caught, talking(server, **options):
        pass
    reply = caught.value.response
    return reply.status_code, json.loads(reply.body)["error"]["code"]


def test_a_key_a_host_and_an_origin_are_checked_as_for_http() -> None:
    with serving(api_key=KEY, origins=("https://mine.example",)) as server:
        key = {"Authorization": f"Bearer {KEY}"}
        foreign = {"origin": "https://other.example", "additional_headers": key}

        assert refused(server) == (401, "invalid_api_key")
        assert refused(server, **foreign) == (403, "origin_not_allowed")
        rebound = httpx2.get(
            f"{server.url}/v1/responses",
            headers={**key, **OPENING, "Host": "rebound.example"},
        )
        assert rebound.status_code == 403
        assert rebound.json()["error"]["code"] == "host_not_allowed"
        for headers in (key, {"x-api-key": KEY}):
            with talking(server, additional_headers=headers) as socket:
                assert ask(socket, input="Hi")[-1]["type"] == "response.completed"
        listed = {"origin": "https://mine.example", "additional_headers": key}
        with talking(server, **listed) as socket:
            assert ask(socket, input="Hi")[-1]["type"] == "response.completed"


def test_there_is_no_other_socket(server: Live) -> None:
    other = Live(f"{server.url}/v1/chat", server.service, server.loop)
    with pytest.raises(InvalidStatus), talking(other):
        pass


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no JSON", "invalid_json"),
        ('{"type": "response.cancel"}', "invalid_type"),
        ('{"input": "no type"}', "invalid_type"),
        ("[]", "invalid_request_error"),
        ('{"type": "response.create"}', "invalid_value"),
        ('{"type": "response.create", "input": 1}', "invalid_type"),
        (
            '{"type": "response.create", "input": "x", "model": "none"}',
            "model_not_found",
        ),
        (
            '{"type": "response.create", "input": "x", "background": true}',
            "invalid_value",
        ),
    ],
)
def test_what_cannot_be_answered_is_an_error_and_the_next_is_answered(
    server: Live, message: str, code: str
) -> None:
    with talking(server) as socket:
        for frame in (message, message.encode()):  # text and binary
            socket.send(frame)
            [error] = read(socket)
            assert (error["type"], error["error"]["code"]) == ("error", code)
            assert 400 <= error["status"] < 500 and error["error"]["message"]
        assert ask(socket, input="Hi")[-1]["type"] == "response.completed"


def test_requests_that_come_at_once_are_answered_in_their_order(server: Live) -> None:
    with talking(server) as socket:
        for n in range(3):
            send(socket, input="Hi", metadata={"n": str(n)})
        replies = [read(socket) for _ in range(3)]

    assert [one[-1]["response"]["metadata"]["n"] for one in replies] == ["0", "1", "2"]
    assert all(one[0]["type"] == "response.created" for one in replies)


def test_too_many_waiting_requests_close_the_connection() -> None:
    limits = RequestLimits(socket_waiting=2)
    with serving(constant(LONG, step_seconds=0.01), limits=limits) as server:
        with talking(server) as socket:
            for _ in range(5):
                send(socket, input="Hi")
            assert closed(socket) == 1008
        wait_until_nothing_is_left(server)


def test_a_message_beyond_the_limit_of_bodies_closes_the_connection() -> None:
    with serving(limits=RequestLimits(body_bytes=4096)) as server:
        with talking(server) as socket:
            send(socket, input="x" * 5000)
            assert closed(socket) == 1009
        with talking(server) as socket:
            assert ask(socket, input="Hi")[-1]["type"] == "response.completed"


def test_messages_count_in_the_budget_of_bodies() -> None:
    with serving(limits=RequestLimits(body_bytes=4096, bodies=2)) as server:
        with talking(server) as socket:
            server.service.body_budget.take(8000)
            [error] = ask(socket, input="x" * 500)
            server.service.body_budget.give(8000)
            assert (error["status"], error["error"]["code"]) == (
                429,
                "rate_limit_exceeded",
            )
            assert ask(socket, input="Hi")[-1]["type"] == "response.completed"
        wait_until_nothing_is_left(server)


def test_parts_of_a_message_count_and_may_not_take_for_ever() -> None:
    limits = RequestLimits(body_seconds=1.5)
    budget_used: list[int] = []

    def slowly(server: Live) -> Iterator[str]:
        yield "x" * 1000
        until = time.monotonic() + SECONDS
        while not server.service.body_budget.used and time.monotonic() < until:
            time.sleep(0.01)
        budget_used.append(server.service.body_budget.used)
        while time.monotonic() < until:
            time.sleep(0.05)
            yield ""

    with serving(limits=limits) as server:
        with talking(server) as socket:
            with pytest.raises(ConnectionClosed):
                socket.send(slowly(server))
            assert closed(socket) == 1008
        assert budget_used == [1000]
        wait_until_nothing_is_left(server)


def test_a_closed_connection_cancels_its_answer() -> None:
    with serving(constant(LONG, step_seconds=0.02)) as server:
        with talking(server) as socket:
            send(socket, input="Hi")
            while "delta" not in json.loads(socket.recv(SECONDS)):
                pass
            assert not server.quiet
        wait_until_nothing_is_left(server)


def test_an_answer_over_a_socket_does_not_hold_up_others() -> None:
    with (
        serving(constant(LONG, step_seconds=0.005)) as server,
        talking(server) as one,
        talking(server) as other,
    ):
        send(one, input="Hi")
        first = json.loads(one.recv(SECONDS))
        short = ask(other, input="Hi", max_output_tokens=4)
        health = httpx2.get(f"{server.url}/health").json()
        cancelled = httpx2.post(
            f"{server.url}/v1/responses/{first['response']['id']}/cancel",
            timeout=SECONDS,
        )
        last = read(one)[-1]

    assert short[-1]["type"] == "response.incomplete"
    assert health["status"] == "ok"
    assert cancelled.json()["status"] == last["response"]["status"] == "cancelled"


def test_a_connection_ends_at_its_age() -> None:
    limits = RequestLimits(socket_seconds=1.0)
    with serving(limits=limits) as server, talking(server) as socket:
        [error] = read(socket)
        assert error["error"]["code"] == "websocket_connection_limit_reached"
        assert closed(socket) == 1001


def test_a_server_that_shuts_down_ends_answers_then_connections() -> None:
    with (
        serving(constant(LONG, step_seconds=0.005)) as server,
        talking(server) as busy,
        talking(server) as idle,
    ):
        send(busy, input="Hi", max_output_tokens=60)
        busy.recv(SECONDS)
        server.loop.call_soon_threadsafe(server.service.drain.start)
        assert closed(idle) == 1012
        assert read(busy)[-1]["type"] == "response.incomplete"
        assert closed(busy) == 1012


def test_a_prompt_is_prepared_for_the_request_that_continues_it(server: Live) -> None:
    tool = {"type": "function", **WEATHER["function"]}
    with talking(server) as socket:
        prepared = ask(socket, generate=False, input=[], instructions="Be brief.")
        first = prepared[-1]["response"]
        second = ask(
            socket, previous_response_id=first["id"], input="Weather?", tools=[tool]
        )[-1]["response"]

    assert [one["type"] for one in prepared] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert first["output"] == [] and first["usage"]["output_tokens"] == 0
    assert first["usage"]["input_tokens"] > 0
    assert [item["type"] for item in second["output"]] == ["function_call"]


def test_ignored_fields_are_named_in_the_first_event(server: Live) -> None:
    with talking(server) as socket:
        events = ask(socket, input="Hi", service_tier="flex")

    named = [event.get("x-mlx-gptoss-ignored") for event in events]
    assert named == ["fields=service_tier"] + [None] * (len(events) - 1)


def test_messages_are_counted_by_status(server: Live) -> None:
    with talking(server) as socket:
        ask(socket, input="Hi")
        socket.send("{}")
        read(socket)
    text = httpx2.get(f"{server.url}/metrics").text

    labels = 'method="WEBSOCKET",route="/v1/responses",status="{}"'
    assert labels.format(200) in text and labels.format(400) in text


def test_openais_client_talks_over_a_socket(server: Live) -> None:
    judge: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
        client.responses.connect() as socket,
    ):
        previous: Any = {}
        for _ in range(2):
            socket.response.create(model="demo", input="Hi", store=False, **previous)
            for event in socket:
                judge.validate_json(event.model_dump_json(), strict=True)
                if event.type == "response.completed":
                    previous = {"previous_response_id": event.response.id}
                    break
        socket.response.create(
            model="demo", input="Hi", store=False, previous_response_id="resp_none"
        )
        error: Any = next(iter(socket))

    assert previous and error.type == "error"
