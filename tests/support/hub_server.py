"""A Hub on loopback that speaks as much of the protocol as a download takes.

    with hub_server({"a/b": {"config.json": b"{}"}}) as server:
        server.url, server.requests           # what was asked, in order

`server.refuse[path] = 403` makes one file fail; a gated refusal carries the Hub's
own header. Weights are large files: the list names their SHA-256, and they lie in a
storage on another host, which knows byte ranges. `server.odd[path]` are answers of the
storage that are not as they should be, one a request. Knows nothing of our code.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "beef"
Repos = Mapping[str, Mapping[str, bytes]]
LARGE = (".safetensors", ".gguf")
STORAGE_TAG = '"the-storages-own"'
HELD_SECONDS = 60  # a server that is not let go ends all the same
RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Odd:
    """What is wrong with one answer of the storage."""

    status: int | None = None
    body: bytes = b""  # of that status
    ignores_range: bool = False
    shift: int = 0  # of where the bytes begin, against what the answer says
    honest_shift: bool = False  # the answer says it
    cut: int | None = None  # bytes after which the connection closes
    damages: bool = False
    longer: bytes = b""
    hold: int | None = None  # bytes after which nothing more comes until `let_go`
    chunked_end: bool = False  # a body without a length that ends early
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    url: str
    storage: str
    repos: Repos
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    refuse: dict[str, int] = field(default_factory=dict)
    odd: dict[str, list[Odd]] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=dict)  # by host
    sizes: dict[str, int | None] = field(default_factory=dict)  # told instead of true
    etags: dict[str, str] = field(default_factory=dict)  # told instead of true
    answers: dict[str, bytes] = field(default_factory=dict)  # what is said of a model
    served: int = 0  # bytes of large files
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def downloads(self) -> list[str]:
        """Names of the files whose contents were asked for, in order."""
        marker = f"/resolve/{COMMIT}/"
        return [
            r.split(marker)[1]
            for r in self.requests
            if r.startswith("GET") and marker in r
        ]

    def forget(self) -> None:
        """Begin anew, as for another test."""
        for collected in (
            self.requests,
            self.agents,
            self.refuse,
            self.odd,
            self.ranges,
            self.tokens,
            self.sizes,
            self.etags,
            self.answers,
        ):
            collected.clear()
        self.served = 0
        self.held.clear()
        self.let_go.clear()


@contextmanager
def hub_server(repos: Repos) -> Iterator[HubServer]:
    with ExitStack() as running:
        hub, storage = (running.enter_context(_running()) for _ in range(2))
        # Two hosts by name, too: the library of the lower bound compares only that.
        server = HubServer(
            f"http://127.0.0.1:{hub.server_port}",
            f"http://localhost:{storage.server_port}",
            repos,
        )
        hub.hub = storage.hub = server  # type: ignore[attr-defined]
        running.callback(server.let_go.set)
        yield server


@contextmanager
def _running() -> Iterator[ThreadingHTTPServer]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield httpd
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@cache
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def etag_of(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return _sha256(content)
    return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path  # a proxy is asked for all of it
        host = self.headers.get("host", "")
        hub.tokens.setdefault(f"http://{host}", set()).add(
            self.headers.get("authorization", "")
        )
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            name = "/".join(parts[3:])
            return self._store(name, hub.repos["/".join(parts[1:3])][name])
        hub.requests.append(f"{self.command} {path}")
        hub.agents.add(self.headers.get("user-agent", ""))
        if parts[:2] == ["api", "models"]:
            return self._info("/".join(parts[2:4]))
        model, name = "/".join(parts[:2]), "/".join(parts[4:])
        status = hub.refuse.get(name)
        if status == 403:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        content = hub.repos.get(model, {}).get(name)
        if status or content is None:
            return self._send(status or 404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hub.etags.get(name) or f'"{etag_of(name, content)}"'
        if not name.endswith(LARGE):
            return self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})
        headers = {
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(hub.sizes.get(name, len(content)) or ""),
            "X-Repo-Commit": COMMIT,
            "Location": f"{hub.storage}/storage/{model}/{name}?signature=x",
        }
        return self._send(302, b"", headers)

    def _store(self, name: str, content: bytes) -> None:
        """Answer as a storage of large files does."""
        hub = self.hub
        odd = hub.odd[name].pop(0) if hub.odd.get(name) else Odd()
        asked = self.headers.get("range", "")
        hub.ranges.append(asked)
        if odd.status:
            return self._send(odd.status, odd.body, dict(odd.headers))
        if odd.damages:
            content = bytes(byte ^ 1 for byte in content)
        content += odd.longer
        found = RANGE.fullmatch(asked)
        if self.headers.get("if-range", STORAGE_TAG) != STORAGE_TAG or not found:
            found = None
        headers = {"ETag": STORAGE_TAG, **odd.headers}
        if found is None or odd.ignores_range:
            return self._stream(200, content, headers, odd)
        start = int(found[1])
        if start >= len(content):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        begin = start + odd.shift
        told = begin if odd.honest_shift else start
        whole = f"bytes {told}-{len(content) - 1}/{len(content)}"
        return self._stream(
            206, content[begin:], headers | {"Content-Range": whole}, odd
        )

    def _stream(
        self, status: int, body: bytes, headers: Mapping[str, str], odd: Odd
    ) -> None:
        self.close_connection = odd.cut is not None
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if odd.chunked_end:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: odd.cut]
        for piece in (body[: odd.hold], body[odd.hold :] if odd.hold else b""):
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:  # the other side is gone
                self.close_connection = True
                return
            self.hub.served += len(piece)
            if odd.hold is not None and not self.hub.held.is_set():
                self.hub.held.set()
                self.hub.let_go.wait(HELD_SECONDS)

    def _info(self, model: str) -> None:
        files = self.hub.repos.get(model)
        if status := self.hub.refuse.get(model):
            return self._send(status, b"{}", {})
        if model in self.hub.answers:
            return self._send(200, self.hub.answers[model], {})
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [self._sibling(name, content) for name, content in files.items()]
        config = json.loads(files.get("config.json", b"{}"))
        facts = {"id": model, "sha": COMMIT, "siblings": siblings, "config": config}
        return self._send(200, json.dumps(facts).encode(), {})

    def _sibling(self, name: str, content: bytes) -> dict[str, object]:
        size = self.hub.sizes.get(name, len(content))
        facts: dict[str, object] = {"rfilename": name, "size": size}
        if name.endswith(LARGE):
            sha256 = etag_of(name, content)
            facts["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
            return facts | {"blobId": hashlib.sha1(b"pointer").hexdigest()}
        return facts | {"blobId": etag_of(name, content)}

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
