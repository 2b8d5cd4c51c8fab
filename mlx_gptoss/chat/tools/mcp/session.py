"""One connection to an MCP server, from start to end, in an event loop.

Errors of the library and the server become a ToolError that names the server. Importing
this takes a second: the library is large.
"""

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TextIO

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    CallToolResult,
    ContentBlock,
)
from mcp.types import Tool as RemoteTool
from pydantic import ValidationError

from mlx_gptoss.chat.tools.mcp.config import McpServerConfig
from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.json_text import json_text

HTTP_SECONDS = httpx2.Timeout(30.0, read=300.0)  # streams may be silent for long
STDERR_TAIL_CHARACTERS = 2000  # searched for its last line
INVALID_LINE_CHARACTERS = 80  # shown of an invalid line
MAX_LISTED = 10_000  # tools of one server: stops an endless list
INITIALIZE, LIST_TOOLS = "initialize", "tools/list"

# Without a handler, its tracebacks would go to stderr.
logging.getLogger("mcp").addHandler(logging.NullHandler())


@dataclass
class ConnectionTrace:
    """The unanswered request of a starting server, and its last invalid line."""

    waiting_for: str = INITIALIZE
    invalid_line: str | None = None

    async def record(self, message: Any) -> None:
        """Keep an invalid line, which the library passes to its message handler."""
        if isinstance(message, ValidationError):
            line = str(message.errors()[0]["input"])
            self.invalid_line = "".join(filter(str.isprintable, line))[
                :INVALID_LINE_CHARACTERS
            ]

    def hint(self) -> str:
        """Return the end of the message of a timeout."""
        if not self.invalid_line:
            return ""
        return f"; it wrote a line that is not JSON-RPC: {self.invalid_line}"


@dataclass
class McpConnection:
    """A running server, its tools, and the task that holds its connection."""

    server: McpServerConfig
    client: Client
    tools: list[RemoteTool]
    trace: ConnectionTrace
    task: "asyncio.Task[Any] | None"
    closing: asyncio.Event  # set it to close the connection


async def serve(
    server: McpServerConfig, ready: "Future[McpConnection]", wire: ConnectionTrace
) -> None:
    """Connect, resolve `ready`, and stay until `closing` is set: in one task."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            async with AsyncExitStack() as stack:
                client = await _connect(server, stack, log, wire)
                wire.waiting_for = LIST_TOOLS
                tools = await _list_tools(client, server)
                task, ended = asyncio.current_task(), asyncio.Event()
                ready.set_result(
                    McpConnection(server, client, tools, wire, task, ended)
                )
                await ended.wait()
        except Exception as error:  # also groups, of several libraries
            if not ready.done():
                ready.set_exception(_start_error(server, error, log))


async def call_tool(
    connection: McpConnection, name: str, arguments: dict[str, Any], seconds: float
) -> str:
    """Call a remote tool; raises ToolError with a text for the model."""
    where = f"MCP server `{connection.server.name}`"
    try:
        async with asyncio.timeout(seconds):
            result = await connection.client.call_tool(name, arguments)
    except TimeoutError as error:
        hint = connection.trace.hint()
        raise ToolError(f"{where} gave no result within {seconds:g} s{hint}") from error
    except MCPError as error:  # the model reads all of it
        raise ToolError(f"{where} failed: {error.message}") from error
    except Exception as error:  # of several libraries
        raise ToolError(f"{where} failed: {_reason(error)}") from error
    text = _result_text(result)
    if result.is_error:
        raise ToolError(text or f"{where} failed and gave no reason")
    return text


async def _connect(
    server: McpServerConfig, stack: AsyncExitStack, log: TextIO, wire: ConnectionTrace
) -> Client:
    """Connect with `initialize`, or with `server/discover` where that is refused.

    Protocols up to 2025-11-25 begin with `initialize`, later ones with
    `server/discover`. Later servers answer both, or refuse `initialize` with an error;
    earlier servers may exit on `server/discover` (Rust's rmcp 1.7) or ignore it (the
    library then waits ten seconds). Therefore `initialize` is sent first.
    """
    try:
        return await _open_client(server, stack, log, wire, mode="legacy")
    except (MCPError, ExceptionGroup) as error:
        cause = _cause(error)
        if not isinstance(cause, MCPError) or cause.code == CONNECTION_CLOSED:
            raise
        return await _open_client(server, stack, log, wire, mode="auto")


async def _open_client(
    server: McpServerConfig,
    stack: AsyncExitStack,
    log: TextIO,
    wire: ConnectionTrace,
    *,
    mode: str,
) -> Client:
    """Start the server, or connect to its URL, and negotiate a protocol."""
    if server.url is not None:
        http = httpx2.AsyncClient(headers=dict(server.headers), timeout=HTTP_SECONDS)
        await stack.enter_async_context(http)
        transport = streamable_http_client(server.url, http_client=http)
    else:
        assert server.command is not None
        parameters = StdioServerParameters(
            command=server.command,
            args=list(server.args),
            env=dict(server.env),
            cwd=server.cwd,
            encoding_error_handler="replace",  # not to end at an invalid byte
        )
        transport = stdio_client(parameters, errlog=log)
    client = Client(transport, mode=mode, message_handler=wire.record)
    return await stack.enter_async_context(client)


async def _list_tools(client: Client, server: McpServerConfig) -> list[RemoteTool]:
    """List the tools that the configuration includes, page by page.

    A server with prompts or resources only may not know the request: it has no tools.
    """
    tools: list[RemoteTool] = []
    cursor: str | None = None
    while True:
        try:
            page = await client.list_tools(cursor=cursor)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND:
                return []
            raise
        tools += page.tools
        if len(tools) > MAX_LISTED:
            raise ToolError(
                f"MCP server `{server.name}` lists more than {MAX_LISTED:,} tools"
            )
        cursor = page.next_cursor
        if not cursor:
            return [tool for tool in tools if server.wants(tool.name)]


def _result_text(result: CallToolResult) -> str:
    """Convert a result to text; other content is named."""
    parts = [_block_text(block) for block in result.content]
    if not parts and result.structured_content is not None:
        return json_text(result.structured_content)
    return "\n".join(parts)


def _block_text(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text or f"[{block.resource.uri}: cannot be shown here]"
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    return f"[{block.mime_type}: cannot be shown here]"


def _cause(error: BaseException) -> BaseException:
    """Return the first error of a group, recursively."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException) -> str:
    """Return the error in one line."""
    error = _cause(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place, given = ".".join(map(str, first["loc"])), first["input"]
        name = given.get("name") if isinstance(given, Mapping) else None
        whose = f" of `{name}`" if isinstance(name, str) else ""
        return f"it sent an invalid reply: `{place}`{whose}: {first['msg']}"
    if isinstance(error, MCPError):
        return error.message.split("\n")[0]
    line = str(error).split("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _start_error(server: McpServerConfig, error: Exception, log: TextIO) -> ToolError:
    cause = _cause(error)
    if isinstance(cause, ToolError):
        return cause
    log.seek(0)
    lines = [line.strip() for line in log.read()[-STDERR_TAIL_CHARACTERS:].split("\n")]
    last = next((f"; it said: {line}" for line in reversed(lines) if line), "")
    start = server.url or server.command
    return ToolError(
        f"MCP server `{server.name}` (`{start}`) did not start: {_reason(error)}{last}"
    )
