"""Read the `mcpServers` file of MCP servers, which other programs use as well.

    {"mcpServers": {
      "files": {"command": "npx", "args": ["-y", "..."], "env": {"KEY": "${KEY}"},
                "includeTools": ["read_*"], "excludeTools": ["read_secret"]},
      "wiki": {"url": "https://example.com/mcp", "headers": {"Authorization": "..."}}}}

Text in, data out: starts nothing. Keys of other programs are ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlx_gptoss.chat.tools.variables import expand_variables
from mlx_gptoss.errors import ToolError

HTTP_TYPES = ("http", "streamable-http", "streamableHttp", "streamable_http")
TYPES = ("stdio", *HTTP_TYPES)


@dataclass(frozen=True)
class McpServerConfig:
    """A server: a `command` to start, or the `url` of a running one.

    `include` and `exclude` are names of tools, or patterns like `read_*`; `include`
    None includes all.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def wants(self, tool: str) -> bool:
        """Return whether a tool of this server is to be offered."""
        taken = self.include is None or _matches(tool, self.include)
        return taken and not _matches(tool, self.exclude)


def read_servers(path: str | Path) -> list[McpServerConfig]:
    """Read a configuration file; raises ToolError if it is invalid."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ToolError(
            f"the MCP servers in `{path}` cannot be read: {error}"
        ) from error
    if not isinstance(given, dict) or not isinstance(given.get("mcpServers"), dict):
        raise ToolError(f"`{path}` needs an object `mcpServers`, with servers by name")
    entries = given["mcpServers"].items()
    return [
        parse_server(name, entry)
        for name, entry in entries
        if not (isinstance(entry, dict) and entry.get("disabled"))
    ]


def parse_server(name: str, entry: Any) -> McpServerConfig:
    """Parse the settings of one server."""
    where = f"MCP server `{name}`"
    if not isinstance(entry, dict):
        raise ToolError(f"{where} needs an object with a `command` or a `url`")
    entry = expand_variables(entry, where)
    include = (
        _string_list(entry, "includeTools", where) if "includeTools" in entry else None
    )
    exclude = _string_list(entry, "excludeTools", where)
    kind = entry.get("type", TYPES[0] if "command" in entry else HTTP_TYPES[0])
    if kind not in TYPES:
        raise ToolError(
            f"{where} has type `{kind}`: use `stdio` or `http` (streamable HTTP)"
        )
    if kind in HTTP_TYPES:
        url = _string(entry, "url", where)
        if urlsplit(url).scheme not in ("http", "https"):
            raise ToolError(f"{where} has url `{url}`, which is not an HTTP address")
        headers = _strings(entry, "headers", where)
        return McpServerConfig(
            name, url=url, headers=headers, include=include, exclude=exclude
        )
    return McpServerConfig(
        name,
        command=_string(entry, "command", where),
        args=_string_list(entry, "args", where),
        env=_strings(entry, "env", where),
        cwd=_string(entry, "cwd", where) if "cwd" in entry else None,
        include=include,
        exclude=exclude,
    )


def _matches(tool: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(tool, pattern) for pattern in patterns)


def _string_list(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ToolError(f"{where}: `{key}` must be a list of strings")
    return tuple(value)


def _string(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ToolError(f"{where} needs a text for `{key}`")
    return value


def _strings(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = entry.get(key, {})
    if not isinstance(value, dict) or not all(map(_is_plain, value.values())):
        raise ToolError(f"{where}: `{key}` must be an object of strings")
    return {name: str(one) for name, one in value.items()}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
