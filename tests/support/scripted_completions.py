"""A small server with OpenAI's API whose streams are scripted byte for byte.

    with ScriptedCompletions(Script(chunks=[event("Hi"), DONE])) as server:
        server.url, server.requests

Loopback only. Chunks are sent one by one, split wherever the script splits them.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

DONE = b"data: [DONE]\n\n"
EVENTS, JSON = "text/event-stream", "application/json"


def event(text: str | None = None, *, chat: bool = False, **more: Any) -> bytes:
    """Return an event of a completion with some text."""
    spoken = {"delta": {"content": text}} if chat else {"text": text}
    choices = [] if text is None else [{"index": 0, "finish_reason": None, **spoken}]
    return f"data: {json.dumps({'choices': choices, **more})}\n\n".encode()


def last_event(reason: str = "length") -> bytes:
    """Return an event with a finish reason and no text."""
    choice = {"index": 0, "text": "", "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def usage(prompt: int, completion: int, **more: Any) -> bytes:
    """Return the event with the numbers of tokens."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return event(usage=counts)


@dataclass(frozen=True)
class Script:
    """Replies: to `/v1/models`, and to every completion."""

    chunks: Sequence[bytes] = ()
    status: int = 200
    kind: str = EVENTS
    models: Sequence[str] | None = ("a",)
    stays_open: bool = False  # after the last chunk


class ScriptedCompletions:
    """The server, as a context manager; `requests` are (path, body, headers)."""

    def __init__(self, script: Script) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass  # keeps the tests' output clean

            def do_GET(self) -> None:
                names = script.models
                listed = {"data": [{"id": name} for name in names or ()]}
                self._reply(404 if names is None else 200, json.dumps(listed).encode())

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                outer.requests.append((self.path, body, dict(self.headers)))
                if script.kind != EVENTS or script.status != 200:
                    self._reply(script.status, b"".join(script.chunks))
                    return
                self.send_response(200)
                self.send_header("Content-Type", EVENTS)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for chunk in script.chunks:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    self.wfile.flush()
                if script.stays_open:
                    outer._closing.wait()
                else:
                    self.wfile.write(b"0\r\n\r\n")

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", JSON)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
