"""Final assistant messages that the model continues, in every API."""

import asyncio
import json
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony import messages as m
from tests.support import sse
from tests.support.serving import DATE, WEATHER, asked
from tests.support.talk_requests import ASK, every_api, expected, ids_of, post, refused
from tests.support.talks import (
    APIS,
    Api,
    Called,
    Result,
    Said,
    Step,
    User,
    call,
    result,
)

WHO = User("Who are you?")
BEGUN = "I am a tiny demo model with the"
REST = (
    " gpt-oss architecture. I was trained on made-up conversations, so I only know a "
    "few tricks."
)
AT_ONCE = "I am fine, thank you. How can I help you?"  # without having thought


def told(api: Api, reply: Any) -> str:
    """What a reply says, whole or as a stream."""
    assert reply.status_code == 200, reply.text
    if reply.headers["content-type"].startswith("application/json"):
        return api.text(reply.json())
    return "".join(map(api.delta, sse.objects(reply.text)))


@every_api
@pytest.mark.parametrize("stream", [False, True])
def test_a_begun_answer_goes_on(demo: Runtime, api: Api, stream: bool) -> None:
    body = api.body([WHO, Said(BEGUN)], stream=stream)
    [reply] = post(demo, (api.path, body))

    assert told(api, reply) == REST


@every_api
def test_a_begun_answer_is_left_open_in_the_prompt(demo: Runtime, api: Api) -> None:
    talk: list[Step] = [ASK, Called("A"), Result("A"), Said(BEGUN)]
    [found] = ids_of(demo, talk, api=api)

    said = [m.user(ASK.text), call("A"), result("A"), m.answer(BEGUN)]
    assert found == expected(demo, *said, complete=False)[:-1]


@every_api
def test_a_begun_answer_may_be_closed_instead(demo: Runtime, api: Api) -> None:
    said = [m.user(WHO.text), m.answer(BEGUN)]
    new_turn = expected(demo, *said)
    for fields in (
        {"continue_final_message": False},
        {"add_generation_prompt": True},
        {"continue_final_message": False, "add_generation_prompt": True},
    ):
        assert ids_of(demo, [WHO, Said(BEGUN)], api=api, **fields) == [new_turn]
    open_turn = expected(demo, *said, complete=False)[:-1]
    for fields in (
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {"continue_final_message": True, "add_generation_prompt": False},
    ):
        assert ids_of(demo, [WHO, Said(BEGUN)], api=api, **fields) == [open_turn]


@every_api
@pytest.mark.parametrize(
    ("last", "fields", "named"),
    [
        (
            Said(BEGUN),
            {"continue_final_message": True, "add_generation_prompt": True},
            "contradict each other",
        ),
        (
            Said(BEGUN),
            {"continue_final_message": False, "add_generation_prompt": False},
            "contradict each other",
        ),
        (User("go on"), {"continue_final_message": True}, "`continue_final_message`"),
        (User("go on"), {"add_generation_prompt": False}, "`add_generation_prompt`"),
        (Said(""), {"continue_final_message": True}, "continue an answer"),
    ],
)
def test_what_cannot_go_on_is_refused(
    demo: Runtime, api: Api, last: Step, fields: Any, named: str
) -> None:
    assert named in refused(demo, api, [WHO, last], **fields)


def test_a_call_that_is_demanded_goes_before_a_begun_answer(demo: Runtime) -> None:
    api = APIS[0]
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
    talk = [ASK, Said("It")]

    new_turn = expected(demo, m.user(ASK.text), m.answer("It"))
    assert ids_of(demo, talk, api=api, **fields) == [new_turn]
    fields["continue_final_message"] = True
    assert "`tool_choice`" in refused(demo, api, talk, **fields)


def test_thoughts_sent_with_a_begun_answer_stand_before_it(demo: Runtime) -> None:
    old = {"role": "assistant", "content": "Yes.", "reasoning": "Old."}
    last = {"role": "assistant", "content": BEGUN, "reasoning": "New."}
    said = [{"role": "user", "content": "?"}]
    body = {"messages": [*said, old, *said, last]}
    [reply] = post(demo, ("/v1/chat/render", body))

    prompt = reply.json()["prompt"]
    assert "Old." not in prompt
    assert prompt.endswith(
        "analysis<|message|>New.<|end|><|start|>assistant<|channel|>final<|message|>"
        + BEGUN
    )


def test_stop_strings_are_looked_for_in_what_is_new(demo: Runtime) -> None:
    api, begun = APIS[0], Said("Well. " + BEGUN)
    [reply] = post(demo, (api.path, api.body([WHO, begun], stop=["."])))

    choice = reply.json()["choices"][0]
    assert "." not in choice["message"]["content"]
    assert (choice["finish_reason"], choice["finish_details"]) == (
        "stop",
        ["stop_string"],
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_begun_answer_keeps_to_its_format(demo: Runtime, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}},
        "required": ["name"],
        "additionalProperties": False,
    }
    api = APIS[0]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    fields: dict[str, Any] = {"response_format": form, "stream": stream}
    begun = '{"na'
    [reply] = post(demo, (api.path, api.body([WHO, Said(begun)], **fields)))

    assert json.loads(begun + told(api, reply)).keys() == {"name"}
    message = refused(demo, api, [WHO, Said("My name")], **fields)
    assert "does not match the response format" in message


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_schema_of_the_answer_is_shown_alike_on_every_api(
    demo: Runtime, kind: str
) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    form = {"type": kind, "schema": schema}
    talks = [(api.render, api.body([WHO], response_format=form)) for api in APIS]
    prompts = [reply.json()["prompt"] for reply in post(demo, *talks)]

    assert json.dumps(schema, separators=(",", ":")) in prompts[0]
    assert prompts == [prompts[0]] * len(APIS)


def test_choices_of_a_begun_answer_go_on_each_on_its_own(demo: Runtime) -> None:
    api = APIS[0]
    body = api.body([WHO, Said(BEGUN)], n=2, temperature=0)
    [reply] = post(demo, (api.path, body))

    texts = [one["message"]["content"] for one in reply.json()["choices"]]
    assert texts == [REST, REST]


def test_an_answer_cut_by_its_length_goes_on_without_reading_it_again(
    demo: Runtime,
) -> None:
    api = APIS[0]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE)) as client:
            effort = {"reasoning_effort": "none"}
            body = api.body([WHO], max_tokens=16, **effort)
            first = await client.post(api.path, json=body)
            begun = api.text(first.json())
            body = api.body([WHO, Said(begun)], **effort)
            again = await client.post(api.path, json=body)
            return [first.json(), again.json(), begun]

    first, again, begun = asyncio.run(work())
    assert first["choices"][0]["finish_reason"] == "length"
    assert again["choices"][0]["finish_reason"] == "stop"
    assert begun + api.text(again) == AT_ONCE
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_stored_answer_that_was_cut_goes_on(demo: Runtime, tmp_path: Any) -> None:
    api = APIS[1]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE, store=tmp_path)) as client:
            fields: dict[str, Any] = {"reasoning": {"effort": "none"}}
            body = api.body([WHO], max_tokens=16, **fields)
            first = (await client.post(api.path, json=body)).json()
            body = api.body([], previous_response_id=first["id"], **fields)
            again = (await client.post(api.path, json=body)).json()
            body = api.body([User("and?")], previous_response_id=again["id"])
            shown = await client.post(api.render, json=body)
            return [first, again, shown.json()["prompt"]]

    first, again, prompt = asyncio.run(work())
    assert (first["status"], again["status"]) == ("incomplete", "completed")
    assert api.text(first) + api.text(again) == AT_ONCE
    assert f"<|message|>{AT_ONCE}<|end|><|start|>user" in prompt


def test_a_stored_answer_that_was_closed_is_one_of_its_own(
    demo: Runtime, tmp_path: Any
) -> None:
    api = APIS[1]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE, store=tmp_path)) as client:
            fields: dict[str, Any] = {"reasoning": {"effort": "none"}}
            body = api.body([WHO, Said("Done.")], add_generation_prompt=True, **fields)
            first = (await client.post(api.path, json=body)).json()
            body = api.body([User("and?")], previous_response_id=first["id"])
            shown = (await client.post(api.render, json=body)).json()
            return [first, shown["prompt"]]

    first, prompt = asyncio.run(work())
    assert [one["type"] for one in first["output"]] == ["message"]
    assert "<|message|>Done.<|end|>" in prompt
    assert f"<|message|>{api.text(first)}<|end|>" in prompt


def test_items_of_a_continued_answer_are_listed_as_they_were(
    demo: Runtime, tmp_path: Any
) -> None:
    api = APIS[1]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE, store=tmp_path)) as client:
            previous, outputs = None, []
            for talk in ([WHO, Said("I ")], [], []):
                body = api.body(talk, max_tokens=2, previous_response_id=previous)
                reply = (await client.post(api.path, json=body)).json()
                previous, outputs = reply["id"], [*outputs, reply["output"]]
            path = f"{api.path}/{previous}"
            items = (await client.get(f"{path}/input_items?order=asc")).json()["data"]
            return [(await client.get(path)).json() == reply, items[2:], outputs[:2]]

    same, listed, outputs = asyncio.run(work())
    assert same
    assert listed == [one for output in outputs for one in output]


def test_what_is_wrong_is_named_by_its_place_in_the_request_or_before(
    demo: Runtime, tmp_path: Any
) -> None:
    api = APIS[1]
    stored = [ASK, Called("A"), Result("A")]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE, store=tmp_path)) as client:
            reply = await client.post(api.path, json=api.body(stored, max_tokens=1))
            again = {"previous_response_id": reply.json()["id"]}
            talks = [[Result("B")], [User("look", picture=True)], [Result("A")]]
            bodies = [api.body(talk, **again) for talk in talks]
            bodies[2]["input"].append({"type": "additional_tools", "tools": 1})
            replies = [await client.post(api.path, json=body) for body in bodies]
            return [one.json()["error"]["param"] for one in replies]

    assert asyncio.run(work()) == ["input[0]", "input[0]", "input[1]"]
