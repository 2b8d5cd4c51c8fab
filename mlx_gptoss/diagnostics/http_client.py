"""HTTP client of the benchmarks and of `agents check`: JSON and server-sent events.

    client = HttpClient("http://127.0.0.1:8080", key=None)
    reply = client.post("/v1/chat/completions", {...})
    for event in client.stream("/v1/responses", {..., "stream": True}): ...

Standard library only, one connection per request. `http+unix://` followed by a path is
a Unix socket. Knows nothing of the payloads.
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

TIMEOUT_S = 600.0  # nothing is sent while a long prompt is prefilled
UNIX_SCHEME = "http+unix://"  # as in the ready file of `serve --uds`


class Unreachable(GptOssError):
    """No server answers at the URL."""


class Refused(GptOssError):
    """The server replied with an error status and a message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


@dataclass(frozen=True)
class ServerSentEvent:
    """One server-sent event; `data` is parsed JSON, or text that is not JSON."""

    name: str | None
    data: Any


@dataclass(frozen=True)
class HttpReply:
    """A complete reply of any status."""

    status: int
    body: bytes


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
    """A server at `url` (http://host:port or http+unix:///path).

    A connection that the server resets before it replies is tried `attempts` times:
    servers with a short queue do that under load.
    """

    url: str
    key: str | None = None
    timeout: float = TIMEOUT_S  # seconds without a byte
    attempts: int = 1

    @classmethod
    def from_ready_file(cls, path: Path) -> "HttpClient":
        """Return a client of the server that wrote this ready file.

        Raises Unreachable if there is no such file.
        """
        try:
            ready = json.loads(path.read_text(encoding="utf-8"))
            return cls(ready["url"], ready.get("token"))
        except OSError as error:
            raise Unreachable(
                f"`{path}`: {error.strerror}: start `mlx-gptoss serve --ready-file "
                f"{path}`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(f"`{path}` is not a ready file of `serve`") from error

    def get(self, path: str) -> Any:
        """Return the JSON at a path. Raises Refused for an error status."""
        with self._open("GET", path, None) as reply:
            return _parse_json(reply.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON and return the JSON reply. Raises Refused for an error status."""
        with self._open("POST", path, _encode(body)) as reply:
            return _parse_json(reply.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """Send JSON and yield the events of the reply as they arrive.

        Raises Refused for an error status, GptOssError for a reply that is no stream,
        and Unreachable for a stream that breaks off.
        """
        with self._open("POST", path, _encode(body)) as reply:
            kind = reply.getheader("content-type") or ""
            if not kind.startswith("text/event-stream"):
                raise GptOssError(f"{path} replied with `{kind}` instead of events")
            try:
                yield from parse_events(iter(reply.readline, b""))
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"{self.url} broke off a stream: {error}") from error

    def send(self, path: str, content: bytes | None) -> HttpReply:
        """POST bytes of JSON, or GET without any; return a reply of any status."""
        method = "GET" if content is None else "POST"
        with self._request(method, path, content) as reply:
            return HttpReply(reply.status, reply.read())

    def _open(
        self, method: str, path: str, content: bytes | None
    ) -> http.client.HTTPResponse:
        reply = self._request(method, path, content)
        if reply.status >= http.client.BAD_REQUEST:
            with reply:
                raise Refused(reply.status, _error_message(reply.read()))
        return reply

    def _request(
        self, method: str, path: str, content: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        for attempt in range(1, self.attempts + 1):
            connection = self._connect()
            try:
                connection.request(method, path, content, headers)
                reply = connection.getresponse()
                if connection.sock is not None:
                    # A server may keep it open: closed with the reply that reads it.
                    connection.sock.close()
                return reply
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, ConnectionResetError) and attempt < self.attempts:
                    continue
                raise Unreachable(
                    f"no server answers at {self.url} ({error}): start "
                    "`mlx-gptoss serve`"
                ) from error
        raise AssertionError(f"{self.attempts=}")

    def _connect(self) -> http.client.HTTPConnection:
        if self.url.startswith(UNIX_SCHEME):
            return UnixConnection(self.url.removeprefix(UNIX_SCHEME), self.timeout)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(f"`{self.url}` is not a URL like http://127.0.0.1:8080")
        kind = (
            http.client.HTTPSConnection
            if parts.scheme == "https"
            else http.client.HTTPConnection
        )
        return kind(parts.hostname, parts.port, timeout=self.timeout)


def _encode(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def parse_events(lines: Iterator[bytes]) -> Iterator[ServerSentEvent]:
    """Parse server-sent events from the lines of a body."""
    name, data = None, []
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerSentEvent(name, _json_or_text("\n".join(data)))
            name, data = None, []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # [DONE]


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise GptOssError(
            f"the server did not reply with JSON: {body[:80]!r}"
        ) from error


def _error_message(body: bytes) -> str:
    """Return the message of an error reply in one line, whatever server wrote it."""
    try:
        error = json.loads(body)["error"]
        found = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        found = body[:200].decode("utf-8", "replace")
    return " ".join(str(found).split())
