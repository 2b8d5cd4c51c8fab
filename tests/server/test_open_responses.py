"""The cases of Open Responses' compliance suite, as tests of our own.

The suite itself is run by hand (see the server's README). A scripted model answers; the
specification's types judge every object and event, of the package `openresponses-types`
(extra `clients`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss.api.settings import OPEN_RESPONSES, ServerSettings
from tests.support import sse
from tests.support.answering_app import obliging
from tests.support.live import Live, live
from tests.support.serving import DATE, WEATHER
from tests.support.sockets import ask, code_of, talking

types: Any = pytest.importorskip(
    "openresponses_types", reason="pip install 'mlx-gptoss[clients]'"
).types

TOOL = {"type": "function", **WEATHER["function"]}
HELLO = [{"type": "message", "role": "user", "content": "Say hello."}]
HISTORY = [
    {"type": "message", "role": "user", "content": "We launch on Tuesday."},
    {"type": "message", "role": "assistant", "content": "Understood: Tuesday."},
]
SPECIAL = {  # words of a type's name that are no words of an event's type
    "response.output_text.annotation.added": "ResponseOutputTextAnnotationAdded",
    "response.reasoning_summary_text.delta": "ResponseReasoningSummaryDelta",
    "response.reasoning_summary_text.done": "ResponseReasoningSummaryDone",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = ServerSettings(
        date=DATE,
        reasoning_events=OPEN_RESPONSES,
        store=tmp_path_factory.mktemp("store"),
    )
    with obliging() as runtime, live(runtime, settings) as it:
        yield it


def post(server: Live, path: str = "", **body: Any) -> Any:
    address = f"{server.url}/v1/responses{path}"
    return httpx2.post(address, json={"model": "demo"} | body, timeout=60)


def answered(server: Live, **body: Any) -> dict[str, Any]:
    """Return a whole response, which is of the specification's type."""
    reply = post(server, **body)
    assert reply.status_code == 200, reply.text
    return judged_response(reply.json())


def judged_response(reply: dict[str, Any]) -> dict[str, Any]:
    types.ResponseResource.model_validate(reply)
    return reply


def judged(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the response that a stream ends with; every event has its own type."""
    assert [one["sequence_number"] for one in stream] == list(range(len(stream)))
    for event in stream:
        words = event["type"].replace("_", ".").split(".")
        name = SPECIAL.get(event["type"], "".join(map(str.capitalize, words)))
        getattr(types, f"{name}StreamingEvent").model_validate(event)
    return judged_response(stream[-1]["response"])


def kinds(reply: dict[str, Any]) -> list[str]:
    return [item["type"] for item in reply["output"]]


@pytest.mark.parametrize(
    "input",
    [
        HELLO,
        [{"type": "message", "role": "system", "content": "Be a pirate."}, *HELLO],
        [*HISTORY, *HELLO],
        [
            {**HISTORY[1], "phase": "commentary"},
            {**HISTORY[1], "phase": "final_answer"},
            *HELLO,
        ],
    ],
    ids=["basic", "system prompt", "turns", "phases"],
)
def test_a_response_is_of_the_specifications_type(server: Live, input: Any) -> None:
    reply = answered(server, input=input)

    assert (reply["status"], reply["output"][-1]["phase"]) == (
        "completed",
        "final_answer",
    )


@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["text", "a call"])
def test_streamed_events_are_of_the_specifications_types(
    server: Live, tools: Any
) -> None:
    reply = post(server, input=HELLO, tools=tools, stream=True)
    stream = sse.named(reply.text, done=True)
    last = judged(stream)

    expected = "function_call" if tools else "message"
    assert kinds(last) == ["reasoning", "message"] if not tools else ["function_call"]
    added = [one for one in stream if one["type"] == "response.output_item.added"]
    assert added[-1]["item"]["type"] == expected


def test_a_call_goes_round(server: Live) -> None:
    choice = {"type": "function", "name": "get_weather"}
    first = answered(server, input="Weather?", tools=[TOOL], tool_choice=choice)
    [call] = first["output"]
    result = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": '{"celsius": 21}',
    }
    by_items = answered(server, input=[*HELLO, call, result])
    by_id = answered(server, previous_response_id=first["id"], input=[result])

    assert call["name"] == "get_weather"
    assert kinds(by_items)[-1] == kinds(by_id)[-1] == "message"


def test_an_image_is_refused(server: Live) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    reply = post(server, input=[{"role": "user", "content": [image]}])

    assert reply.status_code == 400 and "gpt-oss reads text" in reply.text


def test_sockets_answer_one_request_after_the_other(server: Live) -> None:
    with talking(server) as socket:
        replies = [
            judged(ask(socket, store=False, input=f"Reply with exactly: {n}"))
            for n in range(2)
        ]

    assert [reply["status"] for reply in replies] == ["completed"] * 2
    assert replies[0]["id"] != replies[1]["id"]


def test_a_socket_continues_what_is_not_stored(server: Live) -> None:
    with talking(server) as socket:
        first = judged(ask(socket, store=False, input="Remember: cobalt."))
        second = judged(
            ask(
                socket,
                store=False,
                previous_response_id=first["id"],
                input="Which word?",
            )
        )
    with talking(server) as another:
        third = ask(
            another, store=False, previous_response_id=second["id"], input="And now?"
        )
        fourth = judged(ask(another, store=False, input=HELLO))

    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    types.WebSocketErrorEvent.model_validate(third[-1])
    assert (code_of(third), third[-1]["status"]) == (
        "previous_response_not_found",
        400,
    )
    assert fourth["status"] == "completed"


def test_a_failed_continuation_drops_what_it_continued(server: Live) -> None:
    with talking(server) as socket:
        first = judged(ask(socket, store=False, input="Remember: ember."))
        again: dict[str, Any] = {"store": False, "previous_response_id": first["id"]}
        output = {"type": "function_call_output", "call_id": "none", "output": "?"}
        failed = ask(socket, **again, input=[output])
        retried = ask(socket, **again, input="Go on.")

    types.WebSocketErrorEvent.model_validate(failed[-1])
    assert failed[-1]["type"] == "error"
    assert code_of(retried) == "previous_response_not_found"


def test_a_compacted_window_begins_a_new_chain(server: Live) -> None:
    reply = post(server, "/compact", input=HISTORY, prompt_cache_key="one")
    types.CompactResource.model_validate(reply.json())
    window = reply.json()["output"]
    with talking(server) as socket:
        last = judged(ask(socket, store=False, tools=[], input=[*window, *HELLO]))

    assert [item["type"] for item in window] == ["message", "compaction"]
    assert last["status"] == "completed"


def test_compaction_needs_a_model(server: Live) -> None:
    reply = httpx2.post(f"{server.url}/v1/responses/compact", json={"input": HELLO})

    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")


def test_a_header_asks_for_the_names_of_the_other_specification(
    server: Live, tmp_path: Path
) -> None:
    def names(server: Live, **headers: str) -> set[str]:
        body = {"input": HELLO, "stream": True}
        address = f"{server.url}/v1/responses"
        text = httpx2.post(address, json=body, headers=headers, timeout=60).text
        return {one["type"] for one in sse.named(text, done=True)}

    header = "x-mlx-gptoss-reasoning-events"
    theirs = names(server)
    openais = names(server, **{header: "openai"})
    wrong = httpx2.post(
        f"{server.url}/v1/responses", json={"input": "x"}, headers={header: "mine"}
    )
    with talking(server, additional_headers={header: "openai"}) as socket:
        spoken = {one["type"] for one in ask(socket, input=HELLO)}

    assert theirs - openais == {
        "response.reasoning.delta",
        "response.reasoning.done",
    }
    assert openais - theirs == {
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
    }
    assert spoken == openais
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, header)
