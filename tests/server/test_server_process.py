"""`mlx-gptoss serve` as a process: its start, its clients, its end."""

import contextlib
import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub.local_models import DEMO_FOLDER
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.server.process import ServeOptions, listen, listening_url
from tests.support import sse
from tests.support.adapters import write_random_adapter
from tests.support.serving import question

SERVE = [sys.executable, "-m", "mlx_gptoss", "serve", "-m", "demo"]
PATIENCE = 60  # seconds, for a machine that is busy


class Process:
    """A server and what its ready file says."""

    def __init__(self, folder: Path, *options: str, **more: Any) -> None:
        self.folder = folder
        self.file = folder / "ready.json"
        self.log = (folder / "log.txt").open("w+")
        command = [*SERVE, "--port", "0", "--ready-file", str(self.file), *options]
        environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        self.child = subprocess.Popen(
            command, stderr=self.log, cwd=folder, env=environment, **more
        )
        wait_until(lambda: self.file.exists() or self.child.poll() is not None)
        assert self.file.exists(), self.said()
        self.ready = json.loads(self.file.read_text())

    def client(self, **options: Any) -> httpx2.Client:
        headers = {"authorization": f"Bearer {self.ready['token']}"}
        url = self.ready["url"]
        if url.startswith("http+unix://"):
            uds = url.removeprefix("http+unix://")
            options["transport"] = httpx2.HTTPTransport(uds=uds)
            url = "http://localhost"
        return httpx2.Client(base_url=url, headers=headers, timeout=60, **options)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self) -> int:
        if self.child.poll() is None:
            self.child.kill()
        self.log.close()
        return self.child.wait()


def wait_until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


@contextlib.contextmanager
def started(folder: Path, *options: str, **more: Any) -> Iterator[Process]:
    process = Process(folder, *options, **more)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with started(tmp_path_factory.mktemp("server")) as found:
        yield found


def endless(**fields: Any) -> dict[str, Any]:
    """A raw completion that nothing but its length ends."""
    specials = Tokenizer.open(DEMO_FOLDER).specials.values()
    bias = {str(token): -100 for token in specials}
    return {"prompt": "a", "max_tokens": 100_000, "logit_bias": bias} | fields


def running(process: Process) -> int:
    with process.client() as client:
        return client.get("/health").json()["running"]


def test_the_ready_file_says_where_and_is_private(process: Process) -> None:
    ready = process.ready
    assert ready.keys() == {"url", "token", "pid", "model"}
    assert (ready["pid"], ready["model"]) == (process.child.pid, "demo")
    assert ready["url"].startswith("http://127.0.0.1:")
    assert stat.S_IMODE(process.file.stat().st_mode) == 0o600
    with process.client() as client:
        assert client.get("/v1/models").json()["data"][0]["loaded"] is True
        assert httpx2.get(f"{ready['url']}/v1/models").status_code == 401


def test_a_stream_arrives_while_it_is_made(process: Process) -> None:
    body = question("What is 417 + 285?", stream=True)
    with (
        process.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        events = sse.read(reply.iter_lines())
        first = next(events)
        assert running(process) == 1
        *_, last = events
    assert first.data["choices"]
    assert last.data == sse.DONE


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_answer(process: Process, stream: bool) -> None:
    body = json.dumps(endless(stream=stream))
    where = process.ready["url"].removeprefix("http://")
    connection = http.client.HTTPConnection(where)
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {process.ready['token']}",
    }
    connection.request("POST", "/v1/completions", body, headers)
    wait_until(lambda: running(process) == 1)
    assert connection.sock is not None
    connection.sock.close()

    wait_until(lambda: running(process) == 0)


def test_a_hangup_looks_through_the_adapters_again(
    tmp_path: Path, demo_config: ModelConfig
) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    with (
        started(tmp_path, "--adapters", str(adapters)) as process,
        process.client() as client,
    ):
        asked = question("Hello!", model="demo:new", max_tokens=4)
        assert client.post("/v1/chat/completions", json=asked).status_code == 404
        write_random_adapter(tmp_path / "made", demo_config, 1)
        (tmp_path / "made").rename(adapters / "new")
        process.child.send_signal(signal.SIGHUP)
        wait_until(lambda: "loaded the adapter `new`" in process.said())
        reply = client.post("/v1/chat/completions", json=asked)
        assert (reply.status_code, reply.json()["model"]) == (200, "demo:new")
        assert process.child.poll() is None


@pytest.fixture(scope="module")
def demo_config() -> ModelConfig:
    return open_checkpoint(DEMO_FOLDER).config


def test_nothing_that_was_asked_is_in_the_log(process: Process) -> None:
    secret = "the-colour-of-the-seventh-moon"
    with process.client() as client:
        client.post("/v1/chat/completions", json=question(secret, max_tokens=2))
        client.get(f"/v1/{secret}")
        client.post("/v1/chat/completions", json={"messages": secret})
    assert "POST /v1/chat/completions 200" in process.said()
    assert secret not in process.said()


def test_models_come_and_go_and_what_is_kept_is_private(tmp_path: Path) -> None:
    log, second = tmp_path / "log", f"second={DEMO_FOLDER}"
    options = ("-m", second, "--idle-unload", "1s", "--log-file", str(log))
    with started(tmp_path, *options, "--log-prompts") as process:
        with process.client() as client:

            def loaded() -> list[str]:
                return client.get("/health").json()["loaded"]

            ids = [one["id"] for one in client.get("/v1/models").json()["data"]]
            assert ids == ["demo", "second"]
            asked = question("Hello!", model="second", max_tokens=4)
            assert client.post("/v1/chat/completions", json=asked).status_code == 200
            assert "second" in loaded()
            kept = {"input": "Hello!", "max_output_tokens": 16}
            assert client.post("/v1/responses", json=kept).status_code == 200
            wait_until(lambda: loaded() == [])
            again = client.post("/v1/chat/completions", json=asked | {"model": "demo"})
            assert again.json()["model"] == "demo"
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        written = [path for path in files if path.name != "log.txt"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
        assert any(path.suffix == ".sqlite3" for path in written)
        assert "<|start|>user<|message|>Hello!" in log.read_text()


def test_with_no_store_nothing_is_written(tmp_path: Path) -> None:
    with started(tmp_path, "--no-store") as process:
        with process.client() as client:
            kept = {"input": "Hello!", "max_output_tokens": 16}
            assert client.post("/v1/responses", json=kept).status_code == 200
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.name for path in files} == {"log.txt", "ready.json"}


def test_errors_name_no_files_of_this_machine(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    options = ("-m", f"broken={broken}")
    with started(tmp_path, *options) as process, process.client() as client:
        reply = client.post("/v1/chat/completions", json=question("x", model="broken"))
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "model_unavailable"
        assert str(tmp_path) not in reply.text
        assert str(broken) in process.said()


def test_sigterm_lets_answers_end_and_then_ends(tmp_path: Path) -> None:
    body = question("What is 417 + 285?", stream=True)
    with started(tmp_path) as process:
        with (
            process.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            events = sse.read(reply.iter_lines())
            next(events)
            process.child.send_signal(signal.SIGTERM)
            *_, last = events
        assert last.data == sse.DONE
        assert process.child.wait(PATIENCE) == 0
        assert not process.file.exists()
        assert "unloaded `demo`" in process.said()


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    body = endless(stream=True)
    with (
        started(tmp_path, "--drain", "10m") as process,
        process.client() as client,
        client.stream("POST", "/v1/completions", json=body) as reply,
    ):
        events = sse.read(reply.iter_lines())  # the stream is closed when it goes
        next(events)
        process.child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.child.send_signal(signal.SIGINT)
        *_, told, last = events
        assert process.child.wait(PATIENCE) == 130
        assert (last.data, told.data["error"]["code"]) == (sse.DONE, "draining")
        assert "Traceback" not in process.said()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    options = ["--port", "0", "--ready-file", str(file), "--exit-with-parent"]
    code = f"import subprocess; subprocess.Popen({[*SERVE, *options]!r}); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        wait_until(file.exists)
        pid = json.loads(file.read_text())["pid"]
        parent.kill()
    wait_until(lambda: not is_running(pid))
    assert not file.exists()


def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    uds = tmp_path / "s"
    with started(tmp_path, "--uds", str(uds)) as process:
        assert process.ready["url"] == f"http+unix://{uds}"
        assert stat.S_IMODE(uds.stat().st_mode) == 0o600
        with process.client() as client:
            assert client.get("/health").status_code == 200
            reply = client.post("/v1/completions", json={"prompt": "a"})
            assert reply.status_code == 200
        process.child.terminate()
        assert process.child.wait(PATIENCE) == 0
    assert not uds.exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "set a key with --api-key"),
        (["--api-key", "secret"], 2, "there is no file `secret`"),
        (["--api-key", "env:NOT_THERE"], 2, "$NOT_THERE is not set"),
        (["--cors-origin", "*"], 2, "`*` is not an origin"),
        (["--no-store", "--log-file", "x"], 2, "leave out --log-file"),
        (["-m", "demo"], 2, "two models are named `demo`"),
        (["--idle-unload", "soon"], 2, "`soon` is not a duration"),
        (["--host", "no.such.host.invalid", "--api-key", "env:HOME"], 1, "listen at"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    options: list[str], code: int, message: str
) -> None:
    done = CliRunner().invoke(cli, ["serve", "-m", "demo", *options])

    assert done.exit_code == code
    assert message in done.stderr.splitlines()[-1]


def test_an_address_in_use_is_refused_before_a_model_is_loaded() -> None:
    with listen(ServeOptions(port=0)) as one:
        one.listen()
        port = int(listening_url(one).rpartition(":")[2])
        with pytest.raises(GptOssError, match="choose another"):
            listen(ServeOptions(port=port))


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    place = ServeOptions(uds=tmp_path / "s")
    listen(place).close()
    with listen(place) as found:
        found.listen()
        with pytest.raises(GptOssError, match="in use"):
            listen(place)


def test_a_file_in_the_way_of_a_socket_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(GptOssError, match="remove it"):
        listen(ServeOptions(uds=tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "mine"


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie that init has yet to take."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2][1] == "Z")
