"""A Hub on loopback that speaks as much of the protocol as a download takes.

    with hub_server({"a/b": {"config.json": b"{}"}}) as server:
        server.url, server.requests           # what was asked, in order

`server.refuse[path] = 403` makes one file fail; a gated refusal carries the Hub's
own header. Knows nothing of our code.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "beef"
Repos = Mapping[str, Mapping[str, bytes]]


@dataclass
class HubServer:
    url: str
    repos: Repos
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    refuse: dict[str, int] = field(default_factory=dict)

    def downloads(self) -> list[str]:
        """Names of the files whose contents were asked for, in order."""
        marker = f"/resolve/{COMMIT}/"
        return [
            r.split(marker)[1]
            for r in self.requests
            if r.startswith("GET") and marker in r
        ]


@contextmanager
def hub_server(repos: Repos) -> Iterator[HubServer]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server = HubServer(f"http://127.0.0.1:{httpd.server_port}", repos)
    httpd.hub = server  # type: ignore[attr-defined]
    thread = threading.Thread(
        target=httpd.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        path = self.path.split("?")[0]
        hub.requests.append(f"{self.command} {path}")
        hub.agents.add(self.headers.get("user-agent", ""))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._info(hub, "/".join(parts[2:4]))
        model, name = "/".join(parts[:2]), "/".join(parts[4:])
        status = hub.refuse.get(name)
        if status == 403:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        content = hub.repos.get(model, {}).get(name)
        if status or content is None:
            return self._send(status or 404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _info(self, hub: HubServer, model: str) -> None:
        files = hub.repos.get(model)
        if status := hub.refuse.get(model):
            return self._send(status, b"{}", {})
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": n, "size": len(b)} for n, b in files.items()]
        config = json.loads(files.get("config.json", b"{}"))
        facts = {"id": model, "sha": COMMIT, "siblings": siblings, "config": config}
        return self._send(200, json.dumps(facts).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
