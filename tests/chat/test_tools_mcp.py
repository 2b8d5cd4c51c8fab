"""Tools of real MCP servers, over stdio and loopback HTTP, with their failures."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
uvicorn = pytest.importorskip("uvicorn")

from mlx_gptoss.chat import Chat  # noqa: E402
from mlx_gptoss.chat.tools import Tool  # noqa: E402
from mlx_gptoss.chat.tools.mcp import McpServerConfig, McpServers, read_servers  # noqa: E402
from mlx_gptoss.engine.sampling_params import SamplingParams  # noqa: E402
from mlx_gptoss.errors import ToolError  # noqa: E402
from mlx_gptoss.harmony.events import ToolResult  # noqa: E402
from tests.support.fakes import answering  # noqa: E402

SCRIPT = str(Path(__file__).parents[1] / "support" / "mcp_server.py")
STDIO = McpServerConfig("my test", command=sys.executable, args=(SCRIPT,))
BROKEN = (sys.executable, ("-c", "import sys; sys.exit('no such database')"))
SILENT = (sys.executable, ("-c", "import sys; sys.stdin.read()"))
PATIENCE = {"start_seconds": 300.0, "call_seconds": 120.0}  # for a busy machine


def tools_of(servers: McpServers) -> dict[str, Tool]:
    return {tool.name: tool for tool in servers.tools}


@pytest.fixture(scope="module")
def stdio() -> Iterator[McpServers]:
    server = McpServerConfig("my test", sys.executable, (SCRIPT,), {"GIVEN": "yes"})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SECRET_KEY", "hunter2")
        with McpServers.start([server], **PATIENCE) as servers:
            yield servers


@pytest.fixture(scope="module")
def web() -> Iterator[McpServerConfig]:
    """An MCP server in this process, on a local port."""
    from tests.support import mcp_server  # noqa: PLC0415 - only where the library is

    listener = socket.create_server(("127.0.0.1", 0))
    app = mcp_server.server.streamable_http_app()
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    yield McpServerConfig("web", url=url, headers={"Authorization": "Bearer x"})
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def http(web: McpServerConfig) -> Iterator[McpServers]:
    with McpServers.start([web], **PATIENCE) as servers:
        yield servers


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_tools_of_a_server_are_described_and_run(
    transport: str, request: pytest.FixtureRequest
) -> None:
    servers = request.getfixturevalue(transport)
    prefix = {"stdio": "my_test", "http": "web"}[transport]
    tools = tools_of(servers)

    add = tools[f"{prefix}_add"]

    assert add.description.description == "Add two numbers."
    schema = add.description.parameters or {}
    assert schema["required"] == ["a"] and schema["properties"]["b"]["default"] == 1
    assert add.run('{"a": 2, "b": 3}') == "5"
    assert add.run('{"a": 2}') == "3"
    assert add.run('{"a": "two"}').startswith("Error: `a` must be integer")
    failed = tools[f"{prefix}_fail"].run("{}")
    assert failed.startswith("Error: ") and "out of paper" in failed
    assert tools[f"{prefix}_draw"].run("{}") == (
        "a cat\n[image/png: cannot be shown here]"
    )


def test_a_server_gets_its_own_environment_and_not_ours(stdio: McpServers) -> None:
    read = tools_of(stdio)["my_test_read_environment"]
    assert read.run('{"name": "GIVEN"}') == "yes"
    assert read.run('{"name": "SECRET_KEY"}') == "not set"


def test_a_chat_calls_a_server(stdio: McpServers) -> None:
    call = (
        "<|channel|>commentary to=functions.my_test_add <|constrain|>json<|message|>"
        '{"a": 2}<|call|>'
    )
    with answering(call, "<|channel|>final<|message|>3<|return|>") as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[stdio], params=params)
        events = list(chat.send("2 + 1?"))
    assert [e.text for e in events if isinstance(e, ToolResult)] == ["3"]


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_server_that_hangs_is_given_up(
    transport: str, request: pytest.FixtureRequest
) -> None:
    servers: McpServers = request.getfixturevalue(transport)
    [hang] = [tool for tool in servers.tools if tool.name.endswith("_hang")]
    [add] = [tool for tool in servers.tools if tool.name.endswith("_add")]
    given_up = iter([False])

    said = hang.run("{}", cancelled=lambda: next(given_up, True))

    assert said == "Error: the call was interrupted"
    assert add.run('{"a": 1}') == "2"


def test_calls_have_a_time_limit(web: McpServerConfig) -> None:
    with McpServers.start([web], start_seconds=300, call_seconds=0.1) as servers:
        said = tools_of(servers)["web_hang"].run("{}")
    assert said == "Error: MCP server `web` gave no result within 0.1 s"


def test_a_server_that_dies_is_an_error_and_the_others_end_with_the_chat() -> None:
    other = McpServerConfig("other", sys.executable, (SCRIPT,))
    before = set(psutil.Process().children(recursive=True))
    with McpServers.start([STDIO, other], **PATIENCE) as servers:
        started = set(psutil.Process().children(recursive=True)) - before
        assert len(started) == 2
        tools = tools_of(servers)
        first = tools["my_test_die"].run("{}")
        second = tools["my_test_add"].run('{"a": 1}')
        assert tools["other_add"].run('{"a": 1}') == "2"
    third = tools["my_test_add"].run('{"a": 1}')

    for said in (first, second):
        assert said.startswith("Error: MCP server `my test` failed: ")
    assert third == "Error: MCP server `my test` has ended"
    _, alive = psutil.wait_procs(started, 10)
    assert alive == []


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (
            McpServerConfig("gone", command="/no/such/program"),
            r"`gone` \(`/no/such/program`\) did not start: FileNotFoundError",
        ),
        (
            McpServerConfig("bad", *BROKEN),
            r"`bad` \(`.*`\) did not start: .*; it said: no such database$",
        ),
        (
            McpServerConfig("off", url="http://127.0.0.1:1/mcp"),
            r"`off` \(`http://127.0.0.1:1/mcp`\) did not start: ",
        ),
    ],
)
def test_a_server_that_does_not_start_is_named(
    server: McpServerConfig, message: str
) -> None:
    with pytest.raises(ToolError, match=message):
        McpServers.start([server], **PATIENCE)


def test_a_server_that_says_nothing_is_named() -> None:
    silent = McpServerConfig("mute", *SILENT)
    with pytest.raises(
        ToolError, match=r"`mute` did not answer `initialize` within 0\.5 s"
    ):
        McpServers.start([silent], start_seconds=0.5)


def test_an_odd_schema_is_offered_and_one_that_cannot_be_shown_is_left_out(
    stdio: McpServers,
) -> None:
    tools = tools_of(stdio)
    [left_out] = stdio.left_out

    assert tools["my_test_twice"].run('{"text": "aa"}') == "aa"
    assert "my_test_vast" not in tools
    assert left_out.startswith("`my_test_vast` is left out: its schema has ")
    with answering("<|channel|>final<|message|>Hi<|return|>") as runtime:
        chat = Chat(runtime, tools=[stdio])
        assert chat.unenforced == [
            "not enforced in `functions.my_test_twice`: `pattern` of `text`"
        ]


# Configuration


def write(folder: Path, given: Any) -> Path:
    path = folder / "mcp.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return path


def test_the_common_form_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    given = {
        "inputs": [],
        "mcpServers": {
            "files": {
                "command": "npx",
                "args": ["-y", "${HOME_OF_FILES:-/srv}"],
                "env": {"KEY": "${KEY}", "PORT": 80},
                "cwd": "/tmp",
                "autoApprove": ["read"],
            },
            "wiki": {
                "type": "streamable-http",
                "url": "https://w.example/mcp",
                "headers": {"Authorization": "Bearer ${env:KEY}"},
            },
            "plain": {"url": "http://127.0.0.1:9/mcp"},
            "off": {"command": "x", "disabled": True},
        },
    }
    assert read_servers(write(tmp_path, given)) == [
        McpServerConfig(
            "files", "npx", ("-y", "/srv"), {"KEY": "k", "PORT": "80"}, "/tmp"
        ),
        McpServerConfig(
            "wiki",
            url="https://w.example/mcp",
            headers={"Authorization": "Bearer k"},
        ),
        McpServerConfig("plain", url="http://127.0.0.1:9/mcp"),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "needs an object `mcpServers`"),
        ({"servers": {}}, "needs an object `mcpServers`"),
        ({"mcpServers": {"a": 1}}, "`a` needs an object with a `command` or a `url`"),
        ({"mcpServers": {"a": {}}}, "`a` needs a text for `url`"),
        ({"mcpServers": {"a": {"command": ""}}}, "`a` needs a text for `command`"),
        ({"mcpServers": {"a": {"command": "x", "args": "y"}}}, "must be a list of"),
        (
            {"mcpServers": {"a": {"command": "x", "env": {"K": []}}}},
            "be an object of strings",
        ),
        ({"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}, "has type `sse`"),
        ({"mcpServers": {"a": {"url": "ftp://x"}}}, "`ftp://x`, which is not an HTTP"),
        (
            {"mcpServers": {"a": {"command": "${NOT_SET_HERE}"}}},
            "MCP server `a`: the variable `NOT_SET_HERE` is not set",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(
    tmp_path: Path, given: Any, message: str
) -> None:
    with pytest.raises(ToolError) as caught:
        read_servers(write(tmp_path, given))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"in `.*/gone.json` cannot be read"):
        read_servers(tmp_path / "gone.json")


def test_without_the_library_an_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlx_gptoss.chat.tools.mcp.session", None)
    monkeypatch.delattr("mlx_gptoss.chat.tools.mcp.session", raising=False)
    with pytest.raises(ToolError, match=r"pip install 'mlx-gptoss\[mcp\]'"):
        McpServers.start([])
