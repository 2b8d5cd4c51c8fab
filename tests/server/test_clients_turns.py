"""Real coding agents through ten turns: a tool in each, a cancel, and a compaction.

The model says what its prompt asks for; the agents, their tools and the server are
real. `npm install @openai/codex @anthropic-ai/claude-code opencode-ai` in a folder that
MLX_GPTOSS_NODE names, then `pytest -m soak tests/server/test_clients_turns.py`.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import NAME
from mlx_gptoss.diagnostics.agents.setup import prepare
from tests.server.test_clients_more import node_package
from tests.support.live import Live, live
from tests.support.prompted import PromptedModel, prompted

pytestmark = pytest.mark.soak

TURNS, CANCELLED, COMPACTED = 10, 4, 7
SECONDS = 180
CONTEXT = 400_000  # of the model, whose tokens are bytes
# What calls of each agent's shell have: the name of the tool, and that of its argument.
SHELLS = {"exec_command": "cmd", "shell_command": "command", "Bash": "command"}
SHELLS |= {"bash": "command"}
QUESTION, RESULT = "<|start|>user<|message|>", "<|start|>functions."
ASKED = re.compile(r"TURN (\d+)")
COUNTING = " ".join(map(str, range(30_000)))
LONG = 1000  # tokens: no other answer has as many
SUMMARY = "We count turns in turns.txt."


def say(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def answer_to(prompt: str) -> str:
    """Call the shell once a turn; count without end in the turn that is cancelled."""
    _, _, question = prompt.rpartition(QUESTION)
    question_text = question.partition("<|end|>")[0]
    asked = ASKED.findall(question_text)
    shell = next((name for name in SHELLS if f"type {name} = (" in prompt), None)
    if shell and not asked and SUMMARY in question_text:  # compacted in its turn
        return say(f"Turn {ASKED.findall(prompt)[-1]} is done.")
    if not asked or shell is None:  # a title, or a summary of everything
        return say(SUMMARY)
    turn = int(asked[-1])
    if RESULT in question:
        return say(COUNTING if turn == CANCELLED else f"Turn {turn} is done.")
    call = {SHELLS[shell]: f"echo {turn} >> turns.txt"}
    if shell == "Bash":
        call["description"] = "Count"
    return (
        "<|channel|>analysis<|message|>I count.<|end|><|start|>assistant"
        f"<|channel|>commentary to=functions.{shell} <|constrain|>json<|message|>"
        f"{json.dumps(call)}<|call|>"
    )


@dataclass(frozen=True)
class Agent:
    """How an agent is started for one turn, first or later, and how it compacts."""

    tool: str
    package: str
    program: str
    first: Sequence[str]
    later: Sequence[str]
    compact: Sequence[str] = ()  # more arguments in that turn
    compact_command: str = ""  # a turn of its own instead
    compact_route: str = ""  # of the agent's own server (`serve`), instead
    environment: Mapping[str, str] | None = None


CODEX = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
CLAUDE = ("-p", "--allowedTools", "Bash", "--permission-mode", "acceptEdits")
AGENTS = {
    "codex": Agent(
        "codex",
        "@openai/codex",
        "codex",
        ("exec", *CODEX),
        ("exec", "resume", "--last", *CODEX),
        compact=("-c", "model_auto_compact_token_limit=1000"),
    ),
    "claude-code": Agent(
        "claude-code",
        "@anthropic-ai/claude-code",
        "claude",
        CLAUDE,
        ("--continue", *CLAUDE),
        compact_command="/compact",
    ),
    "opencode": Agent(
        "opencode",
        "opencode-ai",
        "opencode",
        ("run",),
        ("run", "--continue"),
        compact_route="summarize",
    ),
}
LISTENING = re.compile(r"listening on (http://\S+)")


@dataclass(frozen=True)
class Session:
    """An agent in a project folder, with a home of its own."""

    agent: Agent
    program: Path
    home: Path
    project: Path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        own = {"HOME": str(self.home), "CODEX_HOME": str(self.home / ".codex")}
        own["PWD"] = str(self.project)  # opencode believes it more than its folder
        return subprocess.Popen(
            [self.program, *arguments],
            cwd=self.project,
            env=os.environ | own | dict(self.agent.environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        return said

    def compact_by_server(self) -> None:
        """Compact the latest session as the agent's own interface does, over HTTP."""
        with self.start("serve", "--port", "0") as process:
            assert process.stdout
            try:
                lines = map(LISTENING.search, process.stdout)
                url = next(found[1] for found in lines if found)
                with httpx2.Client(base_url=url, timeout=SECONDS) as client:
                    [session] = client.get("/session").raise_for_status().json()
                    route = f"/session/{session['id']}/{self.agent.compact_route}"
                    names = {"providerID": NAME, "modelID": Endpoint().model}
                    client.post(route, json=names).raise_for_status()
            finally:
                os.killpg(process.pid, signal.SIGTERM)

    def cancel(self, *arguments: str, once: Any) -> None:
        """Start a turn and end the agent by Ctrl-C once `once` is true."""
        with self.start(*arguments) as process:
            until = time.monotonic() + SECONDS
            while not once() and time.monotonic() < until:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


@contextmanager
def served() -> Iterator[tuple[Live, PromptedModel]]:
    with (
        prompted(answer_to, context=CONTEXT, step_seconds=0.0005) as runtime,
        live(runtime, ServerSettings()) as server,
    ):
        model = runtime.model
        assert isinstance(model, PromptedModel)
        yield server, model


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_goes_through_ten_turns(name: str, tmp_path: Path) -> None:
    agent = AGENTS[name]
    node_package(agent.package)
    session = Session(
        agent, node_package(f".bin/{agent.program}"), tmp_path / "home", tmp_path / "p"
    )
    session.project.mkdir()
    with served() as (server, model):
        for change in prepare(
            agent.tool, Endpoint(server.url, context=CONTEXT), home=session.home
        ):
            change.write()
        for turn in range(1, TURNS + 1):
            start = agent.later if turn > 1 else agent.first
            asked = f"TURN {turn}: append its number to turns.txt by your shell."
            if turn == CANCELLED:
                session.cancel(*start, asked, once=lambda: model.said > LONG)
                server.wait_until_quiet()
                continue
            if turn == COMPACTED and agent.compact_command:
                session.run(*start, agent.compact_command)
            if turn == COMPACTED and agent.compact_route:
                session.compact_by_server()
            more = agent.compact if turn == COMPACTED else ()
            said = session.run(*start, *more, asked)
            assert f"Turn {turn} is done." in said, said

    written = (session.project / "turns.txt").read_text().split()
    assert written == [str(turn) for turn in range(1, TURNS + 1)]
    last = model.prompts[-1]
    assert SUMMARY in last and "TURN 10" in last and "Turn 2 is done." not in last
