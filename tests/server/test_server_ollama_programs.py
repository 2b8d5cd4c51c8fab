"""Programs for Ollama, by the calls they make: Open WebUI, Home Assistant, editors.

Each sequence is that of the program's own source (Open WebUI's routers/ollama.py, Home
Assistant's components/ollama, Zed's crates/ollama, Continue's llms/Ollama.ts, VS Code's
provider), sent in its order and read as it reads the replies.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import httpx2

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import DATE, WEATHER, asked

KEY = "of the server"
OSLO = "What is the weather in Oslo?"
ANSWER = "The temperature is 21."
RESULT = '{"temperature": 21}'


def with_client(
    runtime: Runtime, work: Callable[[httpx2.AsyncClient], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        settings = ServerSettings(date=DATE, api_key=KEY)
        headers = {"authorization": f"Bearer {KEY}"}
        async with asked(runtime, settings, headers=headers) as client:
            await work(client)

    asyncio.run(run())


async def get(client: httpx2.AsyncClient, path: str) -> Any:
    reply = await client.get(path)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def post(client: httpx2.AsyncClient, path: str, **body: Any) -> Any:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def lines(client: httpx2.AsyncClient, path: str, **body: Any) -> list[Any]:
    async with client.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        return [json.loads(line) async for line in reply.aiter_lines()]


def test_open_webui(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        assert (await get(client, "/api/version"))["version"]  # "Verify connection"
        tags, ps = await get(client, "/api/tags"), await get(client, "/api/ps")
        by_model = {one["model"]: one for one in tags["models"]}
        for one in ps["models"]:
            expires = datetime.fromisoformat(one["expires_at"])
            assert int(expires.timestamp()) > 0 and one["name"] in by_model
        assert (await post(client, "/api/show", model="demo"))["model_info"]
        body = {
            "model": "demo",
            "messages": [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": "What is 417 + 285?"},
            ],
            "options": {"temperature": 0, "num_ctx": 8192, "repeat_penalty": 1.1},
            "keep_alive": "5m",
            "tools": [],
            "metadata": None,
        }
        *pieces, last = await lines(client, "/api/chat", **body, stream=True)
        text = "".join(one["message"].get("content", "") for one in pieces)
        assert text == "417 + 285 = 702"
        for name in ("total", "load", "prompt_eval", "eval"):
            assert last.get(f"{name}_duration", 0) >= 0
        assert last["eval_count"] / (last["eval_duration"] / 10**9) > 0
        title = await post(client, "/api/chat", **body | {"stream": False})
        assert title["message"]["content"] == text

    with_client(demo, work)


def test_home_assistant(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        assert [one["model"] for one in (await get(client, "/api/tags"))["models"]]
        history: list[Any] = [
            {"role": "system", "content": "You are a voice assistant."},
            {"role": "user", "content": OSLO},
        ]
        settings: Any = {
            "model": "demo",
            "tools": [WEATHER],
            "stream": True,
            "keep_alive": -1,
            "options": {"num_ctx": 8192.0, "temperature": 0},
            "think": None,
            "format": None,
        }
        parts = await lines(client, "/api/chat", messages=history, **settings)
        calls = [call for one in parts for call in one["message"].get("tool_calls", ())]
        [call] = calls
        assert call["function"]["name"] == "get_weather"
        assert call["function"]["arguments"] == {"city": "Oslo"}
        thought = "".join(one["message"].get("thinking") or "" for one in parts)
        called = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
        history += [
            {
                "role": "assistant",
                "content": None,
                "thinking": thought or None,
                "tool_calls": [called],
            },
            {"role": "tool", "content": RESULT},  # without a name and an id
        ]
        parts = await lines(client, "/api/chat", messages=history, **settings)
        assert "".join(one["message"]["content"] for one in parts) == ANSWER

    with_client(demo, work)


def test_zed(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        [model] = (await get(client, "/api/tags"))["models"]
        assert {"name", "modified_at", "size", "digest", "details"} <= model.keys()
        shown = await post(client, "/api/show", model=model["name"])
        assert {"tools", "thinking"} <= set(shown["capabilities"])
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] > 0
        messages: list[Any] = [{"role": "user", "content": OSLO}]
        body = {
            "model": "demo",
            "stream": True,
            "keep_alive": -1,
            "options": {"num_ctx": 131072, "stop": [], "temperature": 0},
            "tools": [WEATHER],
            "think": True,
        }
        parts = await lines(client, "/api/chat", messages=messages, **body)
        for one in parts:  # its types: text is never missing
            assert isinstance(one["message"]["content"], str)
            assert one["message"]["role"] == "assistant"
            assert isinstance(one["created_at"], str)
        [call] = [c for one in parts for c in one["message"].get("tool_calls", ())]
        messages += [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call],
                "thinking": None,
            },
            {"role": "tool", "tool_name": "get_weather", "content": RESULT},
        ]
        parts = await lines(client, "/api/chat", messages=messages, **body)
        assert "".join(one["message"]["content"] for one in parts) == ANSWER

    with_client(demo, work)


def test_continue(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        shown = await post(client, "/api/show", name="demo")
        found = dict(line.split() for line in shown["parameters"].splitlines())
        assert int(found["num_ctx"]) == demo.longest_sequence
        assert ".Suffix" not in shown["template"]  # it would ask for infilling
        options = {
            "temperature": 0,
            "num_predict": 40,
            "num_ctx": 8192,
            "stop": ["</answer>"],
        }
        body = {"model": "demo", "options": options, "keep_alive": 1800}
        raw = await lines(
            client, "/api/generate", prompt="417 + ", raw=True, stream=True, **body
        )
        assert "".join(one["response"] for one in raw)
        question = [{"role": "user", "content": OSLO}]
        reply = await post(
            client,
            "/api/chat",
            messages=question,
            tools=[WEATHER],
            stream=False,
            model="demo",
            options={"temperature": 0},
        )
        assert reply["message"]["tool_calls"][0]["function"]["name"] == "get_weather"

    with_client(demo, work)


def test_visual_studio_code(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        version = (await get(client, "/api/version"))["version"]
        assert [int(part) for part in version.split(".")] >= [0, 6, 4]
        [model] = (await get(client, "/api/tags"))["models"]
        shown = await post(client, "/api/show", model=model["model"])
        info = shown["model_info"]
        assert info["general.basename"] == "demo"
        assert info[f"{info['general.architecture']}.context_length"] > 4096
        assert (
            "tools" in shown["capabilities"] and "vision" not in shown["capabilities"]
        )
        messages = [{"role": "user", "content": "Hello!"}]
        reply = await post(
            client, "/v1/chat/completions", model=model["model"], messages=messages
        )
        assert reply["choices"][0]["message"]["content"]

    with_client(demo, work)


def test_the_command_of_ollama(demo: Runtime) -> None:
    async def work(client: httpx2.AsyncClient) -> None:
        assert (await client.head("/")).status_code == 200
        await post(client, "/api/show", model="demo")
        loaded = await post(client, "/api/generate", model="demo", prompt="")
        assert loaded["done_reason"] == "load"
        messages = [{"role": "user", "content": "What is 417 + 285?"}]
        options = {"temperature": 0}
        parts = await lines(
            client, "/api/chat", model="demo", messages=messages, options=options
        )
        assert parts[-1]["done"] is True

    with_client(demo, work)
