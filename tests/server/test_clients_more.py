"""Libraries and agents over the protocols: openai-agents, litellm, llm, npm's openai.

Those that are missing are skipped: `pip install 'mlx-gptoss[clients]'`, and for node
`npm install openai` in a folder that MLX_GPTOSS_NODE names (with `@openai/codex`,
`opencode-ai`, `@anthropic-ai/claude-code` for the agents themselves).
"""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from mlx_gptoss.diagnostics.agents.profiles import AgentProfile, profile_of
from mlx_gptoss.diagnostics.agents.setup import prepare
from tests.support.serve_process import Served, run

ASK = "What is the weather in Oslo?"
ANSWER = "The temperature is 21."
SUM = "What is 417 + 285?"
TOTAL = "417 + 285 = 702"
NODE = Path(os.environ.get("MLX_GPTOSS_NODE", "node-clients"))
CLIENTS = "pip install 'mlx-gptoss[clients]'"


# openai-agents: it calls the tool itself


def agents_answer(served: Served, kind: str, *, streamed: bool) -> tuple[str, str]:
    """Let an agent answer with its tool; return the answer and the city asked for."""
    agents: Any = pytest.importorskip("agents", reason=CLIENTS)
    openai: Any = pytest.importorskip("openai", reason=CLIENTS)
    agents.set_tracing_disabled(True)
    cities: list[str] = []

    def get_weather(city: str) -> str:
        """Gets the weather for a city."""
        cities.append(city)
        return '{"temperature": 21}'

    async def answer() -> str:
        client = openai.AsyncOpenAI(
            base_url=served.v1, api_key=served.token, max_retries=0
        )
        async with client:
            agent = agents.Agent(
                name="weather",
                model=getattr(agents, kind)(model="demo", openai_client=client),
                model_settings=agents.ModelSettings(temperature=0),
                tools=[agents.function_tool(get_weather)],
            )
            if not streamed:
                return (await agents.Runner.run(agent, ASK)).final_output
            running = agents.Runner.run_streamed(agent, ASK)
            async for _ in running.stream_events():
                pass
            return running.final_output

    return asyncio.run(answer()), "".join(cities)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
def test_the_agents_sdk_runs_its_tool(
    served: Served, kind: str, streamed: bool
) -> None:
    assert agents_answer(served, kind, streamed=streamed) == (ANSWER, "Oslo")


# litellm, in a process of its own: it warns, and sets things up, when it is imported

LITELLM = """
import json, sys, litellm
base, key, question = sys.argv[1:]
tool = {"type": "function", "function": {
    "name": "get_weather", "description": "Gets the weather for a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                   "required": ["city"]}}}
ask = dict(model="openai/demo", api_base=base, api_key=key, temperature=0,
           messages=[{"role": "user", "content": question}])
call = litellm.completion(tools=[tool], **ask).choices[0].message.tool_calls[0]
ask["messages"][0]["content"] = "What is 417 + 285?"
chunks = litellm.completion(stream=True, **ask)
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
answer = litellm.responses(model="openai/demo", input="What is 417 + 285?",
                           api_base=base, api_key=key, temperature=0)
said = [item for item in answer.output if item.type == "message"]
text = [part.text for item in said for part in item.content]
print(json.dumps([call.function.name, call.function.arguments, "".join(pieces), text]))
"""


def test_litellm_calls_streams_and_responds(served: Served) -> None:
    if not _installed("litellm"):
        pytest.skip(CLIENTS)
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = run(
        [sys.executable, "-c", LITELLM, served.v1, served.token, ASK], env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        "get_weather",
        '{"city":"Oslo"}',
        TOTAL,
        [TOTAL],
    ]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# llm, by its command


def test_llm_answers_and_runs_a_tool(served: Served, tmp_path: Path) -> None:
    if not _installed("llm"):
        pytest.skip(CLIENTS)
    (tmp_path / "extra-openai-models.yaml").write_text(
        "- model_id: local\n  model_name: demo\n  supports_tools: true\n"
        f"  api_base: {served.v1}\n  api_key_name: local\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"local": served.token}))
    tool = tmp_path / "tool.py"
    tool.write_text(
        "def get_weather(city: str) -> dict:\n"
        '    """Gets the weather for a city."""\n'
        '    return {"temperature": 21}\n'
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "llm", "-m", "local", "-o", "temperature", "0"]
    plain = run([*command, SUM], env=environment)
    assert (plain.returncode, plain.stdout.strip()) == (0, TOTAL), plain.stderr
    called = run([*command, "--functions", str(tool), ASK], env=environment)
    assert (called.returncode, called.stdout.strip()) == (0, ANSWER), called.stderr


# node

OPENAI_JS = """
import OpenAI from 'openai';
const [base, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const parameters = { type: 'object', properties: { city: { type: 'string' } },
                     required: ['city'] };
const described = { name: 'get_weather', description: 'Gets the weather for a city.',
                    parameters };
const ask = { model: 'demo', temperature: 0 };
const user = (content) => [{ role: 'user', content }];

const runner = client.chat.completions.runTools({ ...ask,
  messages: user('What is the weather in Oslo?'),
  tools: [{ type: 'function', function: { ...described, parse: JSON.parse,
            function: async () => ({ temperature: 21 }) } }] });
const ran = await runner.finalContent();

const stream = client.chat.completions.stream({ ...ask,
  messages: user('What is 417 + 285?') });
let streamed = '';
stream.on('content', (text) => { streamed += text; });
await stream.done();

const events = [];
let responded = '';
for await (const event of await client.responses.create({ ...ask, stream: true,
    input: 'What is 417 + 285?' })) {
  events.push(event.type);
  if (event.type === 'response.output_text.delta') responded += event.delta;
}
const called = await client.responses.create({ ...ask, store: false,
  input: 'What is the weather in Oslo?',
  tools: [{ type: 'function', strict: false, ...described }] });
console.log(JSON.stringify([ran, streamed, responded, events.at(-1),
  called.output.at(-1).arguments]));
"""


def node_package(name: str) -> Path:
    """The folder of an npm package, or skip."""
    found = NODE.absolute() / "node_modules" / name
    if not found.exists() or shutil.which("node") is None:
        pytest.skip(f"npm install {name}, in a folder that MLX_GPTOSS_NODE names")
    return found


def test_the_openai_library_of_node_runs_tools_and_streams(
    served: Served, tmp_path: Path
) -> None:
    node_package("openai")
    (tmp_path / "node_modules").symlink_to(NODE.absolute() / "node_modules")
    script = tmp_path / "ask.mjs"
    script.write_text(OPENAI_JS)
    done = run(["node", script, served.v1, served.token], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ANSWER,
        TOTAL,
        TOTAL,
        "response.completed",
        '{"city":"Oslo"}',
    ]


# the agents themselves, set up by `agents setup`

PACKAGES = {  # npm package, program, arguments
    "codex": ("@openai/codex", "codex", ["exec", "--skip-git-repo-check"]),
    "opencode": ("opencode-ai", "opencode", ["run"]),
    "cline": ("cline", "cline", []),
    "continue": ("@continuedev/cli", "cn", ["-p"]),
    "claude-code": ("@anthropic-ai/claude-code", "claude", ["-p"]),
}


ROUTES = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
AGENT_SECONDS = 120


def _started_with(own: AgentProfile, arguments: list[str]) -> list[str]:
    """Put the options of a profile behind a subcommand, such as `exec`."""
    subcommand = [one for one in arguments[:1] if not one.startswith("-")]
    return [*subcommand, *own.arguments, *arguments[len(subcommand) :]]


@pytest.mark.soak
@pytest.mark.parametrize("way", ["profile", "default"])
@pytest.mark.parametrize("tool", PACKAGES)
def test_an_agent_that_was_set_up_is_served(
    served: Served, tmp_path: Path, tool: str, way: str
) -> None:
    """Its requests are accepted; what the demo says to its long prompt is no matter.

    The demo may talk to the end of its context there, so the agent is ended in time.
    """
    package, command, arguments = PACKAGES[tool]
    node_package(package)
    program = NODE.absolute() / "node_modules" / ".bin" / command
    home, project = tmp_path / "home", tmp_path / "project"
    project.mkdir()
    there = Endpoint(served.url, served.model, served.token)
    for change in prepare(tool, there, home=home, profile=way == "profile"):
        change.write()
    own = profile_of(tool, home) if way == "profile" else AgentProfile([])
    before = len(served.log.read_text())
    with (tmp_path / "said").open("wb") as said:
        agent = subprocess.Popen(
            [program, *_started_with(own, arguments), SUM],
            cwd=project,
            env=os.environ | {"HOME": str(home), **own.environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        agent.wait(AGENT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
    route = re.escape(ROUTES[AGENTS[tool].protocol])
    answered: list[str] = []
    until = time.monotonic() + AGENT_SECONDS
    while not answered and time.monotonic() < until:
        time.sleep(0.5)  # the log tells of a request when it has ended
        log = served.log.read_text()[before:]
        answered = re.findall(rf"POST {route} (\d+)", log)
    assert answered and set(answered) == {"200"}, (tmp_path / "said").read_text()
