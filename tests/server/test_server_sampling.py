"""Where a request does not say how tokens are chosen, the operator's choice holds."""

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_gptoss import SamplingParams
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.cli.serve import serve as serve_command
from mlx_gptoss.cli.serve import settings_of
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import DATE, asked

SUM = "What is 417 + 285?"
USER = [{"role": "user", "content": SUM}]
RAW = f"<|start|>user<|message|>{SUM}<|end|><|start|>assistant"
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/responses": {"input": SUM, "store": False},
    "/v1/messages": {"messages": USER, "max_tokens": 400},
    "/v1/completions": {"prompt": RAW, "parse_special": True, "max_tokens": 300},
}
GREEDY = ServerSettings(date=DATE, sampling=SamplingParams(temperature=0))
WILD = ServerSettings(date=DATE, sampling=SamplingParams(temperature=3.0))


def said(runtime: Runtime, path: str, settings: ServerSettings, **fields: Any) -> str:
    """The text of a reply, wherever the API has it."""

    async def work() -> Any:
        async with asked(runtime, settings) as client:
            body = {"model": "demo", **ASKS[path], **fields}
            reply = await client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

    reply = asyncio.run(work())
    if path == "/v1/responses":
        return reply["output"][-1]["content"][0]["text"]
    if path == "/v1/messages":
        return reply["content"][-1]["text"]
    [choice] = reply["choices"]
    return choice.get("text") or choice["message"]["content"]


@pytest.mark.parametrize("path", ASKS)
def test_the_operators_choice_holds_where_a_request_says_nothing(
    demo: Runtime, path: str
) -> None:
    assert "417 + 285 = 702" in said(demo, path, GREEDY)


@pytest.mark.parametrize("path", ASKS)
def test_what_a_request_says_goes_first(demo: Runtime, path: str) -> None:
    assert "417 + 285 = 702" in said(demo, path, WILD, temperature=0)


def test_the_command_hands_its_options_over() -> None:
    context = serve_command.make_context(
        "serve", ["-m", "demo", "--temperature", "0.5", "--top-p", "0.9"]
    )
    given = {k: v for k, v in context.params.items() if k != "models"}
    found = settings_of(**given)
    assert found.sampling == SamplingParams(temperature=0.5, top_p=0.9)


@pytest.mark.parametrize("wrong", [("--temperature", "-1"), ("--top-p", "2")])
def test_what_is_out_of_range_is_refused(wrong: tuple[str, str]) -> None:
    result = CliRunner().invoke(serve_command, ["-m", "demo", *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.stderr
