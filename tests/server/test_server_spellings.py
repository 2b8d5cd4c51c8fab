"""Fields of other servers: limits, sampling, and ignored fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.aliases import FIELD_ALIASES, OWN_FIELDS
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.ignored import IGNORED_HEADER, ignored_header
from mlx_gptoss.api.ignored_names import NAMEABLE_FIELDS, PROVIDER_BLOCKS
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.content_parts import PART_NAMES
from tests.support.answering_app import constant
from tests.support.spellings import (
    APIS,
    BODIES,
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    SCHEMA,
    TURNS,
    posts,
    read,
)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "mlx_gptoss" / "api" / "README.md").read_text()


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    """A runtime that says at once what it says to everybody."""
    with constant() as runtime:
        yield runtime


def post(runtime: Runtime, path: str, **fields: Any) -> httpx2.Response:
    return posts(runtime, [(path, fields)])[0]


def test_the_readme_has_the_table() -> None:
    rows = [
        f"| {', '.join(f'`{path}`' for path in alias.paths)} "
        f"| {alias.servers} | {alias.meaning} |"
        for alias in FIELD_ALIASES
    ]
    assert "\n".join(rows) in README


def test_no_field_stands_in_the_table_twice() -> None:
    paths = [(path, one.meaning) for one in FIELD_ALIASES for path in one.paths]
    assert len({path for path, _ in paths}) == len(paths)
    own = {(path, means) for means, api in OWN_FIELDS.items() for path in api.values()}
    assert {means for _, means in paths} == set(OWN_FIELDS)
    assert {path for path, _ in paths} | {path for path, _ in own} >= {
        "reasoning_effort",
        "max_completion_tokens",
    }


def test_every_field_of_the_table_or_of_an_api_can_be_named() -> None:
    apis = (*APIS.values(), CompletionRequest)
    assert {path for one in FIELD_ALIASES for path in one.paths} <= NAMEABLE_FIELDS
    fields = {name for api in apis for name in api.model_fields}
    assert fields - {"model"} <= NAMEABLE_FIELDS  # which every API has


def test_parts_blocks_and_versions_of_tools_can_be_named() -> None:
    items = [*PART_NAMES, *PROVIDER_BLOCKS, "function_call_output"]
    tools = ["web_search_2025_08_26", "bash_20250124", "web_search_preview"]

    assert ignored_header(items=items) == {
        IGNORED_HEADER: f"items={','.join(sorted(set(items)))}"
    }
    named = {IGNORED_HEADER: "tools=bash,web_search,web_search_preview"}
    assert ignored_header(tools=tools) == named


def test_what_is_not_known_is_counted_once(fake: Runtime) -> None:
    fields = {"reasoning": {"effort": "low", "x": 1, "y": 2}}
    for reply in posts(fake, [(path, fields) for path in TURNS]):
        assert reply.headers[IGNORED_HEADER] == "unknown=2"


LIMITS = {CHAT: "max_completion_tokens", RESPONSES: "max_output_tokens"}
LIMITS[MESSAGES] = "max_tokens"


@pytest.mark.parametrize("path", TURNS)
def test_a_limit_is_read_in_every_spelling(path: str) -> None:
    own = {"max_tokens": None} if path == MESSAGES else {}
    for count, most in ((3, 3), (-1, None)):
        for fields in (
            {"max_tokens": count},
            {"max_completion_tokens": count},
            {"max_output_tokens": count},
            {"max_new_tokens": count},
            {"n_predict": count},
            {"num_predict": count},
            {"options": {"num_predict": count}},
        ):
            request = read(path, **own | fields)
            assert (getattr(request, LIMITS[path]), request.ignored_fields) == (
                most,
                [],
            )


def test_limits_that_disagree_are_named() -> None:
    request = read(CHAT, max_completion_tokens=2, max_tokens=2, n_predict=9)

    assert (request.max_completion_tokens, request.ignored_fields) == (2, ["n_predict"])


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


@pytest.mark.parametrize("path", TURNS)
def test_sampling_is_read_in_every_spelling(path: str) -> None:
    options = {"temperature": 0, "top_k": -1, "top_p": 0.5, "min_p": 0.1, "seed": 3}
    request = read(path, options=options)

    found = {name: getattr(request, name) for name in options}
    assert found == options | {"top_k": 0}
    assert read(path, seed=-1).seed is None
    assert request.ignored_fields == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"skip_special_tokens": False}, "fields=skip_special_tokens"),
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


def test_calls_one_by_one_are_not_asked_for_in_silence() -> None:
    for parallel, named in ((False, ["parallel_tool_calls"]), (True, [])):
        assert read(MESSAGES, parallel_tool_calls=parallel).ignored_fields == named
        assert read(CHAT, parallel_tool_calls=parallel).ignored_fields == []


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


def test_a_bias_may_be_a_list_of_pairs() -> None:
    for bias in ([[4, False], [5, 2.5]], {"4": False, "5": 2.5}):
        assert read(CHAT, logit_bias=bias).logit_bias == {"4": -100.0, "5": 2.5}


def test_choices_and_stops_are_read_in_other_spellings() -> None:
    request = read(CHAT, n_cmpl=2, stop_sequences=["x"])

    assert (request.n, request.stop) == (2, ["x"])
    for stop in ({"stop": ["x"]}, {"stop": "x"}, {"options": {"stop": "x"}}):
        assert read(MESSAGES, **stop).stop_sequences == ["x"]
