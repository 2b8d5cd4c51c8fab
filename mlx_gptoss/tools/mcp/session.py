"""One connection to an MCP server, from its start to its end; runs in a loop.

What the library and a server may raise becomes a ToolError that says which server
it was. Importing this takes a second: the library is large.
"""

import asyncio
import logging
import tempfile
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TextIO

import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ContentBlock
from mcp.types import Tool as RemoteTool

from mlx_gptoss.errors import ToolError
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.tools.mcp.config import Server

HTTP_SECONDS = httpx2.Timeout(30.0, read=300.0)  # a stream may be silent for long
LAST_WORDS = 2000  # characters of a server's stderr that are looked at

# Without a handler of the application's, its tracebacks would go to stderr.
logging.getLogger("mcp").addHandler(logging.NullHandler())


@dataclass
class Connection:
    """A server that runs, what it offers, and the task that holds it."""

    server: Server
    client: Client
    tools: list[RemoteTool]
    task: "asyncio.Task[Any] | None"
    ended: asyncio.Event  # set it, and the connection is closed


async def serve(server: Server, ready: "Future[Connection]") -> None:
    """Connect, tell `ready`, stay until `ended`; one task from start to end."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            async with AsyncExitStack() as stack:
                client = await _connected(server, stack, log)
                tools = await _all_tools(client)
                task, ended = asyncio.current_task(), asyncio.Event()
                ready.set_result(Connection(server, client, tools, task, ended))
                await ended.wait()
        except Exception as error:  # groups of errors, of several libraries
            if not ready.done():
                ready.set_exception(ToolError(_not_started(server, error, log)))


async def call(
    connection: Connection, name: str, arguments: dict[str, Any], seconds: float
) -> str:
    """Call a remote tool; raises ToolError with what the model should know."""
    where = f"MCP server `{connection.server.name}`"
    try:
        async with asyncio.timeout(seconds):
            result = await connection.client.call_tool(name, arguments)
    except TimeoutError as error:
        raise ToolError(f"{where} gave no result within {seconds:g} s") from error
    except Exception as error:  # of several libraries; the server's fault or its end
        raise ToolError(f"{where} failed: {_reason(error)}") from error
    text = _result_text(result)
    if result.is_error:
        raise ToolError(text or f"{where} failed and did not say why")
    return text


async def _connected(server: Server, stack: AsyncExitStack, log: TextIO) -> Client:
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
        )
        transport = stdio_client(parameters, errlog=log)
    return await stack.enter_async_context(Client(transport))


async def _all_tools(client: Client) -> list[RemoteTool]:
    tools: list[RemoteTool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            return tools


def _result_text(result: CallToolResult) -> str:
    """Write a result as text; what is no text is named."""
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


def _reason(error: BaseException) -> str:
    """The first cause in a group of errors, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line = str(error).split("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _not_started(server: Server, error: Exception, log: TextIO) -> str:
    log.seek(0)
    words = [line.strip() for line in log.read()[-LAST_WORDS:].split("\n")]
    last = next((f"; it said: {line}" for line in reversed(words) if line), "")
    start = server.url or server.command
    return (
        f"MCP server `{server.name}` (`{start}`) did not start: {_reason(error)}{last}"
    )
