"""Fields as clients of other servers send them: each works, or is named."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.aliases import FIELD_ALIASES, OWN_FIELDS
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.completions.wire import CompletionRequest
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.ignored import IGNORED_HEADER, ignored_header
from mlx_gptoss.api.ignored_names import NAMEABLE_FIELDS, PROVIDER_BLOCKS
from mlx_gptoss.api.messages.wire import MessagesRequest
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.constrain.constraints import AnswerFormat
from mlx_gptoss.harmony.content_parts import PART_NAMES
from tests.support.answering_app import constant
from tests.support.serving import asked

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "mlx_gptoss" / "server" / "README.md").read_text()
USER = {"role": "user", "content": "Is it?"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": [USER], "store": False},
    "/v1/messages": {"messages": [USER], "max_tokens": 300},
    "/v1/completions": {"prompt": "Is it?"},
}
CHAT, RESPONSES, MESSAGES, COMPLETIONS = BODIES
APIS = {CHAT: ChatRequest, RESPONSES: ResponsesRequest, MESSAGES: MessagesRequest}
TURNS = tuple(APIS)  # where reasoning and formats have a meaning


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    """A runtime that says at once what it says to everybody."""
    with constant() as runtime:
        yield runtime


def read(path: str, **fields: Any) -> Any:
    """A request as it is understood."""
    return APIS[path].model_validate(BODIES[path] | fields)


def post(runtime: Runtime, path: str, **fields: Any) -> httpx2.Response:
    return posts(runtime, [(path, fields)])[0]


def posts(
    runtime: Runtime, asks: Sequence[tuple[str, dict[str, Any]]]
) -> list[httpx2.Response]:
    async def work() -> list[httpx2.Response]:
        async with asked(runtime) as client:
            return [
                await client.post(path, json=BODIES[path] | fields)
                for path, fields in asks
            ]

    return asyncio.run(work())


def effort_of(path: str, **fields: Any) -> tuple[str | None, Any]:
    """The effort that is understood, and the limit of reasoning."""
    request = read(path, **fields)
    if path == CHAT:
        return request.reasoning_effort, request.max_reasoning_tokens
    if path == RESPONSES:
        found = request.reasoning
        return (found and found.effort), (found and found.max_tokens)
    off = request.thinking is not None and request.thinking.type == "disabled"
    effort = request.output_config and request.output_config.effort
    budget = request.thinking and request.thinking.budget_tokens
    own = request.max_reasoning_tokens
    return ("none" if off else effort), (own if budget is None else budget)


def format_of(path: str, **fields: Any) -> Any:
    """The format that is understood."""
    request = read(path, **fields)
    found = {
        CHAT: lambda: request.response_format,
        RESPONSES: lambda: request.text and request.text.format,
        MESSAGES: lambda: request.output_config and request.output_config.format,
    }
    return AnswerFormat.of(found[path]())


def said(reply: httpx2.Response) -> str:
    """The answer's text, on whichever API."""
    assert reply.status_code == 200, reply.text
    body = reply.json()
    if "output" in body:
        return body["output"][-1]["content"][0]["text"]
    if "content" in body:
        return body["content"][-1]["text"]
    [choice] = body["choices"]
    return choice.get("text") or choice["message"]["content"]


# The table


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


# Efforts

OFF: list[dict[str, Any]] = [
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
    {"chat_template_kwargs": {"reasoning_effort": "none"}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"thinking": False}},
    {"enable_thinking": False},
    {"think": False},
    {"thinking": {"type": "disabled"}},
    {"output_config": {"effort": "none"}},
]


@pytest.mark.parametrize("path", TURNS)
def test_reasoning_can_be_turned_off_in_every_spelling(path: str) -> None:
    for fields in OFF:
        assert effort_of(path, **fields) == ("none", None), fields
        assert read(path, **fields).ignored_fields == [], fields


@pytest.mark.parametrize("path", TURNS)
def test_reasoning_is_bounded_in_every_spelling(path: str) -> None:
    for fields in (
        {"max_reasoning_tokens": 7},
        {"thinking_token_budget": 7},
        {"reasoning_budget_tokens": 7},
        {"thinking_budget": 7},
        {"chat_template_kwargs": {"thinking_budget": 7}},
        {"reasoning": {"max_tokens": 7}},
        {"thinking": {"type": "enabled", "budget_tokens": 7}},
    ):
        assert effort_of(path, **fields) == (None, 7), fields
    assert effort_of(path, thinking_token_budget=-1) == (None, None)


@pytest.mark.parametrize("path", TURNS)
def test_every_word_for_an_effort_is_known_to_every_api(path: str) -> None:
    for word in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        for fields in (
            {"reasoning_effort": word},
            {"reasoning": {"effort": word}},
            {"output_config": {"effort": word}},
            {"chat_template_kwargs": {"reasoning_effort": word}},
            {"think": word},
        ):
            assert effort_of(path, **fields) == (word, None)


@pytest.mark.parametrize(
    ("fields", "effort", "named"),
    [
        ({"think": True}, None, {}),
        ({"enable_thinking": True, "reasoning_effort": "low"}, "low", {}),
        ({"think": "low", "enable_thinking": True}, "low", {}),
        ({"reasoning_effort": "xhigh", "reasoning": {"effort": "high"}}, "xhigh", {}),
        (
            {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
            "low",
            {IGNORED_HEADER: "fields=reasoning.effort"},
        ),
        (
            {"think": "high", "chat_template_kwargs": {"reasoning_effort": "low"}},
            "low",
            {IGNORED_HEADER: "fields=think"},
        ),
        (
            {"reasoning_effort": "high", "enable_thinking": False},
            "high",
            {IGNORED_HEADER: "fields=enable_thinking"},
        ),
        (
            {"reasoning_effort": "none", "think": True},
            "none",
            {IGNORED_HEADER: "fields=think"},
        ),
        (
            {"reasoning": {"summary": "auto", "x": 1}},
            None,
            {IGNORED_HEADER: "fields=reasoning.summary; unknown=1"},
        ),
        (
            {"chat_template_kwargs": {"model_identity": "Hal", "x\r\ny": 1}},
            None,
            {IGNORED_HEADER: "fields=chat_template_kwargs.model_identity; unknown=1"},
        ),
    ],
    ids=str,
)
def test_the_apis_own_word_goes_first_and_what_it_overrules_is_named(
    fields: dict[str, Any], effort: str | None, named: dict[str, str]
) -> None:
    assert effort_of(CHAT, **fields)[0] == effort
    assert ignored_header(read(CHAT, **fields).ignored_fields) == named


@pytest.mark.parametrize(
    ("fields", "effort", "named"),
    [
        (
            {"thinking": {"type": "disabled"}, "reasoning_effort": "high"},
            "none",
            ["reasoning_effort"],
        ),
        (
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
            "none",
            ["output_config.effort"],
        ),
        (
            {"thinking": {"type": "disabled"}, "enable_thinking": True},
            "none",
            ["enable_thinking"],
        ),
        ({"thinking": {"type": "adaptive"}, "think": False}, None, ["think"]),
        ({"thinking": {"type": "enabled"}, "think": "low"}, "low", []),
        ({"thinking": {"type": "disabled"}, "think": False}, "none", []),
    ],
    ids=str,
)
def test_what_messages_says_of_thinking_goes_before_all_else(
    fields: dict[str, Any], effort: str | None, named: list[str]
) -> None:
    request = read(MESSAGES, **fields)

    assert (effort_of(MESSAGES, **fields)[0], request.ignored_fields) == (effort, named)
    assert request.thinking.type == fields["thinking"]["type"]


def test_budgets_of_messages_that_disagree_are_named() -> None:
    thinking = {"type": "enabled", "budget_tokens": 50}
    request = read(MESSAGES, thinking=thinking, max_reasoning_tokens=10)

    assert (request.thinking.budget_tokens, request.ignored_fields) == (
        50,
        ["max_reasoning_tokens"],
    )
    assert effort_of(MESSAGES, thinking=thinking, max_reasoning_tokens=10)[1] == 50


# Limits

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


# Formats

SCHEMA = {
    "type": "object",
    "properties": {"name": {"const": "Maria"}},
    "required": ["name"],
    "additionalProperties": False,
}
AS_TEXT = json.dumps(SCHEMA)
OF_SCHEMA = AnswerFormat.json_schema(SCHEMA)
BOUND: list[tuple[dict[str, Any], AnswerFormat | None]] = [
    ({"json_schema": SCHEMA}, OF_SCHEMA),
    ({"json_schema": AS_TEXT}, OF_SCHEMA),
    (
        {"json_schema": {"name": "who", "schema": SCHEMA}},
        AnswerFormat.json_schema(SCHEMA, name="who"),
    ),
    ({"format": SCHEMA}, OF_SCHEMA),
    ({"format": "json"}, AnswerFormat.json_object()),
    ({"format": ""}, None),
    ({"guided_json": SCHEMA}, OF_SCHEMA),
    ({"structured_outputs": {"json": AS_TEXT}}, OF_SCHEMA),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OF_SCHEMA),
    ({"structured_outputs": {"json_object": True}}, AnswerFormat.json_object()),
    ({"guided_json_object": False}, None),
    ({"guided_regex": "x{3}"}, AnswerFormat.regex("x{3}")),
    ({"regex": "x{3}"}, AnswerFormat.regex("x{3}")),
    ({"structured_outputs": {"regex": "x{3}"}}, AnswerFormat.regex("x{3}")),
    ({"grammar": 'root ::= "x"'}, AnswerFormat.grammar('root ::= "x"')),
    ({"grammar": ""}, None),
    ({"ebnf": 'root ::= "x"'}, AnswerFormat.grammar('root ::= "x"')),
    ({"guided_grammar": 'start: "x"'}, AnswerFormat.grammar('start: "x"')),
    ({"structured_outputs": {"grammar": "x"}}, AnswerFormat.grammar("x")),
]


@pytest.mark.parametrize("path", TURNS)
def test_a_format_is_read_in_every_spelling(path: str) -> None:
    for fields, found in BOUND:
        assert format_of(path, **fields) == found, fields
        assert read(path, **fields).ignored_fields == [], fields


def test_a_choice_is_of_these_very_texts() -> None:
    texts = ["(.)", "é+\n ", "", "a|b"]
    for fields in ({"guided_choice": texts}, {"structured_outputs": {"choice": texts}}):
        found = format_of(CHAT, **fields)
        for text in texts:
            assert re.fullmatch(in_python(found.source), text)
        assert not re.fullmatch(in_python(found.source), "a")


def in_python(pattern: str) -> str:
    """A regular expression of Rust's as one of Python's."""
    return re.sub(r"\\x\{(\w+)\}", lambda one: rf"\U{int(one[1], 16):08x}", pattern)


def test_what_is_sent_binds_the_answer() -> None:
    calm = {"reasoning_effort": "none", "temperature": 0}
    asks = [
        (CHAT, {"grammar": 'root ::= "N" [o-p] "."'}),
        (RESPONSES, {"structured_outputs": {"regex": "No[.]"}}),
        (MESSAGES, {"guided_choice": ["No."]}),
    ]
    with load("demo") as runtime:
        replies = posts(runtime, [(path, one | calm) for path, one in asks])

    assert {said(one) for one in replies} <= {"No.", "Np."}


def test_the_apis_own_format_goes_first() -> None:
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    fields = {"guided_regex": "x{3}", "response_format": own}

    assert format_of(CHAT, **fields) == AnswerFormat.json_schema(SCHEMA, name="n")
    assert read(CHAT, **fields).ignored_fields == ["guided_regex"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"guided_choice": []}, "`guided_choice`: give a list of strings"),
        ({"json_schema": "{"}, "`json_schema`: give a JSON schema"),
        ({"guided_json": 5}, "`guided_json`: give a JSON schema"),
        ({"grammar": {}}, "`grammar`: give a grammar, in GBNF or Lark"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "`structured_outputs.structural_tag`: structural tags are not",
        ),
        ({"think": "hard"}, "`think`: give true or false"),
        ({"n_predict": "many"}, "`n_predict`: give a whole number"),
        ({"options": {"num_predict": 0}}, "`options.num_predict`: give a whole"),
        ({"thinking_budget": 2.5}, "`thinking_budget`: give a whole number"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "extreme"}},
            "`chat_template_kwargs.reasoning_effort`: give none, minimal",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", TURNS)
def test_what_cannot_be_read_is_refused_by_the_name_it_came_under(
    path: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ApiError, match=re.escape(why)):
        read(path, **fields)


def test_a_grammar_that_is_none_is_refused_in_one_line(fake: Runtime) -> None:
    asks = [
        ("one of three", "line 1: expected a rule"),
        ('root ::= "a', "line 1: cannot read"),
        ("root ::= x", "names `x`"),
    ]
    for reply, (_, why) in zip(
        posts(fake, [(CHAT, {"grammar": one}) for one, _ in asks]), asks, strict=True
    ):
        told = reply.json()["error"]["message"]
        assert (reply.status_code, why in told, "\n" in told) == (400, True, False)


# What has no effect is named, also where it is false


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
