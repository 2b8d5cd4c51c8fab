"""Who may ask: hosts, origins, keys and sizes; every refusal has its form."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from mlx_gptoss import __version__
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import answering
from tests.support.serving import asked

KEY = "a key of nobody"


@pytest.fixture(scope="module")
def silent() -> Iterator[Runtime]:
    """A runtime that is never asked."""
    with answering() as runtime:
        yield runtime


def get(
    runtime: Runtime,
    path: str,
    settings: ServerSettings,
    method: str = "GET",
    **request: Any,
) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime, settings) as client:
            return await client.request(method, path, **request)

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("rebound.example", 403),
        ("localhost.example:8080", 403),
        ("127.0.0.1.example", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_served(
    silent: Runtime, host: str, status: int
) -> None:
    reply = get(silent, "/v1/models", ServerSettings(), headers={"host": host})

    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "file://"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "https://app.example"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_pages_of_other_origins_may_not_ask(
    silent: Runtime, headers: dict[str, str], status: int
) -> None:
    settings = ServerSettings(origins=("https://app.example",))
    reply = get(silent, "/v1/models", settings, headers=headers)

    assert reply.status_code == status


def test_a_link_to_the_documentation_may_be_followed(silent: Runtime) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}

    assert get(silent, "/docs", ServerSettings(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"x-api-key": "wrong"}, 401),
    ],
)
def test_with_a_key_only_who_knows_it_is_answered(
    silent: Runtime, headers: dict[str, str], status: int
) -> None:
    reply = get(silent, "/v1/models", ServerSettings(api_key=KEY), headers=headers)

    assert reply.status_code == status
    assert KEY not in reply.text


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json"])
def test_what_tells_nothing_needs_no_key(silent: Runtime, path: str) -> None:
    assert get(silent, path, ServerSettings(api_key=KEY)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}])
def test_without_its_key_health_says_only_that_it_answers(
    silent: Runtime, headers: dict[str, str]
) -> None:
    told = get(silent, "/health", ServerSettings(api_key=KEY), headers=headers).json()
    assert told == {"status": "ok"}


def test_health_may_be_asked_by_head(silent: Runtime) -> None:
    async def work() -> int:
        async with asked(silent) as client:
            return (await client.head("/health")).status_code

    assert asyncio.run(work()) == 200


def test_who_may_ask_hears_from_health_what_runs(silent: Runtime) -> None:
    whole = {
        "status": "ok",
        "version": __version__,
        "models": ["demo"],
        "loaded": ["demo"],
        "running": 0,
    }
    known = {"authorization": f"Bearer {KEY}"}
    assert (
        get(silent, "/health", ServerSettings(api_key=KEY), headers=known).json()
        == whole
    )
    assert get(silent, "/health", ServerSettings()).json() == whole


def test_the_document_does_not_tell_which_version_answers(silent: Runtime) -> None:
    told = get(silent, "/openapi.json", ServerSettings(api_key=KEY)).text
    assert f'"{__version__}"' not in told


@pytest.mark.parametrize("path", ["/", "/metrics", "/v1/models", "/docsx", "/nothing"])
def test_everything_else_does(silent: Runtime, path: str) -> None:
    assert get(silent, path, ServerSettings(api_key=KEY)).status_code == 401


def test_without_a_list_no_origin_is_allowed_to_read(silent: Runtime) -> None:
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    reply = get(silent, "/v1/models", ServerSettings(), "OPTIONS", headers=ask)

    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_a_listed_origin_may_ask_before_it_sends_its_key(silent: Runtime) -> None:
    ask = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    settings = ServerSettings(api_key=KEY, origins=("https://app.example",))
    reply = get(silent, "/v1/chat/completions", settings, "OPTIONS", headers=ask)

    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    allowed = reply.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed


SMALL = ServerSettings(limits=RequestLimits(body_bytes=100))


def test_a_body_that_says_it_is_too_large_is_not_read(silent: Runtime) -> None:
    reply = get(silent, "/v1/completions", SMALL, "POST", content=b"x" * 101)

    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


def test_a_body_without_a_length_is_read_no_further_than_allowed(
    silent: Runtime,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10

    reply = get(silent, "/v1/completions", SMALL, "POST", content=pieces())

    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"


def test_a_body_that_does_not_come_is_given_up(silent: Runtime) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(10)

    settings = ServerSettings(limits=RequestLimits(body_seconds=0.05))
    reply = get(silent, "/v1/completions", settings, "POST", content=stuck())

    assert reply.status_code == 408
    assert reply.json()["error"]["code"] == "request_timeout"


def test_clients_of_anthropic_get_errors_in_their_form(silent: Runtime) -> None:
    reply = get(silent, "/v1/messages", ServerSettings(api_key=KEY), "POST")

    error = reply.json()
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")


def test_the_document_asks_for_a_key_where_there_is_one(silent: Runtime) -> None:
    for key in (None, KEY):
        document = get(silent, "/openapi.json", ServerSettings(api_key=key)).json()
        schemes = document["components"].get("securitySchemes", {})
        assert [one["scheme"] for one in schemes.values()] == ["bearer"] * bool(key)


def test_pages_load_nothing_from_elsewhere(silent: Runtime) -> None:
    for path in ("/docs", "/docs/start.js", "/openapi.json"):
        reply = get(silent, path, ServerSettings())
        assert "//" not in reply.text.replace("<!--", ""), path
        assert "default-src 'self'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["swagger-ui-bundle.js", "swagger-ui.css"])
def test_the_assets_of_the_page_are_served_here(silent: Runtime, name: str) -> None:
    page = get(silent, "/docs", ServerSettings()).text
    assert f'"/docs/{name}"' in page

    reply = get(silent, f"/docs/{name}", ServerSettings())
    assert (reply.status_code, len(reply.content) > 100_000) == (200, True)


def test_other_files_are_not(silent: Runtime) -> None:
    for name in ("redoc.standalone.js", "..%2f__init__.py", "nothing"):
        assert get(silent, f"/docs/{name}", ServerSettings()).status_code == 404


def test_every_reply_tells_browsers_not_to_guess_or_frame(silent: Runtime) -> None:
    for path in ("/health", "/nothing", "/docs"):
        headers = get(silent, path, ServerSettings()).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_figures_have_no_text_of_a_client(silent: Runtime) -> None:
    async def work() -> str:
        async with asked(silent, ServerSettings()) as client:
            await client.get("/v1/secret-name")
            await client.request("BREW", "/v1/models")
            await client.get("/v1/models")
            return (await client.get("/metrics")).text

    text = asyncio.run(work())
    assert 'requests_total{method="GET",route="/v1/models",status="200"} 1.0' in text
    assert 'requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'mlx_gptoss_model_loaded{model="demo"} 1.0' in text
    assert "secret" not in text
    assert "BREW" not in text


ROUTES_THAT_ARE_NOT = [
    ("GET", "/v1"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/audio/speech"),
    ("GET", "/v1/chat/completions/none"),
    ("GET", "/v1/responses/compact"),
    ("PUT", "/v1/responses/compact"),
    ("POST", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches/b/results"),
    ("PATCH", "/api/v0/chat"),
    ("PATCH", "/ollama"),
    ("GET", "/api/me"),
]
WRONG_METHODS = [
    ("GET", "/v1/chat/completions"),
    ("DELETE", "/v1/models"),
    ("POST", "/v1/responses/resp_1"),
    ("PUT", "/v1/messages"),
    ("PATCH", "/v1/messages/count_tokens"),
    ("POST", "/health"),
    ("PATCH", "/api/chat"),
]


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *((*one, 404) for one in ROUTES_THAT_ARE_NOT),
        *((*one, 405) for one in WRONG_METHODS),
    ],
)
def test_a_route_that_is_not_there_has_the_form_of_its_api(
    silent: Runtime, key: str | None, method: str, path: str, status: int
) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = get(silent, path, ServerSettings(api_key=key), method, headers=headers)

    assert reply.status_code == status
    assert ("allow" in reply.headers) == (status == 405)
    code = {404: "not_found", 405: "method_not_allowed"}[status]
    kind = {404: "not_found_error", 405: "invalid_request_error"}[status]
    error = reply.json()["error"]
    if path in ("/api/chat", "/api/me"):
        assert reply.json() == {"error": error} and "see /docs" in error
    elif path.startswith("/v1/messages"):
        assert (reply.json()["type"], error["type"]) == ("error", kind)
        assert reply.json()["request_id"] is None
    else:
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
        assert error.keys() == {"message", "type", "param", "code"}


def test_who_has_no_key_hears_of_no_routes(silent: Runtime) -> None:
    public = ("POST", "/health")
    for method, path in [*ROUTES_THAT_ARE_NOT, *WRONG_METHODS]:
        if (method, path) == public:
            continue
        assert get(silent, path, ServerSettings(api_key=KEY), method).status_code == 401
