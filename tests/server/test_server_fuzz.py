"""Whatever is sent to any route: no error of the server's, and it goes on serving.

Bodies are made from the document of the API by schemathesis, from bodies that are
right by changing them, and from bytes that are no JSON at all.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from tests.support.answering_app import constant
from tests.support.serving import DATE, WEATHER, asked

SETTINGS = ServerSettings(date=DATE, limits=RequestLimits(body_bytes=100_000))
MADE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
FUNCTION = {"type": "function", **WEATHER["function"]}
USER = {"role": "user", "content": "Is it?"}
# A body that is right, for each route that takes one.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "tools": [WEATHER],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "max_tokens": 20,
        "logit_bias": {"5": 1.0},
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
    },
    "/v1/chat/render": {"model": "demo", "messages": [USER]},
    "/v1/completions": {"model": "demo", "prompt": "Is it?", "max_tokens": 8},
    "/v1/responses": {
        "model": "demo",
        "input": [
            {"type": "message", **USER},
            {"type": "reasoning", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ],
        "tools": [
            FUNCTION,
            {
                "type": "custom",
                "name": "p",
                "format": {"type": "grammar", "syntax": "regex", "definition": "a+"},
            },
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "auto",
        "max_output_tokens": 20,
    },
    "/v1/responses/input_tokens": {"input": "Is it?"},
    "/v1/responses/render": {"input": "Is it?"},
    "/v1/messages": {
        "model": "demo",
        "max_tokens": 20,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "1"}
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 9},
    },
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/messages/render": {"messages": [USER]},
    "/api/chat": {
        "model": "demo:latest",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is it?"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "Hm.",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "tool_name": "f", "content": "1"},
        ],
        "tools": [WEATHER],
        "format": {"type": "object"},
        "think": "low",
        "keep_alive": "5m",
        "logprobs": True,
        "top_logprobs": 2,
        "options": {"temperature": 0.5, "num_predict": 20, "stop": ["x"]},
    },
    "/api/generate": {
        "prompt": "Is it?",
        "system": "Be brief.",
        "stream": False,
        "think": False,
        "options": {"seed": 1, "top_k": 5, "num_ctx": 4096},
    },
    "/api/show": {"model": "demo"},
    "/api/v0/chat/completions": {"messages": [USER], "max_tokens": 20},
    "/api/v0/completions": {"prompt": "Is it?", "max_tokens": 8},
    "/api/v1/models/load": {"model": "demo"},
    "/tokenize": {"prompt": "Is it?", "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2]},
}
ODD_FIELD = b'{"a": NaN}'
ANYTHING_GOES = ("/api/chat", "/api/generate", "/api/show")
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    2**70,
    "",
    "\ud800",
    "\x00",
    "<|end|>",
    "a" * 3000,
    [],
    [None],
    {},
    {"type": "x"},
    {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
    {"\ud800": ["\udfff"]},
]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with constant() as made:
        yield made


@pytest.fixture
def document() -> Iterator[Any]:
    """What schemathesis makes of the document of the API, and the app to ask.

    Its end is the end of the app, which closes its runtime: one for each test.
    """
    with constant() as made:
        app = create_app(Models.of(made, "demo"), replace(SETTINGS, hosts=None))
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


def post(runtime: Runtime, path: str, content: bytes, **headers: str) -> Any:
    async def work() -> httpx2.Response:
        async with asked(runtime, SETTINGS) as client:
            kind = KIND | headers
            return await client.post(path, content=content, headers=kind)

    return asyncio.run(work())


KIND = {"content-type": "application/json"}


def check(reply: httpx2.Response) -> None:
    """Nothing is the server's fault, and an error says so in words of its form."""
    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        error = reply.json()["error"]
        assert isinstance(error, str) or (error["message"] and error["type"])
        assert error
        assert "Traceback" not in reply.text
    elif "event-stream" in reply.headers["content-type"]:
        assert "internal error" not in reply.text
        assert "server_error" not in reply.text


@pytest.mark.parametrize("examples", [4, pytest.param(200, marks=pytest.mark.soak)])
def test_nothing_the_document_allows_is_an_error_of_the_server(
    document: Any, examples: int
) -> None:
    for found in document.get_all_operations():

        @settings(MADE, max_examples=examples)
        @given(found.ok().as_strategy())
        def ask(case: Any) -> None:
            reply = case.call()
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)

        ask()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at a place of it."""
    if not path:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


@pytest.mark.parametrize("path", BODIES)
def test_the_bodies_are_right(runtime: Runtime, path: str) -> None:
    reply = post(runtime, path, json.dumps(BODIES[path]).encode())

    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    "every", [61, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"]
)
@pytest.mark.parametrize("path", BODIES)
def test_changed_bodies_are_answered_or_refused(
    runtime: Runtime, path: str, every: int
) -> None:
    """An odd value at each place of a right body, whole and streamed."""
    bodies = [BODIES[path], BODIES[path] | {"stream": True}]
    changes = [
        changed(body, place, new)
        for body in bodies
        for place in places(body)
        for new in ODD
    ]

    async def work() -> None:
        async with asked(runtime, SETTINGS) as client:
            for body in changes[::every]:
                content = json.dumps(body).encode()
                reply = await client.post(path, content=content, headers=KIND)
                try:
                    check(reply)
                except Exception as error:
                    raise AssertionError(content) from error

    asyncio.run(work())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{",
        b'{"model": "\xff\xff"}',
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}], "input": "\xff"}',
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"NaN",
        ODD_FIELD,
        b"[" * 50_000,
        b'{"input":' * 20_000,
        b'{"messages": [], "input": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
        b'{"temperature": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:24]),
)
@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_body_is_refused(
    runtime: Runtime, path: str, content: bytes
) -> None:
    reply = post(runtime, path, content)

    check(reply)
    if path in ANYTHING_GOES and content == ODD_FIELD:
        return  # nothing is required there, so it asks for the first model
    assert 400 <= reply.status_code < 500


@pytest.mark.parametrize("path", BODIES)
def test_bodies_that_are_too_large_are_refused(runtime: Runtime, path: str) -> None:
    reply = post(runtime, path, json.dumps({"input": "x" * 200_000}).encode())

    check(reply)
    assert reply.status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "x; charset=no"])
@pytest.mark.parametrize("path", BODIES)
def test_other_kinds_of_content_are_answered_or_refused(
    runtime: Runtime, path: str, kind: str
) -> None:
    content = json.dumps(BODIES[path]).encode()

    check(post(runtime, path, content, **{"content-type": kind}))


def test_the_server_goes_on_after_all_that(runtime: Runtime) -> None:
    path = "/v1/chat/completions"
    ask = {"model": "demo", "messages": [USER]}
    reply = post(runtime, path, json.dumps(ask).encode()).json()

    assert reply["choices"][0]["message"]["content"] == "Yes, it is."
