"""`ps` and `stop`: which servers run is known, however they end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.server.running import (
    RunningServer,
    registered,
    running_servers,
    servers_folder,
)
from tests.support.serve_process import Served

SERVER = """
import signal, sys, time
from mlx_gptoss.server.running import registered
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with registered(sys.argv[1], sys.argv[2:]):
    print("up", flush=True)
    time.sleep(60)
"""
ONE, TWO = "http://127.0.0.1:8080", "http://127.0.0.1:8081"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path


@pytest.fixture
def servers() -> Iterator[list["subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def start(servers: list["subprocess.Popen[str]"], url: str, *models: str) -> int:
    command = [sys.executable, "-c", SERVER, url, *models]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    servers.append(server)
    assert server.stdout is not None and server.stdout.readline() == "up\n"
    return server.pid


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def test_ps_lists_what_runs_and_stop_ends_it(
    servers: list["subprocess.Popen[str]"],
) -> None:
    pids = [start(servers, ONE, "demo"), start(servers, TWO, "a", "b")]
    facts = json.loads(run("ps", "--json").stdout)
    assert [one["pid"] for one in facts] == pids
    assert [one["models"] for one in facts] == [["demo"], ["a", "b"]]
    assert facts[0]["memory_bytes"] > 10**6
    table = run("ps").stdout.splitlines()
    assert table[0].split() == ["PID", "MODEL", "URL", "MEMORY", "SINCE"]
    assert f"{pids[1]}  a, b   {TWO}" in table[2]

    several = run("stop")
    assert several.exit_code == 2 and "several servers run" in several.stderr
    done = run("stop", "b")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"Stopped {pids[1]} (a, b at {TWO})\n"
    assert servers[1].wait() == 0
    assert run("stop").stderr == f"Stopped {pids[0]} (demo at {ONE})\n"
    assert run("ps").stdout.count("\n") == 1


def test_a_server_is_found_by_port_url_and_id(
    servers: list["subprocess.Popen[str]"],
) -> None:
    for n, name in enumerate(("8080", ONE, "id")):
        pid = start(servers, ONE, "demo")
        done = run("stop", str(pid) if name == "id" else name, "--now")
        assert (done.exit_code, servers[n].wait()) == (0, 0)


def test_all_servers_are_stopped(servers: list["subprocess.Popen[str]"]) -> None:
    start(servers, ONE, "demo")
    start(servers, TWO, "demo")
    ambiguous = run("stop", "demo")
    assert ambiguous.exit_code == 1 and "several servers are `demo`" in ambiguous.stderr
    assert run("stop", "--all").stderr.count("Stopped ") == 2
    assert running_servers() == []


def test_a_killed_server_is_not_listed(servers: list["subprocess.Popen[str]"]) -> None:
    start(servers, ONE, "demo")
    assert len(running_servers()) == 1
    servers[0].send_signal(signal.SIGKILL)
    servers[0].wait()
    assert [path.suffix for path in servers_folder().iterdir()] == [".json"]
    assert running_servers() == []
    assert list(servers_folder().iterdir()) == []


def test_the_record_is_private_and_ends_with_the_server() -> None:
    with registered(ONE, ["demo"]):
        [path] = servers_folder().iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
        assert servers_folder().stat().st_mode & 0o777 == 0o700
        [server] = running_servers()
        assert server == RunningServer(os.getpid(), ONE, ["demo"], server.started)
    assert running_servers() == []


def test_a_server_that_cannot_be_recorded_runs_and_says_so(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers_folder().parent.mkdir(parents=True)
    servers_folder().touch()
    with registered(ONE, ["demo"]):
        assert "`mlx-gptoss ps` will not list this server" in caplog.text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["stop"], 1, "Error: no server is running: `mlx-gptoss serve` starts one"),
        (["stop", "demo"], 1, "Error: no server is running"),
        (["stop", "demo", "--all"], 2, "give SERVER or --all"),
    ],
)
def test_a_mistake_has_its_exit_code(words: list[str], code: int, said: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_name_that_no_server_has_is_named(
    servers: list["subprocess.Popen[str]"],
) -> None:
    start(servers, ONE, "demo")
    result = run("stop", "other")
    assert result.exit_code == 1 and "no running server is `other`" in result.stderr


def test_serve_is_listed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Path(f"/proc/{served.pid}/environ")
    if not environment.exists():
        pytest.skip("the environment of a process is not to be seen here")
    variables = dict(
        pair.split("=", 1) for pair in environment.read_text().split("\0") if pair
    )
    monkeypatch.setenv("XDG_DATA_HOME", variables["XDG_DATA_HOME"])
    found = {one.pid: one for one in running_servers()}
    assert (found[served.pid].url, found[served.pid].models) == (served.url, ["demo"])
