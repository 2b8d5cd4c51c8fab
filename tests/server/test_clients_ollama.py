"""The `ollama` packages of PyPI and npm against a real server, their host changed.

`pip install 'mlx-gptoss[clients]'`, and for node `npm install ollama` in a folder that
MLX_GPTOSS_NODE names.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serve_process import Served, run

NODE = Path(os.environ.get("MLX_GPTOSS_NODE", "node-clients"))
OSLO = "What is the weather in Oslo?"
ANSWER = "The temperature is 21."
SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"
GREEDY = {"temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "integer", "maximum": 999}},
    "required": ["total"],
    "additionalProperties": False,
}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def ollama() -> Any:
    return pytest.importorskip("ollama", reason="pip install 'mlx-gptoss[clients]'")


@pytest.fixture(scope="module")
def client(served: Served, ollama: Any) -> Iterator[Any]:
    headers = {"Authorization": f"Bearer {served.token}"}
    with ollama.Client(host=served.url, headers=headers) as opened:
        yield opened


def test_python_lists_and_describes_the_models(client: Any) -> None:
    [listed] = client.list().models
    assert (listed.model, listed.details.family) == ("demo", "gptoss")
    assert (listed.details.parameter_size, listed.size > 10**6) == ("2.2M", True)
    assert listed.details.quantization_level == "MXFP4"
    shown = client.show("demo:latest")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo["gptoss.context_length"] == 131072
    [loaded] = client.ps().models
    assert loaded.size_vram > 0 and loaded.expires_at.year > 2200
    assert client.pull("demo").status == "success"


def test_python_chats_whole_and_streamed(client: Any) -> None:
    whole = client.chat("demo", messages=user(SUM), options=GREEDY)
    assert whole.message.content == TOTAL
    assert whole.message.thinking.startswith("I work in columns.")
    stream = list(client.chat("demo", messages=user(SUM), options=GREEDY, stream=True))
    assert "".join(one.message.content for one in stream) == TOTAL
    last = stream[-1]
    assert last.done and last.done_reason == "stop"
    assert last.eval_count == whole.eval_count > 20
    assert last.prompt_eval_count == whole.prompt_eval_count > 20
    assert last.total_duration >= last.eval_duration > 0


def test_python_thinks_as_much_as_it_is_told(client: Any) -> None:
    ask: Any = {"model": "demo", "messages": user(SUM), "options": GREEDY}
    assert client.chat(**ask, think=False).message.thinking is None
    assert client.chat(**ask, think="low").message.thinking


def test_python_calls_a_function_and_reads_its_result(client: Any) -> None:
    def get_weather(city: str) -> dict[str, int]:
        """Gets the weather for a city.

        Args:
            city: the city
        """
        return {"temperature": 21 if city == "Oslo" else 0}

    messages = user(OSLO)
    first = client.chat("demo", messages=messages, tools=[get_weather], options=GREEDY)
    [call] = first.message.tool_calls
    assert (call.function.name, call.function.arguments) == (
        "get_weather",
        {"city": "Oslo"},
    )
    result = json.dumps(get_weather(**call.function.arguments))
    messages += [
        first.message,
        {"role": "tool", "tool_name": "get_weather", "content": result},
    ]
    stream = client.chat(
        "demo", messages=messages, tools=[get_weather], options=GREEDY, stream=True
    )
    assert "".join(one.message.content or "" for one in stream) == ANSWER


def test_python_gets_what_a_schema_allows(client: Any) -> None:
    reply = client.chat("demo", messages=user(SUM), format=SCHEMA, options=GREEDY)
    assert type(json.loads(reply.message.content)["total"]) is int


def test_python_generates_and_goes_on(client: Any) -> None:
    first = client.generate("demo", SUM, options=GREEDY)
    assert first.response == TOTAL
    again = client.generate("demo", SUM, context=first.context, options=GREEDY)
    assert again.context[: len(first.context)] == first.context
    stream = client.generate("demo", SUM, options=GREEDY, stream=True)
    assert "".join(one.response for one in stream) == TOTAL


def test_python_gets_errors_as_its_own(client: Any, ollama: Any) -> None:
    for work, status in (
        (lambda: client.chat("none", messages=user("x")), 404),
        (lambda: client.embed("demo", "x"), 501),
        (lambda: client.pull("llama3"), 501),
        (lambda: client.delete("demo"), 501),
        (lambda: client.copy("demo", "other"), 501),
        (lambda: client.create("other", from_="demo"), 501),
        (lambda: list(client.chat("none", messages=user("x"), stream=True)), 404),
        (lambda: client.generate("demo", "x", images=["aGk="]), 400),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            work()
        assert caught.value.status_code == status
        assert caught.value.error and "{" not in caught.value.error


def test_python_chats_in_an_event_loop(served: Served, ollama: Any) -> None:
    async def work() -> str:
        headers = {"Authorization": f"Bearer {served.token}"}
        async with ollama.AsyncClient(host=served.url, headers=headers) as client:
            stream = await client.chat(
                "demo", messages=user(SUM), options=GREEDY, stream=True
            )
            return "".join([one.message.content async for one in stream])

    assert asyncio.run(work()) == TOTAL


OLLAMA_JS = """
import { Ollama } from 'ollama';
const [host, key] = process.argv.slice(2);
const client = new Ollama({ host, headers: { Authorization: `Bearer ${key}` } });
const user = (content) => [{ role: 'user', content }];
const ask = { model: 'demo', options: { temperature: 0 } };
const sum = user('What is 417 + 285?');

const listed = (await client.list()).models.map((one) => one.name);
const shown = (await client.show({ model: 'demo' })).capabilities;
const loaded = (await client.ps()).models.length;
const version = (await client.version()).version;

const whole = await client.chat({ ...ask, messages: sum });
let streamed = '', last;
for await (const part of await client.chat({ ...ask, messages: sum, stream: true })) {
  streamed += part.message.content;
  last = part;
}
const generated = (await client.generate({ ...ask, prompt: sum[0].content })).response;

const parameters = { type: 'object', properties: { city: { type: 'string' } },
                     required: ['city'] };
const tools = [{ type: 'function', function: { name: 'get_weather',
                 description: 'Gets the weather for a city.', parameters } }];
const messages = user('What is the weather in Oslo?');
const called = (await client.chat({ ...ask, messages, tools })).message;
messages.push(called, { role: 'tool', tool_name: 'get_weather',
                        content: '{"temperature": 21}' });
const answered = (await client.chat({ ...ask, messages, tools })).message.content;

let failed;
try { await client.embed({ model: 'demo', input: 'x' }); }
catch (error) { failed = [error.name, error.status_code]; }
const cut = await client.chat({ ...ask, messages: sum, stream: true });
let aborted;
try { for await (const part of cut) { cut.abort(); } }
catch (error) { aborted = error.name; }
console.log(JSON.stringify([listed, shown, loaded, version, whole.message.content,
  streamed, [last.done, last.done_reason, last.eval_count === whole.eval_count],
  generated, called.tool_calls[0].function.arguments, answered, failed, aborted]));
"""


def test_node_lists_chats_generates_and_calls(served: Served, tmp_path: Path) -> None:
    package = NODE.absolute() / "node_modules"
    if not (package / "ollama").exists() or shutil.which("node") is None:
        pytest.skip("npm install ollama, in a folder that MLX_GPTOSS_NODE names")
    script = tmp_path / "ask.mjs"
    script.write_text(OLLAMA_JS)
    (tmp_path / "node_modules").symlink_to(package)
    done = run(["node", script, served.url, served.token])
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said[:3] == [["demo"], ["completion", "tools", "thinking"], 1]
    assert said[4:] == [
        TOTAL,
        TOTAL,
        [True, "stop", True],
        TOTAL,
        {"city": "Oslo"},
        ANSWER,
        ["ResponseError", 501],
        "AbortError",
    ]
