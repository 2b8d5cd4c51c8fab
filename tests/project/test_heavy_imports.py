"""Chats and servers start without the libraries of training and conversion."""

import json
import subprocess
import sys

import pytest

HEAVY = ("mlx_lm", "transformers", "torch", "mlx_gptoss_convert")
RUN = """
import json, sys
from click.testing import CliRunner
from mlx_gptoss.cli import cli
{work}
names = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps(sorted(names & set({heavy!r}))))
"""
CHAT = """
done = CliRunner().invoke(cli, {arguments!r}, input="What is 417 + 285?")
assert done.exit_code == 0, done.output
"""
SERVE = """
import asyncio
import httpx2
from mlx_gptoss import load
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models

async def ask(app):
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
        for path in ("chat/completions", "messages", "responses"):
            message = {"role": "user", "content": "What is 417 + 285?"}
            body = {"model": "demo", "messages": [message], "max_tokens": 40}
            if path == "responses":
                body = {"model": "demo", "input": "hi", "max_output_tokens": 40}
            reply = await client.post(f"http://localhost/v1/{path}", json=body)
            assert reply.status_code == 200, reply.text

with load("demo") as runtime:
    asyncio.run(ask(create_app(Models.of(runtime, "demo"))))
"""
WORKS = {
    "generate": CHAT.format(arguments=["generate", "-m", "demo", "--max-tokens", "8"]),
    "chat": CHAT.format(arguments=["chat", "-m", "demo", "--max-tokens", "8"]),
    "serve": SERVE,
    "plan": CHAT.format(arguments=["plan", "demo"]),
}


def heavy_modules(work: str) -> list[str]:
    """Return the heavy packages that a process has imported after this work."""
    code = RUN.format(work=work, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", WORKS)
def test_what_chats_or_serves_imports_nothing_heavy(command: str) -> None:
    assert heavy_modules(WORKS[command]) == []
