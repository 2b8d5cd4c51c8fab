"""LM Studio's REST API over the demo model: what clients send, and what they get."""

import asyncio
from typing import Any

import httpx2
import pytest

from mlx_gptoss import __version__
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models, ModelSource
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
        ("/api/v1/chat", {"model": "demo", "input": "x"}, 501, "/v1/responses"),
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
