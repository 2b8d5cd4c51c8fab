"""The real Codex, through tasks of several steps with the tools of an MCP server.

The model is scripted, everything else is real: Codex as `agents setup` sets it up, an
MCP server of its own, the server over loopback. `npm install @openai/codex` in a folder
that MLX_GPTOSS_NODE names. With MLX_GPTOSS_RECORD=1 its requests are recorded anew.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.diagnostics.agents.endpoint import Endpoint
from mlx_gptoss.diagnostics.agents.setup import prepare
from tests.server.test_clients_more import node_package
from tests.support.codex_requests import Recorder, write
from tests.support.fakes import AnsweringModel, answering
from tests.support.live import live
from tests.support.serve_process import run

pytestmark = pytest.mark.soak

NUMBERS = Path(__file__).parents[1] / "support" / "mcp_server.py"
TASK = "What is 2 + 3? Add by the tool, and write the sum to sum.txt."
OPTIONS = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
SECONDS = 120
PATCH = "*** Begin Patch\n*** Add File: sum.txt\n+5\n*** End Patch\n"
END = "<|channel|>final<|message|>The sum is 5.<|return|>"


def thought(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def call(name: str, **arguments: Any) -> str:
    return (
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{json.dumps(arguments)}<|call|>"
    )


ADD = call("mcp__numbers__add", a=2, b=3)
APPLY = f"<|channel|>commentary to=functions.apply_patch<|message|>{PATCH}<|call|>"
FOUND = [thought("I look for it.") + call("tool_search", query="add"), ADD, APPLY, END]
SESSIONS = {
    "direct": [
        thought("I add.") + ADD,
        call("mcp__numbers__fail"),
        call("exec_command", cmd="echo 5 > sum.txt"),
        END,
    ],
    "search": FOUND,
    "lite": FOUND,
}
# A model as Codex knows it: without, nothing is searched for or patched.
KNOWN = {
    "direct": None,
    "search": {"use_responses_lite": False},
    "lite": {"use_responses_lite": True},
}


def catalog(codex: Path, folder: Path, known: dict[str, Any]) -> list[str]:
    """Tell Codex that the model can do what one of OpenAI's can."""
    listed = json.loads(run([codex, "debug", "models", "--bundled"]).stdout)["models"]
    like = next(one for one in listed if one["supports_search_tool"])
    own = {"slug": "demo", "base_instructions": "Be brief.", "model_messages": None}
    path = folder / "models.json"
    path.write_text(json.dumps({"models": [like | own | {"tool_mode": None} | known]}))
    return ["-c", f"model_catalog_json={json.dumps(str(path))}"]


def settings_of(url: str, home: Path) -> None:
    """Set Codex up as our command does, in a file of somebody who used other models."""
    path = home / ".codex" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        'model = "gpt-5.4" # the old one\nmodel_reasoning_effort = "high"\n'
        'model_providers.azure.name = "Azure"\n'
        'model_providers.azure.base_url = "https://azure.invalid/v1"\n\n'
        f"[mcp_servers.numbers]\ncommand = {json.dumps(sys.executable)}\n"
        f"args = [{json.dumps(str(NUMBERS))}]\nrequired = true\n\n"
        '[projects."/home/a"]\ntrust_level = "trusted"\n'
    )
    for change in prepare("codex", Endpoint(url), home=home):
        change.write()


@pytest.mark.parametrize("session", SESSIONS)
def test_codex_works_with_the_tools_of_an_mcp_server(
    session: str, tmp_path: Path
) -> None:
    node_package("@openai/codex")
    codex = node_package(".bin/codex")
    home, project = tmp_path / "home", tmp_path / "project"
    project.mkdir()
    known = KNOWN[session]
    options = catalog(codex, tmp_path, known) if known else []
    recorders: list[Recorder] = []

    def around(app: Any) -> Recorder:
        recorders.append(Recorder(app))
        return recorders[0]

    with (
        answering(*SESSIONS[session]) as runtime,
        live(runtime, ServerSettings(), around) as server,
    ):
        settings_of(server.url, home)
        done = run(
            [codex, "exec", *OPTIONS, *options, TASK],
            cwd=project,
            env=os.environ | {"HOME": str(home), "CODEX_HOME": str(home / ".codex")},
            stdin=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        model = runtime.model
        assert isinstance(model, AnsweringModel)
        prompts = [runtime.tokenizer.decode(ids) for ids in model.prompts]

    assert done.stdout.strip() == "The sum is 5.", done.stderr
    assert (project / "sum.txt").read_text() == "5\n"
    assert "type mcp__numbers__add = (_: {" in prompts[-1]
    assert "functions.mcp__numbers__add to=assistant" in prompts[-1]
    assert '{"result":5}' in prompts[-1]
    assert len(prompts) == len(SESSIONS[session])
    if os.environ.get("MLX_GPTOSS_RECORD"):
        write(session, recorders[0].bodies)
