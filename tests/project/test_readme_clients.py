"""The client programs in the server's README run as written, at another port."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from tests.support.serve_process import Served

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "mlx_gptoss" / "server" / "README.md").read_text()
BASE = "http://localhost:8080"
PROGRAMS = [
    program
    for program in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if BASE in program
]


def library(program: str) -> str:
    return program.split()[1]


def test_the_readme_shows_a_client_of_each_protocol() -> None:
    found = [library(program) for program in PROGRAMS]
    assert found == ["openai", "anthropic", "ollama"]


@pytest.mark.parametrize("program", PROGRAMS, ids=library)
def test_a_client_of_the_readme_is_answered(served: Served, program: str) -> None:
    pytest.importorskip(library(program), reason="pip install 'mlx-gptoss[test]'")
    here = program.replace(BASE, served.url).replace('"none"', repr(served.token))
    key = {"OLLAMA_API_KEY": served.token or ""}  # Ollama's client takes it from there
    done = subprocess.run(
        [sys.executable, "-c", here],
        capture_output=True,
        text=True,
        env=os.environ | key,
    )
    assert (done.stdout, done.stderr) == ("417 + 285 = 702\n", "")


def test_every_agent_the_readme_names_can_be_set_up() -> None:
    line = next(one for one in README.splitlines() if "agents setup" in one)
    assert [tool for tool in AGENTS if tool not in line] == []
