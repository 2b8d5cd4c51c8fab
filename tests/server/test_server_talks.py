"""Tool results and images in the conversations of every API."""

import asyncio
from itertools import permutations
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony import messages as m
from tests.support.serving import DATE, asked
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

SUM = User("What is 417 + 285?")


@every_api
def test_results_reach_the_model_in_the_order_of_their_calls(
    demo: Runtime, api: Api
) -> None:
    first = [Result("C"), Result("B"), Result("A")]
    talks: list[list[Step]] = [
        [ASK, Called("A", "B", "C"), *first, Called("B", "A"), *second]
        for first in permutations(first)
        for second in permutations([Result("A"), Result("B")])
    ]
    found = ids_of(demo, *talks, api=api)

    one = [call("A"), call("B"), call("C"), result("A"), result("B"), result("C")]
    other = [call("B"), call("A"), result("B"), result("A")]
    assert found == [expected(demo, m.user(ASK.text), *one, *other)] * 12


@every_api
def test_results_that_come_late_or_beside_text_stand_behind_their_calls(
    demo: Runtime, api: Api
) -> None:
    talk = [ASK, Called("A", "B"), Result("B"), User("and?"), Result("A")]
    [found] = ids_of(demo, talk, api=api)

    in_order = [call("A"), call("B"), result("A"), result("B"), m.user("and?")]
    assert found == expected(demo, m.user(ASK.text), *in_order)


@every_api
@pytest.mark.parametrize(
    ("talk", "named"),
    [
        ([ASK, Called("A", "B"), Result("B")], "there is no result of"),
        ([ASK, Called("A")], "there is no result of"),
        ([ASK, Called("A"), Result("A"), Result("A")], "a second result of call `A`"),
        ([ASK, Called("B"), Result("A")], "`A`"),
        ([ASK, Result("A")], "is the result of no call"),
    ],
)
def test_a_result_too_few_or_too_many_is_named(
    demo: Runtime, api: Api, talk: list[Step], named: str
) -> None:
    message = refused(demo, api, talk)

    assert named in message
    assert "`A`" in message


@every_api
def test_a_session_goes_on_after_an_interrupted_call(demo: Runtime, api: Api) -> None:
    talk = [ASK, Called("A", "B"), Result("B"), User("stop that")]
    [found] = ids_of(demo, talk, api=api)

    shown = demo.tokenizer.decode(found)
    assert "Error: this call has no result" in shown
    assert shown.index("this call has no result") < shown.index("sun in B")


def test_results_of_stored_calls_may_come_in_any_order(
    demo: Runtime, tmp_path: Any
) -> None:
    api = APIS[1]
    stored = [ASK, Called("A", "B"), Result("A"), Result("B"), User("Hi!")]

    async def work() -> list[Any]:
        async with asked(demo, ServerSettings(date=DATE, store=tmp_path)) as client:
            reply = await client.post(api.path, json=api.body(stored, max_tokens=1))
            again = {"previous_response_id": reply.json()["id"], "temperature": 0}
            out = []
            for order in ("AB", "BA"):
                talk = [Called("A", "B"), *map(Result, order)]
                body = api.body(talk, **again)
                out.append((await client.post(api.render, json=body)).json())
            return [one["prompt"] for one in out]

    one, other = asyncio.run(work())
    assert one == other
    assert one.index("sun in A") < one.index("sun in B")


@every_api
def test_a_picture_in_the_history_is_a_line(demo: Runtime, api: Api) -> None:
    look = User("look", picture=True)
    seen = Result("A", picture=True)
    talk = [look, Said("I see none."), ASK, Called("A"), seen]
    [reply] = post(demo, (api.path, api.body(talk, max_tokens=1)))
    [shown] = post(demo, (api.render, api.body(talk)))

    line = "[image, not shown: gpt-oss reads text]"
    assert (reply.status_code, shown.status_code) == (200, 200)
    prompt = shown.json()["prompt"]
    assert f"look\n\n{line}<|end|>" in prompt
    assert f"sun in A\n\n{line}<|end|>" in prompt
    assert "items=i" in reply.headers["x-mlx-gptoss-ignored"]


@every_api
def test_a_picture_in_the_newest_question_is_refused(demo: Runtime, api: Api) -> None:
    talk = [SUM, Said("702"), User("and this?", picture=True)]

    assert refused(demo, api, talk).endswith("gpt-oss reads text only")
