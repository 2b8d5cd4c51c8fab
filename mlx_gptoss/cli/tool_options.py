"""Options for tools, and for who approves their calls.

    --tools python,browser=notes --mcp mcp.json --approve ask --approve python=allow

Turns them into running tools. Tools start before the model is loaded, so that mistakes
show at once, and end with the conversation.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from mlx_gptoss.cli.terminal import CONTROL, note

if TYPE_CHECKING:
    from mlx_gptoss.chat.tools import Approval, ToolLike
    from mlx_gptoss.chat.tools.approval import AskUser
    from mlx_gptoss.chat.tools.browser import Browser
    from mlx_gptoss.chat.tools.mcp import McpServers

PYTHON, BROWSER = "python", "browser"
BETWEEN_TOOLS = re.compile(rf",(?={PYTHON}\b|{BROWSER}\b)")  # a path may have commas
POLICIES = ("ask", "allow", "deny")
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ToolOptions:
    """Values of the tool options."""

    tools: tuple[str, ...] = ()
    mcp: tuple[Path, ...] = ()
    approve: tuple[str, ...] = ()


@dataclass
class OpenTools:
    """Running tools, who approves their calls, and the browser if there is one."""

    tools: "list[ToolLike]"
    approval: "Approval"
    ask: "AskUser"
    browser: "Browser | None" = None


def takes_tools(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the tool options to a command, which receives `tool_options`."""

    @wraps(function)
    def wrapper(
        *args: Any,
        tools: tuple[str, ...],
        mcp: tuple[Path, ...],
        approve: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        return function(*args, tool_options=ToolOptions(tools, mcp, approve), **rest)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


OPTIONS = (
    click.option(
        "--tools",
        metavar="LIST",
        multiple=True,
        help="Built-in tools: `python` (sandboxed: no network, none of your files) and "
        "`browser[=FOLDER]` (local files [default: this folder]; with a "
        "configuration FILE.json or a URL with {query}, a search service)",
    ),
    click.option(
        "--mcp",
        metavar="CONFIG",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Tools of the MCP servers in a JSON file (`mcpServers`)",
    ),
    click.option(
        "--approve",
        metavar="[TOOL=]HOW",
        multiple=True,
        help="Before a call runs: ask, allow or deny; or for one tool, like "
        "`python=allow` or `files_*=deny` [default: ask, but browser=allow]",
    ),
)


@contextmanager
def open_tools(
    options: ToolOptions, *, offline: bool, ask: "AskUser"
) -> Iterator[OpenTools]:
    """Start the tools that `options` name; stop them when the `with` ends.

    `ask` decides about calls without another policy. `offline` refuses tools on other
    machines. Raises click.BadParameter for wrong options, and ToolError for a tool
    that cannot start.
    """
    found = OpenTools([], read_approval(options.approve, ask), ask)
    with ExitStack() as stack:
        for name, target in named_tools(options.tools):
            if name == PYTHON:
                from mlx_gptoss.chat.tools.notebook import Notebook

                found.tools.append(stack.enter_context(Notebook()))
            else:
                found.browser = open_browser_tool(target, offline=offline)
                found.tools.append(found.browser)
        for _, started in start_mcp(options.mcp, stack, offline=offline):
            found.tools.append(started)
        yield found


def start_mcp(
    paths: Sequence[Path], stack: ExitStack, *, offline: bool
) -> "list[tuple[str, McpServers]]":
    """Start the MCP servers in these files, together; `stack` stops them.

    Returns them under the names of the servers, joined.
    """
    if not paths:
        return []
    from mlx_gptoss.chat.tools.mcp import McpServers, read_servers

    servers = [one for path in paths for one in read_servers(path)]
    for one in servers:
        _check_network(one.url, "--mcp", offline=offline)
    started = stack.enter_context(McpServers.start(servers))
    for line in started.left_out:
        note(f"({line})")
    return [(", ".join(one.name for one in servers) or "mcp", started)]


def read_approval(given: tuple[str, ...], ask: "AskUser") -> "Approval":
    """Parse the values of `--approve`; later ones win."""
    from mlx_gptoss.chat.tools import Approval

    policy: Any = None
    by_tool: dict[str, Any] = {}
    for one in given:
        tool, _, how = one.rpartition("=")
        if how not in POLICIES:
            raise click.BadParameter(
                f"`{one}` is not [TOOL=]HOW, where HOW is {', '.join(POLICIES)}",
                param_hint="--approve",
            )
        if tool:
            by_tool = {tool: how} | {k: v for k, v in by_tool.items() if k != tool}
        else:
            policy = how
    if policy is None:
        by_tool.setdefault(BROWSER, "allow")  # it only reads what the user named
    return Approval(policy or "ask", by_tool, ask=ask)


def show_sources(browser: "Browser | None", answer: str) -> None:
    """List the sources that an answer cites, on stderr."""
    if browser is None:
        return
    sources = {answer[one.start : one.end]: one for one in browser.citations(answer)}
    for mark, one in sources.items():
        note(f"{mark} {CONTROL.sub('', one.address or one.title)}")


def named_tools(given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split the lists into names and the values after `=`."""
    found: list[tuple[str, str]] = []
    for one in [part for text in given for part in BETWEEN_TOOLS.split(text)]:
        name, _, target = one.strip().partition("=")
        if name not in (PYTHON, BROWSER) or (name == PYTHON and target):
            raise click.BadParameter(
                f"there is no tool `{one}`: use python, browser or browser=FOLDER",
                param_hint="--tools",
            )
        if name in [known for known, _ in found]:
            raise click.BadParameter(
                f"`{name}` is named twice (several folders: browser=A:B)",
                param_hint="--tools",
            )
        found.append((name, target))
    return found


def open_browser_tool(target: str, *, offline: bool) -> "Browser":
    """Open the `browser` tool of a folder, a configuration or a URL."""
    from mlx_gptoss.chat.tools.browser import Browser, Folders, SearchService

    is_url = target.startswith(("http://", "https://"))
    if is_url or (target.endswith(".json") and Path(target).is_file()):
        service = SearchService(target) if is_url else SearchService.read(target)
        for url in (service.search_url, service.open_url):
            _check_network(url, "--tools", offline=offline)
        return Browser(service)
    return Browser(Folders(*(target or ".").split(os.pathsep)))


def _check_network(url: str | None, option: str, *, offline: bool) -> None:
    """Refuse an address on another machine, if `offline`: else the user named it."""
    if offline and url is not None and urlsplit(url).hostname not in THIS_MACHINE:
        raise click.BadParameter(
            f"`{url}` is on the network, which --offline forbids", param_hint=option
        )
