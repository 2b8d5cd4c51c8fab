"""The model in other programs: as a library, and as a child process."""

import json
import plistlib
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.agents.steps import chat, list_models
from mlx_gptoss.diagnostics.http_client import HttpClient, Refused, Unreachable
from tests.support.serve_process import COMMAND, gone, run, serve, wait_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_a_program_embeds_the_library_and_stays_responsive() -> None:
    done = run([sys.executable, EXAMPLES / "embed_python.py"])
    assert (done.stdout, done.stderr) == (
        "417 + 285 = 702\nstopped after one event\nthe loop kept running: True\n",
        "",
    )


def test_a_program_embeds_a_child_process() -> None:
    done = run([sys.executable, EXAMPLES / "embed_child.py"])
    assert (done.stdout, done.stderr) == ("417 + 285 = 702\n", "")


def test_the_ready_file_says_where_and_with_what_key(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    log = tmp_path / "log"
    command = [*COMMAND, "--port", "0", "--ready-file", str(ready)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors)
    try:
        told = wait_for(ready, process, log)
        assert set(told) == {"url", "token", "pid", "model"}
        assert (told["pid"], told["model"]) == (process.pid, "demo")
        assert ready.read_text().count("\n") == 1
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600  # it holds the key
        assert list_models(HttpClient.from_ready_file(ready)) == ["demo"]
        with pytest.raises(Refused, match="HTTP 401"):
            list_models(HttpClient(told["url"], "another key"))
    finally:
        process.terminate()
        process.wait(60)
    assert not ready.exists()
    with pytest.raises(Unreachable, match="start `mlx-gptoss serve"):
        HttpClient.from_ready_file(ready)


def test_a_socket_of_the_file_system_serves_too(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    with serve("--uds", str(socket)) as served:
        assert served.url == f"http+unix://{socket}"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        client = HttpClient(served.url, served.token)
        assert "Hello" in chat.streamed(client, "demo")
    assert not socket.exists()


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_the_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    log = tmp_path / "log"
    command = [*COMMAND, "--port", "0", "--ready-file", str(ready)]
    with log.open("wb") as errors:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, *command, "--exit-with-parent"],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(ready, parent, log)
        parent.kill()
    assert gone(child)
    assert not ready.exists()


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def test_a_server_started_with_blocked_signals_can_be_ended() -> None:
    """As a child of Foundation's Process is: it would never end."""
    with serve(preexec_fn=block_signals) as served:
        served.process.terminate()
        assert served.process.wait(60) == 0


def test_check_takes_a_ready_file_and_tells_what_passed(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    with serve() as served:
        ready.write_text(json.dumps({"url": served.url, "token": served.token}))
        arguments = ["agents", "check", "aider", "--ready-file", str(ready), "--json"]
        result = CliRunner().invoke(cli, arguments)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["model"]) == (0, "demo")
    assert {step["protocol"] for step in found["steps"]} == {"chat"}
    assert [step["note"] for step in found["steps"] if not step["passed"]] == []


def test_check_without_a_server_says_how_to_start_one() -> None:
    result = CliRunner().invoke(cli, ["agents", "check", "--url", "http://127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no server answers at http://127.0.0.1:1")
    assert result.stderr.endswith("start `mlx-gptoss serve`\n")


def test_the_plist_of_launchd_names_what_must_be_filled_in() -> None:
    path = EXAMPLES / "launchd" / "org.mlx-gptoss.serve.plist"
    agent = plistlib.loads(path.read_bytes())
    command, serve_word, *options = agent["ProgramArguments"]
    assert (command, serve_word) == ("COMMAND", "serve")
    known = {name for option in _options("serve") for name in option}
    assert {word for word in options if word.startswith("-")} <= known
    assert agent["Label"] == path.stem


def _options(name: str) -> list[list[str]]:
    command = cli.commands.get(name) or cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    return [parameter.opts for parameter in command.params]
