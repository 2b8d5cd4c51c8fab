"""Reasoning of chat completions: effort, budget, where it is shown."""

from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.answering_app import constant
from tests.support.chat_requests import SUM, choice, post, prompt_of
from tests.support.serving import DATE, events, question


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "medium"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning": {"effort": "low"}}, "low"),
        ({"reasoning_effort": "xhigh"}, "high"),
    ],
)
def test_effort_reaches_the_prompt(
    demo: Runtime, fields: dict[str, Any], shown: str
) -> None:
    assert f"Reasoning: {shown}\n" in prompt_of(demo, **fields)


def test_without_reasoning_the_answer_comes_at_once(demo: Runtime) -> None:
    got = choice(post(demo, question(SUM, reasoning_effort="none")))

    assert "reasoning" not in got["message"]
    assert got["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"reasoning"}),
        ({"reasoning_format": "reasoning_content"}, {"reasoning_content"}),
        ({"reasoning_format": "both"}, {"reasoning", "reasoning_content"}),
        ({"reasoning": {"exclude": True}}, set()),
        ({"include_reasoning": False}, set()),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_shown_where_it_is_wanted(
    demo: Runtime, fields: dict[str, Any], names: set[str], stream: bool
) -> None:
    reply = post(demo, question(SUM, max_reasoning_tokens=8, stream=stream, **fields))
    if stream:
        deltas = [one["choices"][0]["delta"] for one in events(reply.text)]
        shown = {name for delta in deltas for name in delta}
    else:
        shown = set(choice(reply)["message"])
    assert {name for name in shown if name.startswith("reasoning")} == names


def test_reasoning_leaves_room_for_the_answer(demo: Runtime) -> None:
    got = choice(post(demo, question(SUM, max_completion_tokens=64)))

    assert got["message"]["reasoning"]
    assert got["message"]["content"]
    assert (
        post(
            demo,
            question(SUM, max_completion_tokens=64),
            settings=ServerSettings(date=DATE, max_reasoning=None),
        ).json()["choices"][0]["message"]["content"]
        == ""
    )


def test_where_there_is_room_for_an_answer_only_it_is_given(demo: Runtime) -> None:
    reply = post(demo, question(SUM, max_completion_tokens=4, logprobs=True))

    assert choice(reply)["message"]["content"]
    assert len(choice(reply)["logprobs"]["content"]) == 1


def test_a_budget_of_reasoning_is_kept(demo: Runtime) -> None:
    reply = post(demo, question(SUM, max_reasoning_tokens=5)).json()

    usage = reply["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5
    assert reply["choices"][0]["finish_details"] == ["reasoning_budget"]


def test_an_answer_in_circles_is_cut_and_told_as_cut() -> None:
    with constant("<|channel|>final<|message|>" + "la, " * 600) as runtime:
        reply = post(runtime, question(SUM, stream=True))

    last = events(reply.text)[-1]["choices"][0]
    assert last["finish_reason"] == "length"
    assert last["finish_details"] == ["final_loop"]
