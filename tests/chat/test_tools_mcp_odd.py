"""MCP servers of every protocol version, and servers that break the protocol."""

import os
import sys
import sysconfig
import time
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from mlx_gptoss.chat.tools.mcp import McpServerConfig, McpServers
from mlx_gptoss.chat.tools.mcp.config import parse_server
from mlx_gptoss.errors import ToolError

HERE = Path(__file__).parents[1] / "support"
ODD = str(HERE / "odd_mcp_server.py")
RUST = Path(sysconfig.get_path("scripts")) / "cnb-rs-mcp"
OLD_LIBRARY = Path(os.environ.get("MLX_GPTOSS_MCP_1", ""))
PATIENCE = 120.0  # seconds, for a busy machine
LIBRARY_WAIT = 10.0  # seconds the library waits for an answer to `server/discover`


def odd(way: str) -> McpServerConfig:
    return McpServerConfig("odd", command=sys.executable, args=(ODD, way))


def started(server: McpServerConfig, seconds: float = PATIENCE) -> McpServers:
    return McpServers.start([server], start_seconds=seconds)


@pytest.mark.parametrize("way", ["ignores-discover", "ends-on-discover", "banner"])
def test_a_server_of_the_first_era_starts_at_once(way: str) -> None:
    began = time.monotonic()
    with started(odd(way)) as servers:
        took = time.monotonic() - began
        [look] = servers.tools
        assert look.run("{}") == "seen"
    assert took < LIBRARY_WAIT


def test_a_server_that_knows_only_the_second_era_starts() -> None:
    with started(odd("modern")) as servers:
        [look] = servers.tools
        assert look.run("{}") == "seen"


@pytest.mark.skipif(not RUST.exists(), reason="`pip install cnb-rs-mcp==1.3.0` first")
def test_a_server_made_with_rust_s_library_starts() -> None:
    with started(
        McpServerConfig("cnb", command=str(RUST), env={"CNB_TOKEN": "none"})
    ) as servers:
        assert "cnb_cnb_add_issue_labels" in [tool.name for tool in servers.tools]


@pytest.mark.skipif(
    not (OLD_LIBRARY / "mcp").is_dir(), reason="$MLX_GPTOSS_MCP_1 is no folder of mcp 1"
)
def test_a_server_made_with_the_first_library_is_called() -> None:
    script = str(HERE / "mcp_server_1.py")
    server = McpServerConfig(
        "old", sys.executable, (script,), {"PYTHONPATH": str(OLD_LIBRARY)}
    )
    with started(server) as servers:
        [add] = servers.tools
        assert add.run('{"a": 2, "b": 3}') == "5"


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("broken", r"`odd` \(.*\) did not start: it sent an invalid reply: `"),
        ("no-schema", r"`tools\.0\.inputSchema` of `peek`: Field required"),
        ("refuses", r"`odd` \(.*\) did not start: no licence$"),
        ("endless", r"`odd` lists more than 10,000 tools$"),
        ("many", r"more than 256 tools \(`odd` 5,000\): name those you need in `incl"),
    ],
)
def test_what_is_wrong_with_a_server_is_named(way: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        started(odd(way))


def test_a_server_that_fails_is_named_before_one_that_is_slow() -> None:
    slow = McpServerConfig("slow", command=sys.executable, args=(ODD, "no-list"))
    with pytest.raises(ToolError, match=r"`odd` .* did not start: no licence"):
        McpServers.start([slow, odd("refuses")], start_seconds=5.0)


def test_a_server_without_the_request_for_tools_has_none() -> None:
    with started(odd("prompts-only")) as servers:
        assert servers.tools == []


def test_tools_with_names_that_look_alike_are_numbered_and_each_is_called() -> None:
    with started(odd("alike")) as servers:
        said = {tool.name: tool.run("{}") for tool in servers.tools}
    assert said == {"odd_a_b": "a.b", "odd_a_b_2": "a_b", "odd_a_b_3": "a b"}


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("latin-call", "caf\ufffd"),
        ("refuses-call", "Error: MCP server `odd` failed: wrong:\n- `a` is missing"),
    ],
)
def test_what_a_call_gives_reaches_the_model_whole(way: str, said: str) -> None:
    with McpServers.start(
        [odd(way)], start_seconds=PATIENCE, call_seconds=5.0
    ) as servers:
        assert [servers.tools[0].run("{}") for _ in range(2)] == [said, said]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("no-list", r"`odd` did not answer `tools/list` within 2 s$"),
        (
            "only-banner",
            r"`initialize` within 2 s; it wrote a line that is not JSON-RP"
            r"C: Welcome to odd!$",
        ),
    ],
)
def test_a_server_that_does_not_answer_is_given_up_by_name(
    way: str, message: str
) -> None:
    with pytest.raises(ToolError, match=message):
        started(odd(way), 2.0)


def test_a_broken_result_is_told_to_the_model() -> None:
    with started(odd("broken-call")) as servers:
        said = servers.tools[0].run("{}")
    assert said.startswith(
        "Error: MCP server `odd` failed: it sent an invalid reply: `"
    )


def test_a_call_that_is_given_up_names_what_came_instead_of_a_result() -> None:
    with McpServers.start(
        [odd("noisy-call")], start_seconds=PATIENCE, call_seconds=1.0
    ) as servers:
        said = servers.tools[0].run("{}")
    assert said == (
        "Error: MCP server `odd` gave no result within 1 s; "
        "it wrote a line that is not JSON-RPC: looking ..."
    )


@pytest.mark.parametrize(
    ("lists", "offered"),
    [
        ({"includeTools": ["look_4999", "look_1?"]}, 11),
        ({"includeTools": ["look_1*"], "excludeTools": ["look_1?*"]}, 1),
        ({"excludeTools": ["look_*0", "look_*[1-9]"]}, 0),
    ],
)
def test_a_configuration_chooses_among_tools(
    lists: dict[str, list[str]], offered: int
) -> None:
    entry = {"command": sys.executable, "args": [ODD, "many"], **lists}
    with started(parse_server("odd", entry)) as servers:
        assert len(servers.tools) == offered
