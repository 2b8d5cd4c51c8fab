"""A server asks nobody: proven without a network, and by watching every socket."""

import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from fastapi.telemetry import TelemetryConfig

from mlx_gptoss.server.app import NO_TELEMETRY
from tests.support.serve_process import serve

# What each of the two servers is asked: every API, and the pages.
ASK = """
import json, sys, httpx2
url, token = sys.argv[1:]
headers = {"authorization": f"Bearer {token}"}
client = httpx2.Client(base_url=url, headers=headers, timeout=120)
hello = [{"role": "user", "content": "Hello!"}]
said = {}
for path, body in {
    "/v1/chat/completions": {"messages": hello, "max_tokens": 8},
    "/v1/completions": {"prompt": "a", "max_tokens": 4},
    "/v1/responses": {"input": "Hello!", "max_output_tokens": 16, "store": False},
    "/v1/messages": {"model": "demo", "messages": hello, "max_tokens": 8},
    "/api/chat": {"messages": hello, "options": {"num_predict": 8}},
    "/api/generate": {"prompt": "Hello!", "options": {"num_predict": 8}},
}.items():
    said[path] = client.post(path, json=body).status_code
for path in ("/v1/models", "/api/tags", "/health", "/metrics", "/docs",
             "/openapi.json"):
    said[path] = client.get(path).status_code
print(json.dumps(said))
"""
# A server in which every socket that would leave this machine is an error.
GUARDED = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
            print("LEFT", event, address, file=sys.stderr, flush=True)
            raise OSError(f"the guard stops {event}")
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if arguments[0] not in ("127.0.0.1", "::1", "localhost", None):
            print("LEFT", event, arguments[0], file=sys.stderr, flush=True)
            raise OSError(f"the guard stops {event}")
sys.addaudithook(guard)
from mlx_gptoss.cli import cli
cli()
"""
INSIDE = """
import json, subprocess, sys
from tests.support.serve_process import serve
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with serve() as served:
    command = [sys.executable, "-c", sys.argv[1], served.url, served.token]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
"""
ROOT = Path(__file__).resolve().parents[2]


def can_be_alone() -> bool:
    """Whether a process may have a network of its own, with nothing but loopback."""
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def all_answered(said: dict[str, Any]) -> bool:
    return len(said) == 12 and set(said.values()) == {200}


@pytest.mark.skipif(not can_be_alone(), reason="needs `unshare --net`, as root")
def test_without_any_network_every_api_answers() -> None:
    command = ["unshare", "--net", sys.executable, "-c", INSIDE, ASK]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'convert'}"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment
    )

    assert done.returncode == 0, done.stderr
    assert all_answered(json.loads(done.stdout))


def test_no_socket_leaves_this_machine() -> None:
    with serve(
        command=(sys.executable, "-c", GUARDED, "serve", "-m", "demo")
    ) as served:
        asked = subprocess.run(
            [sys.executable, "-c", ASK, served.url, served.token],
            capture_output=True,
            text=True,
        )
        assert asked.returncode == 0, asked.stderr
        assert all_answered(json.loads(asked.stdout))
        assert "LEFT" not in served.log.read_text()


def test_every_telemetry_of_the_framework_is_off() -> None:
    kinds = typing.get_type_hints(TelemetryConfig)

    switches = {name for name, kind in kinds.items() if kind is bool}
    assert dict.fromkeys(switches, False) == NO_TELEMETRY


def test_the_guard_would_have_seen_it() -> None:
    code = GUARDED.replace("from mlx_gptoss.cli import cli\ncli()", "import socket\n")
    code += "socket.create_connection(('192.0.2.1', 9), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "LEFT socket.getaddrinfo 192.0.2.1" in done.stderr
