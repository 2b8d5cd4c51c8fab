"""Long bodies are parsed off the event loop, with the same errors."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss import load
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.bodies import MANY_VALUES, count_values
from tests.support.long_requests import CONTEXT, run


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo", context=CONTEXT) as runtime:
        yield runtime


KEYS = st.text(alphabet='a,[{"\\:é', max_size=4)
VALUES = st.recursive(
    st.none() | st.integers() | KEYS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def values_in(value: Any) -> int:
    """One for each list and object, and for each entry behind the first."""
    if isinstance(value, list | dict):
        inner = value if isinstance(value, list) else list(value.values())
        return max(len(inner), 1) + sum(map(values_in, inner))
    return 0


@settings(max_examples=30, deadline=None)
@given(value=VALUES, text=KEYS)
def test_many_values_are_counted_and_no_text_is(value: Any, text: str) -> None:
    many = [1] * (MANY_VALUES + 1)

    body = json.dumps([many, value, text * 9]).encode()

    assert count_values(body, 2 * MANY_VALUES) == values_in([many, value, text * 9])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}] * 20_000},
            400,
            "`messages` has 20000 entries: this server takes 10000 at most",
        ),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": "Hi"}] * 20_000},
            400,
            "`input` has 20000 entries: this server takes 10000 at most",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "tools": [{}] * 20_000},
            400,
            "`tools` has 20000 entries: this server takes 256 at most",
        ),
        (
            "/v1/completions",
            {"prompt": [1] * (RequestLimits().values + 2)},
            413,
            "the body has more than 524288 values: shorten the conversation",
        ),
        ("/v1/completions", {"prompt": [1] * 20_000}, 400, "resulted in 20000 tokens"),
        ("/v1/completions", {"prompt": [1, "a"] * 20_000}, 400, "prompt"),
        (
            "/v1/completions",
            {"prompt": "a " * 30_000, "max_tokens": "many"},
            400,
            "`max_tokens`: Input should be a valid integer",
        ),
    ],
)
def test_a_long_body_is_refused_for_what_is_wrong_with_it(
    demo: Runtime, path: str, body: Any, status: int, says: str
) -> None:
    reply = run(demo, lambda client: client.post(path, json=body))

    assert (reply.status_code, says in reply.json()["error"]["message"]) == (
        status,
        True,
    )


@pytest.mark.parametrize("kind", ["regex", "grammar", "ebnf", "guided_regex"])
def test_a_grammar_is_as_short_as_a_schema_has_to_be(demo: Runtime, kind: str) -> None:
    ask = {"messages": [{"role": "user", "content": "Hi"}], kind: "a" * 600_000}

    reply = run(demo, lambda client: client.post("/v1/chat/completions", json=ask))

    says = "the grammar of `response_format` has 600000 characters: this server takes"
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == f"{says} 524288 at most"


@pytest.mark.parametrize("filler", [10, 40_000])
@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("", "the body is not JSON"),
        ('"x": ' + "9" * 5000 + "}", "the body cannot be read: send JSON in UTF-8"),
        ('"x": ' + "[" * 9000 + "]" * 9000 + "}", "the body"),
        ('"messages": []}', "`messages`: List should have at least 1 item"),
    ],
)
def test_a_body_is_refused_in_the_same_words_however_long_it_is(
    demo: Runtime, filler: int, end: str, says: str
) -> None:
    text = '{"user": "' + "a" * filler + '", ' + end

    reply = run(
        demo,
        lambda client: client.post(
            "/v1/chat/completions",
            content=text.encode(),
            headers={"content-type": "application/json"},
        ),
    )

    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith(says)


def test_a_long_body_that_is_not_called_json_is_refused(demo: Runtime) -> None:
    body = json.dumps({"prompt": "a " * 30_000}).encode()
    headers = {"content-type": "text/plain"}

    reply = run(
        demo,
        lambda client: client.post("/v1/completions", content=body, headers=headers),
    )

    assert "sent as `application/json`" in reply.json()["error"]["message"]
