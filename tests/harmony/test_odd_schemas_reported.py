"""Unenforced keywords are reported: by the server, the command line and chats."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_gptoss import load
from mlx_gptoss.api.ignored import IGNORED_HEADER, add_unenforced_keywords
from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.cli import cli
from mlx_gptoss.engine.runtime import Runtime
from tests.harmony.test_odd_schemas import FIELDS
from tests.support.serving import WEATHER, asked, question


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


ODD = {"type": "object", "properties": {"n": FIELDS["look-ahead"][0]}}
FREED = "schemas=functions[1].pattern"
SAID = "no grammar keeps `pattern` of `n`): leave that out, or do not ask for `strict`"


def odd_bodies(*, strict: bool | None) -> dict[str, dict[str, Any]]:
    """Return a request with an odd tool after a good one, for each API."""
    good = WEATHER["function"]
    odd = {"name": "odd", "parameters": ODD, "strict": strict}
    messages = [{"role": "user", "content": "hi"}]
    return {
        "/v1/chat/completions": question(
            "hi", max_tokens=1, tools=[WEATHER, {"type": "function", "function": odd}]
        ),
        "/v1/responses": {
            "model": "demo",
            "input": "hi",
            "max_output_tokens": 16,
            "tools": [{"type": "function", **one} for one in (good, odd)],
        },
        "/v1/messages": {
            "model": "demo",
            "max_tokens": 1,
            "messages": messages,
            "tools": [
                {"name": "w", "input_schema": good["parameters"]},
                {"name": "odd", "input_schema": ODD, "strict": strict},
            ],
        },
    }


@pytest.mark.parametrize("path", odd_bodies(strict=None))
def test_an_odd_tool_refuses_a_request_only_if_it_is_strict(
    demo: Runtime, path: str
) -> None:
    async def work() -> None:
        async with asked(demo) as client:
            free = await client.post(path, json=odd_bodies(strict=None)[path])
            body = {**odd_bodies(strict=None)[path], "stream": True}
            streamed = await client.post(path, json=body)
            strict = await client.post(path, json=odd_bodies(strict=True)[path])
        assert (free.status_code, free.headers[IGNORED_HEADER]) == (200, FREED)
        assert (streamed.status_code, streamed.headers[IGNORED_HEADER]) == (200, FREED)
        assert strict.status_code == 400 and SAID in strict.json()["error"]["message"]

    asyncio.run(work())


@pytest.mark.parametrize("strict", [None, True])
def test_so_does_an_odd_answer_format(demo: Runtime, strict: bool | None) -> None:
    form = {"name": "x", "schema": ODD, "strict": strict}
    answer = {"type": "json_schema", "json_schema": form}
    body = question("hi", max_tokens=1, response_format=answer)

    async def work() -> tuple[int, str | None]:
        async with asked(demo) as client:
            reply = await client.post("/v1/chat/completions", json=body)
        return reply.status_code, reply.headers.get(IGNORED_HEADER)

    found = asyncio.run(work())
    assert found == (
        (400, None) if strict else (200, "schemas=response_format.pattern")
    )


def test_a_header_names_some_keywords_and_counts_the_others() -> None:
    many = [f"functions[{n}].not" for n in range(20)]

    found = add_unenforced_keywords({IGNORED_HEADER: "fields=user"}, many)[
        IGNORED_HEADER
    ]

    assert found.startswith("fields=user; schemas=functions[0].not,")
    assert found.endswith("functions[15].not,4 more")
    assert add_unenforced_keywords(None, []) == {}


def test_the_command_line_says_what_it_does_not_enforce(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(ODD))
    options = ["--json-schema", str(path), "--max-tokens", "1"]

    found = CliRunner().invoke(cli, ["generate", "hi", "-m", "demo", *options])

    assert found.exit_code == 0
    assert "not enforced in the answer: `pattern` of `n`" in found.stderr


def test_a_tool_is_called_with_what_its_odd_schema_lets_through() -> None:
    fields = {
        "flag": {"type": "bool"},
        "text": {"type": "string", "nullable": True},
        "part": {"$ref": "#a"},
        "odd": "a number",
    }
    schema = {"properties": fields, "$defs": {"A": {"$anchor": "a", "type": "string"}}}
    tool = Tool.from_schema("t", "", schema, function=lambda **given: given)

    said = tool.run('{"flag": true, "text": null, "part": "x", "odd": 3}')

    assert json.loads(said) == {"flag": True, "text": None, "part": "x", "odd": 3}
    assert tool.run('{"part": 3}') == "Error: `part` must be string, not 3"
