"""Clients that leave at every event of a stream: the work ends, nothing stays behind.

On real sockets. Each stream is read up to its n-th event and then dropped; the model
must stop, the response be forgotten, the model be given back, and the next request
be answered as if nothing had been.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss.api.settings import ServerSettings
from tests.support import sse
from tests.support.answering_app import ANSWER, constant
from tests.support.live import Live, live
from tests.support.serving import DATE

ENDLESS = "<|channel|>final<|message|>" + "more and " * 400
LONG = 3000  # tokens
STEP_SECONDS = 0.1  # far longer than a closed connection takes to be noticed
USER = {"role": "user", "content": "Is it?"}
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/completions": {
        "prompt": "Is it?<|start|>assistant",
        "parse_special": True,
        "max_tokens": 60,
    },
    "/v1/responses": {"input": "Is it?"},
    "/v1/messages": {
        "messages": [USER],
        "max_tokens": 500,
        "thinking": {"type": "adaptive"},
    },
}


@dataclass
class Server:
    live: Live
    client: httpx2.Client

    def stream(self, path: str, **fields: Any) -> Generator[Any]:
        """The data of a stream; the connection is dropped where it is left."""
        body = {"model": "demo", "stream": True, **ASKS[path], **fields}
        with self.client.stream("POST", path, json=body) as reply:
            assert reply.status_code == 200
            for event in sse.read(reply.iter_lines()):
                if event.data != sse.DONE:
                    yield event.data

    def steps(self) -> int:
        """How often the model was asked for a token."""
        runtime = self.live.service.models.runtime("demo")
        assert runtime is not None
        return len(runtime.model.feeds)


@contextmanager
def serving(answer: str, store: Path, step_seconds: float = 0) -> Iterator[Server]:
    with (
        constant(answer, step_seconds=step_seconds) as runtime,
        live(runtime, ServerSettings(date=DATE, store=store)) as running,
        httpx2.Client(base_url=running.url, timeout=60) as client,
    ):
        yield Server(running, client)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ANSWER, tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ENDLESS, tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.mark.parametrize("path", ASKS)
def test_a_client_may_leave_at_every_event(server: Server, path: str) -> None:
    frames = list(server.stream(path))
    server.live.wait_until_quiet()
    before = server.live.tasks()
    for number in range(len(frames)):
        stream = server.stream(path)
        for _ in range(number + 1):
            next(stream)
        stream.close()
    server.live.wait_until_quiet()

    assert len(list(server.stream(path))) == len(frames)
    server.live.wait_until_quiet()
    assert server.live.tasks() <= before + 1


@pytest.mark.parametrize("path", ASKS)
def test_the_model_stops_when_its_client_has_left(slow: Server, path: str) -> None:
    before = slow.steps()
    stream = slow.stream(path, max_tokens=LONG, max_output_tokens=LONG)
    for _ in range(6):
        next(stream)
    stream.close()
    slow.live.wait_until_quiet()

    assert 0 < slow.steps() - before < LONG / 2


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(ENDLESS, tmp_path_factory.mktemp("store"), STEP_SECONDS) as made:
        yield made


@pytest.mark.parametrize("path", ASKS)
def test_it_stops_within_a_step_of_its_client(paced: Server, path: str) -> None:
    stream = paced.stream(path, max_tokens=LONG, max_output_tokens=LONG)
    for _ in range(6):
        next(stream)
    stream.close()
    before = paced.steps()
    paced.live.wait_until_quiet()

    assert paced.steps() - before <= 2  # the one under way, and the one behind it


@pytest.mark.parametrize("path", ASKS)
def test_a_client_may_leave_before_the_first_event(slow: Server, path: str) -> None:
    body = {"model": "demo", **ASKS[path], "max_tokens": LONG}
    with pytest.raises(httpx2.ReadTimeout):
        slow.client.post(path, json=body, timeout=0.05)

    slow.live.wait_until_quiet()


def test_a_response_under_way_can_be_looked_at_and_cancelled(slow: Server) -> None:
    stream = slow.stream("/v1/responses", max_output_tokens=LONG)
    events = [next(stream) for _ in range(8)]
    path = f"/v1/responses/{events[0]['response']['id']}"
    seen = slow.client.get(path).json()
    cancelled = slow.client.post(f"{path}/cancel").json()
    last = list(stream)[-1]
    stored = slow.client.get(path).json()
    again = slow.client.post(f"{path}/cancel").json()

    assert seen["status"] == "in_progress"
    assert cancelled["status"] == last["response"]["status"] == "cancelled"
    assert cancelled["output"][0]["status"] == "incomplete"
    assert stored == again == last["response"] == cancelled
    slow.live.wait_until_quiet()


def test_a_response_that_has_ended_cannot_be_cancelled(server: Server) -> None:
    done = server.client.post("/v1/responses", json={"input": "Is it?"}).json()
    reply = server.client.post(f"/v1/responses/{done['id']}/cancel")

    assert reply.status_code == 400
    assert "nothing to cancel" in reply.json()["error"]["message"]


def test_a_response_under_way_can_be_deleted(slow: Server) -> None:
    stream = slow.stream("/v1/responses", max_output_tokens=LONG)
    id = next(stream)["response"]["id"]
    deleted = slow.client.delete(f"/v1/responses/{id}")
    last = list(stream)[-1]

    assert deleted.json() == {"id": id, "object": "response", "deleted": True}
    assert last["response"]["status"] == "cancelled"
    assert slow.client.get(f"/v1/responses/{id}").status_code == 404


def test_a_response_can_be_gone_on_with_once_its_end_is_told(server: Server) -> None:
    """Also before its stream is closed."""
    stream = server.stream("/v1/responses")
    done = next(one for one in stream if one["type"] == "response.completed")
    body = {"input": "And?", "previous_response_id": done["response"]["id"]}
    reply = server.client.post("/v1/responses", json=body)
    stream.close()

    assert reply.status_code == 200, reply.text


def test_a_response_cannot_be_gone_on_with_before_its_end(slow: Server) -> None:
    stream = slow.stream("/v1/responses", max_output_tokens=LONG)
    id = next(stream)["response"]["id"]
    body = {"input": "And?", "previous_response_id": id}
    reply = slow.client.post("/v1/responses", json=body)
    stream.close()

    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "previous_response_id"
    slow.live.wait_until_quiet()
