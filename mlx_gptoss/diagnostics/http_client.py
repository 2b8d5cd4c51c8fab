"""HTTP as agents and editors speak it to a server: JSON, and events as they come.

    client = Client("http://127.0.0.1:8080", key=None)
    reply = client.post("/v1/chat/completions", {...})
    for event in client.stream("/v1/responses", {..., "stream": True}): ...

The standard library only; `http+unix://` and a path is a Unix socket. Knows nothing of
what is said.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlx_gptoss.errors import GptOssError

TIMEOUT_S = 600.0  # a long prompt is read in silence
UNIX_SCHEME = "http+unix://"  # as the ready file of `serve --uds` says it


class Unreachable(GptOssError):
    """No server answers at the URL."""


class Refused(GptOssError):
    """The server answered with an error: `status` and its own words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


@dataclass(frozen=True)
class ServerSentEvent:
    """One server-sent event; `data` is its JSON, or the text that is none."""

    name: str | None
    data: Any


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class HttpClient:
    """A server at `url` (http://host:port or http+unix:///path)."""

    url: str
    key: str | None = None
    seconds: float = TIMEOUT_S

    @classmethod
    def from_ready_file(cls, path: Path) -> "HttpClient":
        """Open the server that wrote a ready file (`serve --ready-file PATH`)."""
        try:
            ready = json.loads(path.read_text(encoding="utf-8"))
            return cls(ready["url"], ready.get("token"))
        except OSError as error:
            raise Unreachable(
                f"`{path}`: {error.strerror}: start `mlx-gptoss serve --ready-file "
                f"{path}`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(f"`{path}` is no ready file of `serve`") from error

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        with self._open("GET", path, None) as answer:
            return _json(answer.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON; return the JSON of the answer. Raises Refused for an error."""
        with self._open("POST", path, body) as answer:
            return _json(answer.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """Send JSON and yield the events of the answer as they come."""
        with self._open("POST", path, body) as answer:
            kind = answer.getheader("content-type") or ""
            if not kind.startswith("text/event-stream"):
                raise GptOssError(f"{path} answered with `{kind}`, not with events")
            yield from parse_events(iter(answer.readline, b""))

    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        content = None if body is None else json.dumps(body)
        connection = self._connection()
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(
                f"no server answers at {self.url} ({error}): start `mlx-gptoss serve`"
            ) from error
        if answer.status >= 400:
            with answer:
                raise Refused(answer.status, _complaint(answer.read()))
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        if self.url.startswith(UNIX_SCHEME):
            return UnixConnection(self.url.removeprefix(UNIX_SCHEME), self.seconds)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(f"`{self.url}` is no URL like http://127.0.0.1:8080")
        kind = (
            http.client.HTTPSConnection
            if parts.scheme == "https"
            else http.client.HTTPConnection
        )
        return kind(parts.hostname, parts.port, timeout=self.seconds)


def parse_events(lines: Iterator[bytes]) -> Iterator[ServerSentEvent]:
    """Read server-sent events from the lines of a body."""
    name, data = None, []
    for raw in lines:
        line = raw.decode("utf-8").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerSentEvent(name, _loose("\n".join(data)))
            name, data = None, []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _loose(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # [DONE]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise GptOssError(f"the server answered with no JSON: {body[:80]!r}") from error


def _complaint(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
