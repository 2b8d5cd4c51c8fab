"""Ollama's API over the demo model: what clients send, and what they get."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models, ModelSource
from tests.support.answering_app import constant
from tests.support.fakes import answering
from tests.support.scripted_chat import scripted_runtime
from tests.support.serving import DATE, WEATHER, asked, question

SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"
OSLO = "What is the weather in Oslo?"
GREEDY = {"temperature": 0}


def ask(runtime: Runtime, path: str, body: Any, **more: Any) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime, **more) as client:
            return await client.post(path, json=body)

    return asyncio.run(work())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": messages, "options": GREEDY} | fields


def lines(reply: httpx2.Response) -> list[Any]:
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.text.endswith("\n")
    return [json.loads(line) for line in reply.text.splitlines()]


# answers


def test_an_answer_comes_with_its_thinking_counts_and_times(demo: Runtime) -> None:
    reply = ask(demo, "/api/chat", chat(SUM, stream=False)).json()

    message = reply["message"]
    assert (message["role"], message["content"]) == ("assistant", TOTAL)
    assert message["thinking"].startswith("I work in columns.")
    assert (reply["model"], reply["done"], reply["done_reason"]) == (
        "demo",
        True,
        "stop",
    )
    assert reply["created_at"].endswith("Z")
    times = [reply[f"{name}_duration"] for name in ("total", "prompt_eval", "eval")]
    assert all(type(time) is int and time > 0 for time in times)
    assert times[0] >= times[1] + times[2] - 10**6
    assert reply["load_duration"] < 10**9


def test_the_counts_are_those_of_the_other_apis(demo: Runtime) -> None:
    same = question(SUM, tools=[WEATHER])
    usage = ask(demo, "/v1/chat/completions", same).json()["usage"]
    reply = ask(demo, "/api/chat", chat(SUM, tools=[WEATHER], stream=False)).json()
    counts = (reply["prompt_eval_count"], reply["eval_count"])
    assert counts == (usage["prompt_tokens"], usage["completion_tokens"])

    generated = {"prompt": SUM, "options": GREEDY, "stream": False}
    usage = ask(demo, "/v1/chat/completions", question(SUM)).json()["usage"]
    reply = ask(demo, "/api/generate", generated).json()
    counts = (reply["prompt_eval_count"], reply["eval_count"])
    assert counts == (usage["prompt_tokens"], usage["completion_tokens"])


def test_a_stream_says_what_the_whole_reply_says(demo: Runtime) -> None:
    whole = ask(demo, "/api/chat", chat(SUM, stream=False)).json()
    *pieces, last = lines(ask(demo, "/api/chat", chat(SUM)))

    messages = [one["message"] for one in pieces]
    assert {message["role"] for message in messages} == {"assistant"}
    assert "".join(one["content"] for one in messages) == whole["message"]["content"]
    thought = "".join(one.get("thinking", "") for one in messages)
    assert thought == whole["message"]["thinking"]
    assert not any(one["done"] for one in pieces)
    assert (last["done"], last["message"]["content"]) == (True, "")
    for name in ("prompt_eval_count", "eval_count", "done_reason"):
        assert last[name] == whole[name]


def test_generate_answers_a_question_and_goes_on(demo: Runtime) -> None:
    body = {"model": "demo", "prompt": SUM, "options": GREEDY}
    whole = ask(demo, "/api/generate", body | {"stream": False}).json()
    *pieces, last = lines(ask(demo, "/api/generate", body))

    assert whole["response"] == TOTAL == "".join(one["response"] for one in pieces)
    assert whole["thinking"] == "".join(one.get("thinking", "") for one in pieces)
    assert whole["context"] == last["context"]
    assert demo.tokenizer.decode(whole["context"]).endswith(f"{TOTAL}<|end|>")
    again = body | {"context": whole["context"], "stream": False}
    more = ask(demo, "/api/generate", again).json()
    assert more["context"][: len(whole["context"])] == whole["context"]
    assert more["response"] == TOTAL


def test_a_raw_prompt_is_continued_without_a_format(demo: Runtime) -> None:
    prompt = "<|start|>assistant<|channel|>final<|message|>417 + 285"
    body = {"prompt": prompt, "raw": True, "options": GREEDY, "stream": False}
    reply = ask(demo, "/api/generate", body).json()

    same = {"prompt": prompt, "parse_special": True, "temperature": 0, "max_tokens": 99}
    other = ask(demo, "/v1/completions", same).json()
    assert reply["response"] == other["choices"][0]["text"] != ""
    assert "context" not in reply and "thinking" not in reply
    assert reply["prompt_eval_count"] == other["usage"]["prompt_tokens"]
    assert reply["eval_count"] == other["usage"]["completion_tokens"]


def test_without_thinking_there_is_none(demo: Runtime) -> None:
    reply = ask(demo, "/api/chat", chat("Hello!", think=False, stream=False)).json()
    assert "thinking" not in reply["message"]
    assert reply["message"]["content"]


def test_a_tool_is_called_and_its_result_is_read(demo: Runtime) -> None:
    body = chat(OSLO, tools=[WEATHER])
    *pieces, last = lines(ask(demo, "/api/chat", body))
    [calling] = [one["message"] for one in pieces if "tool_calls" in one["message"]]
    [call] = calling["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"] == {
        "index": 0,
        "name": "get_weather",
        "arguments": {"city": "Oslo"},
    }
    assert last["done_reason"] == "stop"

    whole = ask(demo, "/api/chat", body | {"stream": False}).json()["message"]
    assert whole["tool_calls"][0]["function"] == call["function"]
    assert whole["content"] == ""
    result = {
        "role": "tool",
        "tool_name": "get_weather",
        "content": '{"temperature": 21}',
    }
    body["messages"] += [whole, result]
    reply = ask(demo, "/api/chat", body | {"stream": False}).json()
    assert reply["message"]["content"] == "The temperature is 21."


def test_a_format_is_enforced(demo: Runtime) -> None:
    schema = {
        "type": "object",
        "properties": {"total": {"type": "integer", "maximum": 999}},
        "required": ["total"],
        "additionalProperties": False,
    }
    reply = ask(demo, "/api/chat", chat(SUM, format=schema, stream=False)).json()
    assert type(json.loads(reply["message"]["content"])["total"]) is int


def test_a_cut_answer_says_so_and_logprobs_come_with_their_tokens(
    demo: Runtime,
) -> None:
    options = GREEDY | {"num_predict": 8}
    body = chat(SUM, think=False, options=options, logprobs=True, top_logprobs=2)
    reply = ask(demo, "/api/chat", body | {"stream": False}).json()

    assert (reply["done_reason"], reply["eval_count"]) == ("length", 8)
    *pieces, _ = lines(ask(demo, "/api/chat", body))
    streamed = [entry for one in pieces for entry in one.get("logprobs", ())]
    assert [one["token"] for one in streamed] == [
        one["token"] for one in reply["logprobs"]
    ]
    assert "".join(one["token"] for one in streamed) == reply["message"]["content"]
    assert all(len(one["top_logprobs"]) == 2 for one in streamed)


def test_progress_is_told_to_those_who_ask(demo: Runtime) -> None:
    body = chat("What is 1 + 1? " * 40, return_progress=True, think=False)
    body["options"] = GREEDY | {"num_predict": 2}
    found = [
        one for one in lines(ask(demo, "/api/chat", body)) if "prompt_progress" in one
    ]
    assert found[0]["prompt_progress"]["total"] > 100
    assert found[0]["message"]["content"] == ""


def test_a_body_may_be_called_anything(demo: Runtime) -> None:
    async def work() -> list[int]:
        async with asked(demo) as client:
            content = json.dumps(chat("Hello!", stream=False)).encode()
            kinds = (
                "application/x-www-form-urlencoded",
                "text/plain",
                "application/json",
            )
            sent = [
                await client.post(
                    "/api/chat", content=content, headers={"content-type": kind}
                )
                for kind in kinds
            ]
            tools = chat("Hello!", stream=False, tools=[WEATHER])
            plain = {"content-type": "text/plain"}
            sent.append(
                await client.post(
                    "/api/chat", content=json.dumps(tools).encode(), headers=plain
                )
            )
            return [reply.status_code for reply in sent]

    assert run(work()) == [200] * 4


# errors


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/chat", {"model": "none", "messages": []}, 404, "model 'none' not found"),
        ("/api/show", {"model": "none"}, 404, "model 'none' not found"),
        ("/api/generate", {"model": "demo:none", "prompt": "x"}, 404, "not found"),
        ("/api/chat", {"messages": "x"}, 400, "`messages`"),
        ("/api/chat", {"messages": [{"role": "robot"}]}, 400, "`messages[0].role`"),
        (
            "/api/chat",
            chat("x", options={"temperature": -1}),
            400,
            "`options.temperature`",
        ),
        ("/api/chat", chat("x", options={"top_k": 1.5}), 400, "`options.top_k`"),
        ("/api/chat", chat("x", think="deep"), 400, "`think"),
        ("/api/chat", chat("x", keep_alive="soon"), 400, "`keep_alive`"),
        ("/api/chat", chat("x", tools=[{"type": "function"}]), 400, "tools[0]"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, 400, "`suffix`"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, 400, "`images`"),
        ("/api/embed", {"model": "demo", "input": "x"}, 501, "no embeddings"),
        ("/api/embeddings", {"model": "demo", "prompt": "x"}, 501, "no embeddings"),
        ("/api/pull", {"model": "llama3"}, 501, "mlx-gptoss pull"),
        ("/api/push", {"model": "demo"}, 501, "no model"),
        ("/api/create", {"model": "demo", "from": "demo"}, 501, "not changed"),
        ("/api/copy", {"source": "demo", "destination": "x"}, 501, "not changed"),
        ("/api/blobs/sha256:00", {}, 501, "not changed"),
        ("/api/nothing", {}, 404, "no such route"),
    ],
)
def test_an_error_is_one_line_in_ollamas_form(
    demo: Runtime, path: str, body: Any, status: int, said: str
) -> None:
    reply = ask(demo, path, body)
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error"}
    assert said in reply.json()["error"]
    assert "\n" not in reply.json()["error"]


def test_deleting_is_refused_and_nothing_is_gone(demo: Runtime) -> None:
    async def work() -> Any:
        async with asked(demo) as client:
            reply = await client.request(
                "DELETE", "/api/delete", json={"model": "demo"}
            )
            return reply, (await client.get("/api/tags")).json()

    reply, tags = run(work())
    assert (reply.status_code, list(reply.json())) == (501, ["error"])
    assert [one["name"] for one in tags["models"]] == ["demo"]


def test_a_conversation_that_is_too_long_is_refused_not_shortened() -> None:
    with scripted_runtime(
        "<|channel|>final<|message|>Yes.<|return|>", context=200
    ) as made:
        reply = ask(made, "/api/chat", chat("x" * 400))
        assert reply.status_code == 400
        assert "maximum context length is 200" in reply.json()["error"]


def test_an_error_within_a_stream_is_its_last_line() -> None:
    async def work(runtime: Runtime) -> str:
        app = create_app(Models.of(runtime, "demo"), ServerSettings(date=DATE))
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as client:
            asking = asyncio.create_task(client.post("/api/chat", json=chat("x")))
            async with asyncio.timeout(60):
                while len(runtime.model.feeds) < 100:  # the stream has begun
                    await asyncio.sleep(0.01)
            app.state.service.drain.abort()
            return (await asking).text

    endless = "<|channel|>final<|message|>" + "Yes. " * 400
    with scripted_runtime(endless, pause=0.01) as runtime:
        text = run(work(runtime))
    assert json.loads(text.splitlines()[-1]) == {"error": "the server is shutting down"}
    assert len(text.splitlines()) > 1


# models


def test_the_models_are_listed_and_described(demo: Runtime) -> None:
    async def work() -> Any:
        async with asked(demo) as client:
            got = [(await client.get(f"/api/{name}")).json() for name in ("tags", "ps")]
            shown = await client.post("/api/show", json={"name": "demo:latest"})
            return *got, shown.json(), (await client.get("/api/version")).json()

    tags, loaded, shown, version = run(work())
    [listed] = tags["models"]
    assert (listed["name"], listed["model"]) == ("demo", "demo")
    assert listed["details"]["family"] == "gptoss"
    assert len(listed["digest"]) == 64
    [one] = loaded["models"]
    assert one["size"] == one["size_vram"] > 0
    assert one["context_length"] == demo.longest_sequence
    assert one["expires_at"] > "2200"
    family = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{family}.context_length"] == demo.longest_sequence
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert "num_ctx" in shown["parameters"]
    assert tuple(map(int, version["version"].split("."))) >= (0, 6, 4)


def test_a_model_that_is_served_needs_no_pulling(demo: Runtime) -> None:
    reply = ask(demo, "/api/pull", {"model": "demo:latest"})
    assert reply.json() == {"status": "success"}


def agreeing() -> Runtime:
    return answering("<|channel|>final<|message|>Yes.<|return|>")


def kept(*names: str, **options: Any) -> Models:
    return Models([ModelSource(name, agreeing) for name in names], **options)


def test_a_model_is_loaded_kept_and_unloaded_as_asked() -> None:
    async def work() -> None:
        models = kept("one")
        app = create_app(models, ServerSettings(date=DATE))
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as client:

            async def said(path: str, **body: Any) -> Any:
                reply = await client.post(path, json=body | {"model": "one"})
                assert reply.status_code == 200, reply.text
                return reply.json()

            loaded = await said("/api/generate")
            assert (loaded["done"], loaded["done_reason"]) == (True, "load")
            assert loaded["response"] == "" and loaded["load_duration"] > 0
            assert models.loaded == ["one"] and models.seconds_left("one") is None

            await said("/api/chat", messages=[], keep_alive="5m")
            assert 290 < (models.seconds_left("one") or 0) <= 300
            answered = await said("/api/chat", **chat("Is it?", stream=False))
            assert answered["message"]["content"] == "Yes."
            assert models.seconds_left("one") is None  # the operator's: never

            gone = await said("/api/generate", keep_alive=0)
            assert gone["done_reason"] == "unload"
            assert models.loaded == []
            ps = await client.get("/api/ps")
            assert ps.json() == {"models": []}
        await models.close()

    run(work())


def test_a_model_that_answers_is_unloaded_afterwards() -> None:
    async def work() -> None:
        models = kept("one")
        watching = asyncio.create_task(models.unload_idle())
        async with models.lease("one"):
            await models.unload("one")
            assert models.loaded == ["one"]
        async with asyncio.timeout(30):
            while models.loaded:
                await asyncio.sleep(0.05)
        watching.cancel()

    run(work())


def test_the_latest_request_says_how_long() -> None:
    async def work() -> None:
        models = kept("one", idle_seconds=600)
        async with models.lease("one"):
            models.keep("one", 10)
        assert 9 < (models.seconds_left("one") or 0) <= 10
        async with models.lease("one"):
            pass
        assert 590 < (models.seconds_left("one") or 0) <= 600
        await models.close()

    run(work())


# who asks


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_words_that_clients_look_for(demo: Runtime, method: str) -> None:
    async def work() -> Any:
        async with asked(demo) as client:
            return await client.request(method, "/")

    reply = run(work())
    assert reply.status_code == 200
    assert reply.text == ("Ollama is running" if method == "GET" else "")


def test_without_ollama_there_is_nothing_of_it(demo: Runtime) -> None:
    async def work() -> list[int]:
        settings = ServerSettings(date=DATE, ollama=False)
        async with asked(demo, settings) as client:
            codes = [
                (await client.get(f"/api/{one}")).status_code for one in ("tags", "ps")
            ]
            codes.append((await client.get("/")).status_code)
            reply = await client.post("/api/chat", json=chat("x"))
            return [*codes, reply.status_code]

    assert run(work()) == [404] * 4


def test_a_key_a_host_and_an_origin_are_asked_for_as_elsewhere(demo: Runtime) -> None:
    async def work() -> Any:
        limits = RequestLimits(body_bytes=1000)
        settings = ServerSettings(date=DATE, api_key="k", limits=limits)
        async with asked(demo, settings) as client:
            key = {"authorization": "Bearer k"}
            evil = key | {"host": "evil.example"}
            page = key | {"origin": "http://evil.example", "content-type": "text/plain"}
            long = chat("x" * 2000)
            return [
                await client.get("/api/tags"),
                await client.get("/api/tags", headers=evil),
                await client.post("/api/chat", content=b"{}", headers=page),
                await client.post("/api/chat", json=long, headers=key),
                await client.get("/api/tags", headers=key),
            ]

    *refused, let_in = run(work())
    assert [reply.status_code for reply in refused] == [401, 403, 403, 413]
    assert all(isinstance(reply.json()["error"], str) for reply in refused)
    assert let_in.status_code == 200


def test_a_client_that_leaves_stops_its_answer() -> None:
    async def work(runtime: Runtime) -> None:
        models = Models.of(runtime, "demo")
        app = create_app(models, ServerSettings(date=DATE))
        left = asyncio.Event()

        async def receive() -> Any:
            if not sent:
                sent.append(True)
                return {"type": "http.request", "body": json.dumps(chat("x")).encode()}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                left.set()

        sent: list[bool] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/chat",
            "raw_path": b"/api/chat",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"text/plain")],
            "http_version": "1.1",
            "scheme": "http",
        }
        async with asyncio.timeout(60):
            await app(scope, receive, send)
        assert models.active_leases == 0
        assert runtime.batch_statistics.running == 0 or await ended(runtime)

    with scripted_runtime("<|channel|>final<|message|>" + "No. " * 3000) as runtime:
        run(work(runtime))


async def ended(runtime: Runtime) -> bool:
    async with asyncio.timeout(30):
        while runtime.batch_statistics.running:
            await asyncio.sleep(0.01)
    return True


def test_an_idle_stream_sends_nothing_that_is_no_json() -> None:
    limits = replace(RequestLimits(), heartbeat_seconds=0.02)
    settings = ServerSettings(date=DATE, limits=limits)
    said = "<|channel|>final<|message|>Yes.<|return|>"
    with scripted_runtime(said, pause=0.2) as runtime:
        reply = ask(runtime, "/api/chat", chat("x"), settings=settings)
    assert reply.text.count(" ") > 5  # blanks, while the model was silent
    assert [one["done"] for one in lines(reply)][-1] is True


def test_a_model_without_a_description_is_listed() -> None:
    with constant() as runtime:
        reply = ask(runtime, "/api/show", {})
        assert reply.json()["model_info"]["general.architecture"] == "gptoss"
