"""Logits that are no numbers, as the clients of every API and of the CLI hear of it."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.engine.runtime import Runtime
from tests.project.test_non_finite import TURN, broken, saying
from tests.support import sse
from tests.support.serving import asked

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = {"messages": MESSAGES}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "<|start|>assistant", "parse_special": True},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 99},
}


def posted(runtime: Runtime, path: str, **fields: Any) -> httpx2.Response:
    body = {"model": "demo", "temperature": 0} | PATHS[path] | fields

    async def work() -> httpx2.Response:
        async with asked(runtime) as client:
            return await client.post(path, json=body)

    return asyncio.run(work())


def messages_of(error: dict[str, Any], path: str) -> str:
    """The message of an error in the form of its API."""
    if path == "/v1/messages":
        assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    else:
        told = error["error"]
        assert (told["type"], told["code"]) == ("server_error", "model_failed")
    return error["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", ["", TURN], ids=["at once", "later"])
def test_a_whole_reply_is_an_error_of_the_server(path: str, text: str) -> None:
    with saying(text, np.nan) as runtime:
        reply = posted(runtime, path)

    assert reply.status_code == 500
    assert "logits for token" in messages_of(reply.json(), path)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_ends_in_the_error_event_of_its_api(path: str) -> None:
    with saying(TURN, np.nan) as runtime:
        reply = posted(runtime, path, stream=True)

    events = sse.events(reply.text)
    if path != "/v1/messages":
        assert events.pop().data == sse.DONE
    *before, last = events
    assert "H" in json.dumps([one.data for one in before])
    if path == "/v1/responses":
        failed = before[-1].data
        assert failed["type"] == "response.failed"
        assert failed["response"]["error"]["code"] == "server_error"
        assert "logits" in failed["response"]["error"]["message"]
    named = path in ("/v1/messages", "/v1/responses")
    assert last.name == ("error" if named else None)
    assert "logits for token" in messages_of(last.data, path)


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "Hi"],
        ["generate", "--raw", "Hi"],
        ["generate", "Hi", "--json"],
        ["chat", "--private"],
    ],
    ids=" ".join,
)
def test_a_command_ends_with_one_line(
    command: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = broken(tmp_path / "m", "model.norm.weight", np.nan)
    words = [*command, "-m", str(folder), "--max-tokens", "9"]
    result = CliRunner().invoke(cli, words, input="Hi\n")

    assert (result.exit_code, result.stdout.strip()) == (1, "")
    [line] = [one for one in result.stderr.splitlines() if "rror" in one]
    assert line.startswith("Error: the model's logits for token 1 of the answer")
