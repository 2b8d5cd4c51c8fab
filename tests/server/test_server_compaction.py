"""`/v1/responses/compact`: the window that it makes, and how it is continued."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from mlx_gptoss.api.responses.items import SUMMARY_HEADING
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.api.settings import ServerSettings
from tests.support import sse
from tests.support.answering_app import constant
from tests.support.live import Live, live
from tests.support.serving import DATE, WEATHER
from tests.support.sockets import ask, talking

SUMMARY = "The date is fixed."
ANSWER = f"<|channel|>final<|message|>{SUMMARY}<|return|>"
SYSTEM = {"role": "system", "content": "Be brief."}
ITEMS: list[Any] = [
    SYSTEM,
    {"role": "user", "content": "When do we launch?"},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "on Tuesday"},
    {"role": "assistant", "content": "On Tuesday."},
    {"role": "user", "content": [{"type": "input_text", "text": "Tell support."}]},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = ServerSettings(date=DATE, store=tmp_path_factory.mktemp("store"))
    with constant(ANSWER) as runtime, live(runtime, settings) as it:
        yield it


def post(server: Live, path: str, **body: Any) -> Any:
    address = f"{server.url}/v1/responses{path}"
    return httpx2.post(address, json={"model": "demo"} | body, timeout=60)


def prompt_of(server: Live, **body: Any) -> str:
    return post(server, "/render", **body).json()["prompt"]


def texts(window: list[Any]) -> list[tuple[str, str]]:
    return [
        (item["role"], item["content"][0]["text"])
        if item["type"] == "message"
        else (item["type"], unseal(item["encrypted_content"]) or "")
        for item in window
    ]


def test_a_window_has_instructions_questions_and_a_summary(server: Live) -> None:
    reply = post(server, "/compact", input=ITEMS).json()

    assert reply["object"] == "response.compaction"
    assert texts(reply["output"]) == [
        ("system", "Be brief."),
        ("user", "When do we launch?"),
        ("user", "Tell support."),
        ("compaction", SUMMARY),
    ]
    assert reply["usage"]["output_tokens"] > 0


def test_a_window_begins_the_next_conversation(server: Live) -> None:
    window = post(server, "/compact", input=ITEMS).json()["output"]
    question = {"role": "user", "content": "Is it done?"}
    prompt = prompt_of(server, input=[*window, question])
    again = post(server, "/compact", input=[*window, question]).json()["output"]

    said = re.findall(r"<\|start\|>user<\|message\|>(.*?)<\|end\|>", prompt, re.S)
    assert said == [
        "When do we launch?",
        "Tell support.",
        SUMMARY_HEADING + SUMMARY,
        "Is it done?",
    ]
    assert "Be brief." in prompt and "on Tuesday" not in prompt
    assert texts(again)[-2:] == [("user", "Is it done?"), ("compaction", SUMMARY)]
    assert [role for role, _ in texts(again)].count("compaction") == 1


def test_the_model_is_asked_at_the_end_of_the_conversation() -> None:
    tools = [{"type": "function", **WEATHER["function"]}]
    prompts: list[str] = []

    def record(ids: Any, *rest: Any, **more: Any) -> Any:
        prompts.append(runtime.tokenizer.decode(list(ids)))
        return submit(ids, *rest, **more)

    with constant(ANSWER) as runtime:
        submit, runtime.submit = runtime.submit, record
        with live(runtime, ServerSettings(date=DATE)) as own:
            own_prompt = prompt_of(own, input=ITEMS, tools=tools)
            post(own, "/compact", input=ITEMS, tools=tools, instructions=None)

    before, _, _ = prompts[-1].rpartition("<|start|>user<|message|>")
    assert own_prompt.startswith(before) and "Summarize" in prompts[-1]


def test_a_stored_conversation_is_compacted_by_its_id(server: Live) -> None:
    first = post(server, "", input="When do we launch?").json()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        window: Any = client.responses.compact(
            model="demo", previous_response_id=first["id"]
        ).output
        # The client's types have no messages of a user in an output, and warn.
        items = [item.to_dict(warnings=False) for item in window]
        second = client.responses.create(
            model="demo", input=[*items, {"role": "user", "content": "And then?"}]
        )

    assert [item.type for item in window] == ["message", "compaction"]
    assert second.output_text == SUMMARY


def test_old_questions_beyond_their_share_are_in_the_summary_only() -> None:
    questions = [{"role": "user", "content": f"{n} " + "x" * 300} for n in range(6)]
    with (
        constant(ANSWER, context=4096) as runtime,
        live(runtime, ServerSettings(date=DATE)) as server,
    ):
        window = post(server, "/compact", input=questions).json()["output"]

    assert [text[:2] for _, text in texts(window)[:-1]] == ["3 ", "4 ", "5 "]


def test_a_conversation_that_fills_the_context_can_be_compacted() -> None:
    turns = [
        {"role": role, "content": f"{n} " + "x" * 500}
        for n in range(10)
        for role in ("user", "assistant")
    ]
    with (
        constant(ANSWER, context=4096) as runtime,
        live(runtime, ServerSettings(date=DATE)) as server,
    ):
        refused = post(server, "", input=turns)
        window = post(server, "/compact", input=turns)

    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert texts(window.json()["output"])[-1] == ("compaction", SUMMARY)


def test_another_servers_summary_is_named_as_ignored(server: Live) -> None:
    foreign = {"type": "compaction", "encrypted_content": "gAAAAABo"}
    reply = post(server, "/render", input=[foreign, ITEMS[-1]])

    assert reply.headers["x-mlx-gptoss-ignored"] == "items=compaction"


def test_without_a_summary_there_is_no_window() -> None:
    nothing = "<|channel|>final<|message|><|return|>"
    with (
        constant(nothing) as runtime,
        live(runtime, ServerSettings(date=DATE)) as server,
    ):
        reply = post(server, "/compact", input=ITEMS)

    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "model_failed")


MANAGED = [{"type": "compaction", "compact_threshold": 50}]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, list[str]]]:
    """A server that stores, and the prompts that its model is given."""
    prompts: list[str] = []

    def record(ids: Any, *rest: Any, **more: Any) -> Any:
        prompts.append(runtime.tokenizer.decode(list(ids)))
        return submit(ids, *rest, **more)

    settings = ServerSettings(date=DATE, store=tmp_path_factory.mktemp("managed"))
    with constant(ANSWER) as runtime:
        submit, runtime.submit = runtime.submit, record
        with live(runtime, settings) as it:
            yield it, prompts


def questions_of(prompt: str) -> list[str]:
    return re.findall(r"<\|start\|>user<\|message\|>(.*?)<\|end\|>", prompt, re.S)


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_conversation_is_compacted_within_a_response(
    heard: tuple[Live, list[str]], stream: bool
) -> None:
    server, prompts = heard
    prompts.clear()
    reply = post(
        server, "", input=ITEMS, context_management=MANAGED, stream=stream, stop="x"
    )
    events = sse.named(reply.text, done=True) if stream else []
    first = events[-1]["response"] if stream else reply.json()

    assert [item["type"] for item in first["output"]] == ["compaction", "message"]
    assert unseal(first["output"][0]["encrypted_content"]) == SUMMARY
    asked, answered = map(questions_of, prompts)
    assert asked[-1].startswith("Summarize") and "on Tuesday" in prompts[0]
    said = ["When do we launch?", "Tell support.", SUMMARY_HEADING + SUMMARY]
    assert answered == said
    assert "on Tuesday" not in prompts[1] and "Be brief." in prompts[1]
    kinds = [
        (one["type"], one["item"]["type"])
        for one in events
        if one["type"].startswith("response.output_item")
    ]
    added, done = "response.output_item.added", "response.output_item.done"
    expected = [
        (kind, item) for item in ("compaction", "message") for kind in (added, done)
    ]
    assert kinds == (expected if stream else [])

    # Both ways to go on read the same: what the summary replaced is not read again.
    question: Any = {"role": "user", "content": "And?"}
    by_id = prompt_of(server, input=[question], previous_response_id=first["id"])
    by_items = prompt_of(server, input=[*ITEMS, *first["output"], question])
    assert by_id == by_items
    assert questions_of(by_id) == [*said, "And?"]
    assert prompts[1].removesuffix("<|start|>assistant") in by_id


def test_a_short_conversation_is_not_compacted(heard: tuple[Live, list[str]]) -> None:
    server, prompts = heard
    prompts.clear()
    for entry in ({"compact_threshold": 9000}, {}):  # without one: much of the context
        managed = [{"type": "compaction", **entry}]
        reply = post(server, "", input=ITEMS, context_management=managed).json()
        assert [item["type"] for item in reply["output"]] == ["message"]
    assert len(prompts) == 2
    other = post(server, "", input="x", context_management=[{"type": "forgetting"}])
    assert other.headers["x-mlx-gptoss-ignored"] == "fields=context_management"


def test_a_conversation_over_a_socket_is_compacted(
    heard: tuple[Live, list[str]],
) -> None:
    server, prompts = heard
    prompts.clear()
    with talking(server) as socket:
        told = ask(socket, input=ITEMS, store=False, context_management=MANAGED)
        last = told[-1]["response"]
        ask(socket, input="And?", store=False, previous_response_id=last["id"])

    assert [item["type"] for item in last["output"]] == ["compaction", "message"]
    assert questions_of(prompts[-1])[-2:] == [SUMMARY_HEADING + SUMMARY, "And?"]


def test_without_a_summary_a_conversation_goes_on_as_it_is() -> None:
    nothing = "<|channel|>final<|message|><|return|>"
    with (
        constant(nothing) as runtime,
        live(runtime, ServerSettings(date=DATE)) as server,
    ):
        reply = post(server, "", input=ITEMS, context_management=MANAGED).json()

    assert [item["type"] for item in reply["output"]] == ["message"]
