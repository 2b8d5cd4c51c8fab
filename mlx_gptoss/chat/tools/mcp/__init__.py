"""Tools of MCP servers, over stdio and streamable HTTP (with the library `mcp`).

    with McpServers.start(read_servers("mcp.json")) as servers:
        chat = Chat(runtime, tools=[servers])

The servers start and end with the `with`. A tool is offered as SERVER_TOOL. Later
failures of a server (it ends, hangs, or returns an error) are errors for the model to
read. Needs the extra `mlx-gptoss[mcp]`. The library is asynchronous: its event loop
runs in a thread of its own.

config.py   the servers of a configuration file
session.py  one connection, in the event loop
naming.py   names of the tools, and how many there may be
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlx_gptoss.chat.tools.mcp.config import McpServerConfig, read_servers
from mlx_gptoss.chat.tools.mcp.naming import assign_names, check_tool_count
from mlx_gptoss.chat.tools.tool import Tool, schema_problem
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.messages import ToolDescription

if TYPE_CHECKING:
    from mcp.types import Tool as RemoteTool

    from mlx_gptoss.chat.tools.mcp.session import ConnectionTrace, McpConnection

__all__ = ["McpServerConfig", "McpServers", "read_servers"]

START_SECONDS = 60.0  # `npx` may download the server first
CALL_SECONDS = 120.0
END_SECONDS = 15.0  # the library terminates, then kills


class McpServers:
    """Running servers: pass it to a Chat among its tools, and close it."""

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
        """Start the servers concurrently.

        Raises ToolError for a server that does not start or does not answer in time,
        and for more tools than a prompt should hold.
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
        """The tools of all servers."""
        return self._tools

    @property
    def left_out(self) -> Sequence[str]:
        """The tools that cannot be offered: a line each, with the reason."""
        return self._left_out

    def reset(self) -> None:
        """Do nothing: no state belongs to a conversation."""

    def close(self) -> None:
        """End the servers and the thread."""
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
        for ready in done:  # report a failed server before a slow one
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
                raise ToolError(f"MCP server `{server.name}` has ended")
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
    """The calls of one tool; the one in progress can be interrupted."""

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


def _import_session() -> ModuleType:
    try:
        from mlx_gptoss.chat.tools.mcp import session  # noqa: PLC0415 - an extra, and slow
    except ImportError as error:
        raise ToolError(
            "MCP servers need the `mcp` library: `pip install 'mlx-gptoss[mcp]'`"
        ) from error
    return session
