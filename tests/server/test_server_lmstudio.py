"""LM Studio's REST API over the demo model: what clients send, and what they get."""

import asyncio
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from mlx_gptoss import __version__
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models, ModelSource
from tests.project.test_non_finite import TURN, saying
from tests.support import sse
from tests.support.fakes import answering
from tests.support.serving import DATE, asked, events, question

SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"


def ask(runtime: Runtime, path: str, body: Any = None) -> Any:
    async def work() -> Any:
        async with asked(runtime) as client:
            if body is None:
                return await client.get(path)
            return await client.post(path, json=body)

    return asyncio.run(work())


def agreeing() -> Runtime:
    return answering("<|channel|>final<|message|>Yes.<|return|>")


def test_a_chat_says_what_openais_says_and_what_it_took(demo: Runtime) -> None:
    reply = ask(demo, "/api/v0/chat/completions", question(SUM)).json()
    same = ask(demo, "/v1/chat/completions", question(SUM)).json()

    assert reply["choices"] == same["choices"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert reply["usage"][name] == same["usage"][name]
    stats = reply["stats"]
    assert stats["stop_reason"] == "eosFound"
    assert stats["tokens_per_second"] > 0 and stats["generation_time"] > 0
    assert stats["time_to_first_token"] > 0
    assert reply["model_info"]["arch"] == "gpt_oss"
    assert reply["model_info"]["context_length"] == demo.longest_sequence
    assert reply["runtime"]["version"] == __version__


def test_the_end_of_a_stream_has_the_statistics(demo: Runtime) -> None:
    options = {"include_usage": True}
    body = question(SUM, stream=True, stream_options=options)
    chunks = events(ask(demo, "/api/v0/chat/completions", body).text)

    with_stats = [one for one in chunks if "stats" in one]
    [last] = with_stats
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["stats"]["stop_reason"] == "eosFound"
    deltas = [one["choices"][0]["delta"] for one in chunks if one["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == TOTAL
    assert chunks[-1]["usage"]["completion_tokens"] > 20


def test_a_raw_completion_says_why_it_ended(demo: Runtime) -> None:
    body = {"prompt": "417 + 285", "max_tokens": 3, "temperature": 0}
    reply = ask(demo, "/api/v0/completions", body).json()
    same = ask(demo, "/v1/completions", body).json()
    assert reply["choices"] == same["choices"]
    assert reply["stats"]["stop_reason"] == "maxPredictedTokensReached"
    *_, last = events(ask(demo, "/api/v0/completions", body | {"stream": True}).text)
    assert last["stats"]["stop_reason"] == "maxPredictedTokensReached"


def test_the_models_are_listed_and_described(demo: Runtime) -> None:
    [listed] = ask(demo, "/api/v0/models").json()["data"]
    assert listed == ask(demo, "/api/v0/models/demo").json()
    assert (listed["id"], listed["type"], listed["state"]) == ("demo", "llm", "loaded")
    assert listed["max_context_length"] == listed["loaded_context_length"]
    assert listed["capabilities"] == ["tool_use"]
    [key] = ask(demo, "/api/v1/models").json()["models"]
    assert (key["key"], key["loaded_instances"][0]["id"]) == ("demo", "demo")
    assert key["capabilities"]["trained_for_tool_use"] is True
    assert "off" in key["capabilities"]["reasoning"]["allowed_options"]


def kept(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "input": text, "temperature": 0} | fields


def test_a_chat_that_is_kept_goes_on(demo: Runtime, tmp_path: Path) -> None:
    async def work() -> None:
        settings = ServerSettings(date=DATE, store=tmp_path)
        async with asked(demo, settings) as client:
            body = kept(SUM, system_prompt="Be brief.")
            first = (await client.post("/api/v1/chat", json=body)).json()
            assert [one["type"] for one in first["output"]] == ["reasoning", "message"]
            assert first["output"][-1]["content"] == TOTAL
            assert first["model_instance_id"] == "demo"
            stats = first["stats"]
            assert stats["input_tokens"] > 0 and stats["tokens_per_second"] > 0
            assert 0 < stats["reasoning_output_tokens"] < stats["total_output_tokens"]
            assert "model_load_time_seconds" not in stats

            again = {"previous_response_id": first["response_id"]}
            seen = await client.post(
                "/v1/responses/render", json={"input": "And then?", **again}
            )
            assert (
                "Be brief." in seen.json()["prompt"] and TOTAL in seen.json()["prompt"]
            )
            more = {"reasoning": "off", "max_output_tokens": 9, "store": False}
            body = kept("And then?", **more, **again)
            second = (await client.post("/api/v1/chat", json=body)).json()
            assert [one["type"] for one in second["output"]] == ["message"]
            assert "response_id" not in second

    asyncio.run(work())


def test_a_stream_of_a_chat_ends_with_all_of_it(demo: Runtime) -> None:
    body = kept(SUM, stream=True, context_length=8000)
    reply = ask(demo, "/api/v1/chat", body)
    told = sse.named(reply.text)
    whole = ask(demo, "/api/v1/chat", kept(SUM)).json()

    assert reply.headers["x-mlx-gptoss-ignored"] == "fields=context_length"
    kinds = [kind for kind, _ in groupby(one["type"] for one in told)]
    kinds = [kind for kind in kinds if kind != "prompt_processing.progress"]
    assert kinds == [
        "chat.start",
        "prompt_processing.start",
        "prompt_processing.end",
        *(f"reasoning.{what}" for what in ("start", "delta", "end")),
        *(f"message.{what}" for what in ("start", "delta", "end")),
        "chat.end",
    ]
    result = told[-1]["result"]
    assert result["output"] == whole["output"]
    for item in result["output"]:
        kind = f"{item['type']}.delta"
        deltas = (one["content"] for one in told if one["type"] == kind)
        assert "".join(deltas) == item["content"]


def test_a_chat_loads_its_model_and_says_so() -> None:
    async def work() -> list[Any]:
        models = Models([ModelSource("one", agreeing)])
        transport = httpx2.ASGITransport(create_app(models, ServerSettings(date=DATE)))
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as client:
            body = {"model": "one", "input": "x", "stream": True}
            reply = await client.post("/api/v1/chat", json=body)
        await models.close()
        return sse.named(reply.text)

    told = asyncio.run(work())
    assert [one["type"] for one in told[1:3]] == ["model_load.start", "model_load.end"]
    seconds = told[2]["load_time_seconds"]
    assert told[-1]["result"]["stats"]["model_load_time_seconds"] == seconds


def test_a_chat_that_fails_says_so_in_its_stream() -> None:
    with saying(TURN, np.nan) as runtime:
        told = sse.named(ask(runtime, "/api/v1/chat", kept("x", stream=True)).text)

    assert [one["type"] for one in told[-2:]] == ["error", "chat.end"]
    assert "logits" in told[-2]["error"]["message"]


def test_a_model_is_loaded_and_unloaded() -> None:
    async def work() -> None:
        models = Models([ModelSource("one", agreeing)])
        transport = httpx2.ASGITransport(create_app(models, ServerSettings(date=DATE)))
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as client:
            [listed] = (await client.get("/api/v0/models")).json()["data"]
            assert listed["state"] == "not-loaded"
            body = {"model": "one", "echo_load_config": True}
            loaded = (await client.post("/api/v1/models/load", json=body)).json()
            assert (loaded["status"], loaded["instance_id"]) == ("loaded", "one")
            assert "load_config" in loaded and models.loaded == ["one"]
            body = {"instance_id": "one"}
            gone = await client.post("/api/v1/models/unload", json=body)
            assert gone.json() == {"instance_id": "one"} and models.loaded == []
        await models.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/v0/embeddings", {"input": "x"}, 501, "no embeddings"),
        (
            "/api/v1/chat",
            {"model": "demo", "input": "x", "integrations": ["mcp/a"]},
            501,
            "/v1/responses",
        ),
        ("/api/v1/chat", {"model": "demo", "input": [{"type": "x"}]}, 400, "parts"),
        (
            "/api/v1/chat",
            {"model": "demo", "input": [{"type": "image", "data_url": "data:,"}]},
            400,
            "reads text only",
        ),
        ("/api/v1/models/download", {"model": "x"}, 501, "mlx-gptoss pull"),
        ("/api/v1/models/load", {"model": "none"}, 404, "does not exist"),
        ("/api/v0/models/none", None, 404, "does not exist"),
        ("/api/v0/chat/completions", {"messages": []}, 400, "messages"),
        ("/api/v0/nothing", None, 404, "no such route"),
    ],
)
def test_an_error_has_openais_form(
    demo: Runtime, path: str, body: Any, status: int, said: str
) -> None:
    reply = ask(demo, path, body)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]["message"]
