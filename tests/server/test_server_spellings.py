"""Fields of other servers: limits, sampling, and ignored fields."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.ignored import IGNORED_HEADER
from mlx_gptoss.engine.runtime import Runtime
from tests.support.answering_app import constant
from tests.support.spellings import (
    BODIES,
    CHAT,
    COMPLETIONS,
    LIMITS,
    MESSAGES,
    RESPONSES,
    SCHEMA,
    TURNS,
    posts,
)


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    """A runtime that says at once what it says to everybody."""
    with constant() as runtime:
        yield runtime


def post(runtime: Runtime, path: str, **fields: Any) -> httpx2.Response:
    return posts(runtime, [(path, fields)])[0]


def test_what_is_not_known_is_counted_once(fake: Runtime) -> None:
    fields = {"reasoning": {"effort": "low", "x": 1, "y": 2}}
    for reply in posts(fake, [(path, fields) for path in TURNS]):
        assert reply.headers[IGNORED_HEADER] == "unknown=2"


@pytest.mark.parametrize("path", [*LIMITS, COMPLETIONS])
def test_an_answer_without_a_limit_comes_to_its_end(fake: Runtime, path: str) -> None:
    stop = {} if path == MESSAGES else {"stop": ["zzz"]}
    cut, whole = posts(
        fake, [(path, {"max_tokens": 1}), (path, {"max_tokens": -1} | stop)]
    )

    reasons = [
        body.get("stop_reason")
        or body.get("status")
        or body["choices"][0]["finish_reason"]
        for body in (cut.json(), whole.json())
    ]
    assert reasons[1] in ("end_turn", "completed", "stop")
    assert reasons[0] != reasons[1] or path == COMPLETIONS
    if path == RESPONSES:
        assert whole.json()["max_output_tokens"] is None


def test_a_raw_completion_without_a_limit_goes_on_to_the_end_of_the_context() -> None:
    with load("demo", context=48) as runtime:
        asks = [(COMPLETIONS, {"temperature": 0, "logit_bias": {"200": 100}})]
        asks += [(COMPLETIONS, asks[0][1] | {"max_tokens": -1})]
        least, most = (one.json()["usage"] for one in posts(runtime, asks))

    assert (least["completion_tokens"], most["total_tokens"]) == (16, 48)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"include_stop_str_in_output": True}, "fields=include_stop_str_in_output"),
        ({"skip_special_tokens": True, "repeat_penalty": 1.0}, None),
        ({"cache_prompt": False, "mirostat": 0}, "fields=cache_prompt"),
        ({"repetition_penalty": 1.1}, "fields=repetition_penalty"),
        ({"ignore_eos": True, "min_tokens": 0}, "fields=ignore_eos"),
        ({"stop_token_ids": [5], "priority": 1}, "fields=priority,stop_token_ids"),
        ({"options": {"num_ctx": 4096}}, "fields=options.num_ctx"),
        ({"options": 5}, "fields=options"),
        ({"chat_template_kwargs": "x"}, "fields=chat_template_kwargs"),
        ({"separate_reasoning": False}, "fields=separate_reasoning"),
        ({"chat_template_kwargs": {}}, None),
        ({"typical_p": 1, "length_penalty": 1.0}, None),
    ],
    ids=str,
)
def test_what_has_no_effect_is_named_wherever_it_asks_for_something(
    fake: Runtime, fields: dict[str, Any], named: str | None
) -> None:
    replies = posts(fake, [(path, {"max_tokens": 1} | fields) for path in BODIES])

    told = [(one.status_code, one.headers.get(IGNORED_HEADER)) for one in replies]
    assert told == [(200, named)] * len(BODIES)


def test_only_a_raw_completion_shows_control_tokens(fake: Runtime) -> None:
    fields = {"max_tokens": 1, "skip_special_tokens": False}
    replies = posts(fake, [(path, fields) for path in BODIES])

    told = {
        path: one.headers.get(IGNORED_HEADER)
        for path, one in zip(BODIES, replies, strict=True)
    }
    named = dict.fromkeys(BODIES, "fields=skip_special_tokens")
    assert told == named | {COMPLETIONS: None}


def test_a_raw_completion_has_no_reasoning_to_steer(fake: Runtime) -> None:
    reply = post(fake, COMPLETIONS, reasoning_effort="low", thinking_budget=3)

    assert reply.headers[IGNORED_HEADER] == "fields=reasoning_effort,thinking_budget"


def test_a_format_of_a_raw_completion_is_refused_with_where_to_go(
    fake: Runtime,
) -> None:
    asks = [{"guided_json": SCHEMA}, {"grammar": "x"}]
    asks += [{"response_format": {"type": "json_object"}}]
    for reply in posts(fake, [(COMPLETIONS, one) for one in asks]):
        assert reply.status_code == 400
        assert "ask `/v1/chat/completions`" in reply.json()["error"]["message"]
    assert post(fake, COMPLETIONS, response_format={"type": "text"}).status_code == 200


@pytest.mark.parametrize(
    ("word", "field", "named"),
    [
        ("auto", "reasoning_content", None),
        ("deepseek", "reasoning_content", None),
        ("parsed", "reasoning", None),
        ("none", "reasoning", "fields=reasoning_format"),
        ("raw", "reasoning", "fields=reasoning_format"),
    ],
)
def test_the_name_of_reasoning_is_that_of_other_servers_clients(
    fake: Runtime, word: str, field: str, named: str | None
) -> None:
    reply = post(fake, CHAT, reasoning_format=word)

    assert reply.json()["choices"][0]["message"][field]
    assert reply.headers.get(IGNORED_HEADER) == named
