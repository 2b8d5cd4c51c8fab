"""Stored responses: continued, listed, referred to, deleted."""

from typing import Any

import pytest

from mlx_gptoss import load
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.response_requests import (
    FUNCTION,
    OSLO,
    PATH,
    SUM,
    Client,
    body,
    create,
    run,
)
from tests.support.serving import DATE


def test_a_conversation_goes_on_by_its_id_also_after_a_restart(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def begin(client: Client) -> Any:
        return await create(client, OSLO, tools=[FUNCTION], instructions="Be brief.")

    first = run(demo, settings, begin)

    async def go_on(client: Client) -> Any:
        result = {
            "type": "function_call_output",
            "call_id": first["output"][-1]["call_id"],
            "output": '{"temperature": 21}',
        }
        before = {"previous_response_id": first["id"], "tools": [FUNCTION]}
        second = await create(client, [result], **before)
        listed = await client.get(f"{PATH}/{second['id']}/input_items?order=asc")
        return second, listed.json(), (await client.get(f"{PATH}/{first['id']}")).json()

    second, listed, retrieved = run(demo, settings, go_on)
    assert "21" in second["output"][-1]["content"][0]["text"]
    assert retrieved == first
    assert [item["type"] for item in listed["data"]] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert listed["has_more"] is False
    assert listed["last_id"] == listed["data"][-1]["id"]


def test_pages_of_input_items(demo: Runtime, settings: ServerSettings) -> None:
    async def work(client: Client) -> Any:
        items = [{"role": "user", "content": str(n)} for n in range(5)]
        found = await create(client, items, max_output_tokens=5)
        path = f"{PATH}/{found['id']}/input_items"
        first = (await client.get(f"{path}?limit=2")).json()
        after = {"limit": 3, "after": first["last_id"]}
        second = (await client.get(path, params=after)).json()
        wrong = await client.get(path, params={"after": "nobody"})
        return first, second, wrong.status_code

    first, second, wrong = run(demo, settings, work)
    shown = [
        [item["content"][0]["text"] for item in page["data"]]
        for page in (first, second)
    ]
    assert shown == [["4", "3"], ["2", "1", "0"]]
    assert (first["has_more"], second["has_more"], wrong) == (True, False, 400)


def test_stored_items_can_be_referred_to(
    demo: Runtime, settings: ServerSettings
) -> None:
    async def work(client: Client) -> Any:
        first = await create(client, SUM)
        references = [
            {"type": "item_reference", "id": o["id"]} for o in first["output"]
        ]
        items = [{"role": "user", "content": SUM}, *references]
        plain = [{"role": "user", "content": SUM}, *first["output"]]
        ask = {"role": "user", "content": "Hello"}
        return [
            (await create(client, [*one, ask]))["usage"]["input_tokens"]
            for one in (items, plain)
        ]

    by_reference, by_value = run(demo, settings, work)
    assert by_reference == by_value


@pytest.mark.parametrize("store", [True, False, None])
def test_what_is_not_to_be_stored_is_not(
    demo: Runtime, settings: ServerSettings, store: bool | None
) -> None:
    async def work(client: Client) -> Any:
        found = await create(client, "Hello", store=store, max_output_tokens=5)
        return found["store"], (await client.get(f"{PATH}/{found['id']}")).status_code

    kept = store is not False
    assert run(demo, settings, work) == (kept, 200 if kept else 404)


def test_a_server_without_a_store_says_so(demo: Runtime) -> None:
    async def work(client: Client) -> Any:
        first = await create(client, "Hello", max_output_tokens=5)
        reply = await client.post(
            PATH, json=body("And?", previous_response_id=first["id"])
        )
        return first["store"], reply.status_code, reply.json()["error"]["param"]

    found = run(demo, ServerSettings(date=DATE), work)
    assert found == (False, 400, "previous_response_id")


def test_a_deleted_response_is_gone(demo: Runtime, settings: ServerSettings) -> None:
    async def work(client: Client) -> Any:
        found = await create(client, "Hello", max_output_tokens=5)
        path = f"{PATH}/{found['id']}"
        deleted = (await client.delete(path)).json()
        return deleted["deleted"], [
            (await client.get(path)).status_code,
            (await client.delete(path)).status_code,
            (await client.get(f"{path}/input_items")).status_code,
            (await client.post(f"{path}/cancel")).status_code,
        ]

    assert run(demo, settings, work) == (True, [404] * 4)


def test_a_long_conversation_is_cut_only_where_that_was_asked(
    settings: ServerSettings,
) -> None:
    turns = [
        one
        for n in range(40)
        for one in (
            {"role": "user", "content": f"question {n} " + "word " * 40},
            {"role": "assistant", "content": f"answer {n}"},
        )
    ]
    items = [*turns, {"role": "user", "content": "Hello"}]

    async def work(client: Client) -> Any:
        cut = await create(client, items, truncation="auto", max_output_tokens=4)
        whole = await client.post(PATH, json=body(items))
        return cut["usage"]["input_tokens"], whole.status_code, whole.json()["error"]

    with load("demo", context=1024) as small:
        tokens, status, error = run(small, settings, work)
    assert 100 < tokens <= 512
    assert (status, error["code"]) == (400, "context_length_exceeded")
