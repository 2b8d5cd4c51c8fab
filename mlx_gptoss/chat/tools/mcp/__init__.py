"""Tools of MCP servers, over stdio and streamable HTTP (library: `mcp`).

    with McpServers.start(read_servers("mcp.json")) as servers:
        chat = Chat(runtime, tools=[servers])

The servers start and end with the `with`. A tool is offered as SERVER_TOOL. Whatever
a server does later (it dies, hangs, fails) is an error told to the model. Needs the
extra `mlx-gptoss[mcp]`. The library is asynchronous: its loop runs in a thread here.

config.py    which servers there are; session.py one connection, in the loop
"""

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from itertools import count
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlx_gptoss.chat.tools.mcp.config import McpServerConfig, read_servers
from mlx_gptoss.chat.tools.tool import Tool, schema_problem
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.messages import ToolDescription

if TYPE_CHECKING:
    from mcp.types import Tool as RemoteTool

    from mlx_gptoss.chat.tools.mcp.session import ConnectionTrace, McpConnection

__all__ = ["McpServerConfig", "McpServers", "read_servers"]

START_SECONDS = 60.0  # `npx` may have to download what it starts
CALL_SECONDS = 120.0
END_SECONDS = 15.0  # the library waits, then terminates, then kills
MAX_TOOLS = 256  # of all servers together; each is read with every new prompt
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class McpServers:
    """Servers that run, and their tools; give it to a Chat, and close it."""

    def __init__(self, *, call_seconds: float = CALL_SECONDS) -> None:
        self._session = _import_session()
        self._call_seconds = call_seconds
        self._connections: list[McpConnection] = []
        self._tools: list[Tool] = []
        self._left_out: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, daemon=True, name="MCP servers"
        )
        self._thread.start()

    @classmethod
    def start(
        cls,
        servers: Iterable[McpServerConfig],
        *,
        start_seconds: float = START_SECONDS,
        call_seconds: float = CALL_SECONDS,
    ) -> Self:
        """Start the servers, all at once.

        Raises ToolError, which names it, for one that does not start, does not
        answer in time, or offers more tools than a prompt should hold.
        """
        started = cls(call_seconds=call_seconds)
        try:
            started._connect(list(servers), start_seconds)
        except BaseException:
            started.close()
            raise
        return started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def tools(self) -> Sequence[Tool]:
        return self._tools

    @property
    def left_out(self) -> Sequence[str]:
        """The tools that cannot be offered, each with the reason, in a line."""
        return self._left_out

    def reset(self) -> None:
        """Nothing of a conversation is kept here."""

    def close(self) -> None:
        """End the servers that were started, and the thread."""
        if not self._thread.is_alive():
            return
        self._submit(self._close_all()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _connect(self, servers: Sequence[McpServerConfig], seconds: float) -> None:
        waiting: list[
            tuple[McpServerConfig, Future[McpConnection], ConnectionTrace]
        ] = [(server, Future(), self._session.ConnectionTrace()) for server in servers]
        for server, ready, wire in waiting:
            self._submit(self._start_task(server, ready, wire)).result()
        starts = [ready for _, ready, _ in waiting]
        done, late = wait(starts, seconds, return_when=FIRST_EXCEPTION)
        for ready in done:  # one that failed is named before any that is only slow
            ready.result()
        for server, ready, wire in waiting:
            if ready in late:
                raise ToolError(
                    f"MCP server `{server.name}` did not answer `{wire.waiting_for}` "
                    f"within {seconds:g} s{wire.hint()}"
                )
            self._connections.append(ready.result())
        check_tool_count(self._connections)
        for connection, remote, name in assign_names(self._connections):
            tool = self._tool(connection, remote, name)
            if reason := schema_problem(tool.description):
                self._left_out.append(f"`{tool.name}` is left out: {reason}")
            else:
                self._tools.append(tool)

    async def _start_task(
        self,
        server: McpServerConfig,
        ready: "Future[McpConnection]",
        wire: "ConnectionTrace",
    ) -> None:
        serving = self._session.serve(server, ready, wire)
        self._tasks.append(asyncio.create_task(serving))

    async def _close_all(self) -> None:
        connected = {connection.task for connection in self._connections}
        for connection in self._connections:
            connection.closing.set()
        for task in self._tasks:
            if task not in connected:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _tool(
        self, connection: "McpConnection", remote: "RemoteTool", name: str
    ) -> Tool:
        server = connection.server

        def submit(arguments: dict[str, Any]) -> "Future[str]":
            if not self._thread.is_alive():
                raise ToolError(f"MCP server `{server.name}` was ended")
            return self._submit(
                self._session.call_tool(
                    connection, remote.name, arguments, self._call_seconds
                )
            )

        calls = RemoteCalls(submit)
        text = remote.description or remote.title or ""
        return Tool(
            ToolDescription(name, text, remote.input_schema or {}),
            calls.run,
            limits_itself=True,
            interrupt=calls.interrupt,
        )


class RemoteCalls:
    """Runs the calls of one tool; the one under way can be ended from outside."""

    def __init__(self, submit: "Callable[[dict[str, Any]], Future[str]]") -> None:
        self._submit = submit
        self._running: Future[str] | None = None

    def run(self, /, **arguments: Any) -> str:
        self._running = self._submit(arguments)
        try:
            return self._running.result()
        finally:
            self._running = None

    def interrupt(self) -> None:
        running = self._running
        if running is not None:
            running.cancel()


def assign_names(
    connections: "Iterable[McpConnection]",
) -> "Iterator[tuple[McpConnection, RemoteTool, str]]":
    """Name each tool SERVER_TOOL, and number a name that another tool has already.

    Servers may differ from each other, and tools, in characters that names cannot have.
    A tool that its server lists twice is one tool.
    """
    taken: set[str] = set()
    for connection in connections:
        for remote in {tool.name: tool for tool in connection.tools}.values():
            whole = NOT_IN_NAMES.sub("_", f"{connection.server.name}_{remote.name}")
            numbers = count(2)
            name = whole
            while name in taken:
                name = f"{whole}_{next(numbers)}"
            taken.add(name)
            yield connection, remote, name


def check_tool_count(connections: "Sequence[McpConnection]") -> None:
    """Raise ToolError if the servers offer more tools than a prompt should hold."""
    if sum(len(one.tools) for one in connections) > MAX_TOOLS:
        counts = ", ".join(
            f"`{one.server.name}` {len(one.tools):,}" for one in connections
        )
        raise ToolError(
            f"MCP servers offer more than {MAX_TOOLS} tools ({counts}): name those you "
            "need in `includeTools` of a server's entry, like "
            '["read_*"], or disable a server'
        )


def _import_session() -> ModuleType:
    try:
        from mlx_gptoss.chat.tools.mcp import session  # noqa: PLC0415 - an extra, and slow
    except ImportError as error:
        raise ToolError(
            "MCP servers need the `mcp` library: `pip install 'mlx-gptoss[mcp]'`"
        ) from error
    return session
