"""The process of a server: where it listens, signals, draining, its parent.

    serve(app, Place(port=0, ready_file=path), ready={"token": ..., "model": ...})

SIGTERM and SIGINT let running answers end for `drain_seconds`, then end them and give
the memory back; a second signal does not wait. Knows nothing of models.
"""

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks for the parent
KEEP_ALIVE_SECONDS = 75
PRIVATE = 0o600


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a server listens, and who is told."""

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    ready_file: Path | None = None
    drain_seconds: int = 30
    exit_with_parent: bool = False
    log_level: str = "info"


class Server(uvicorn.Server):
    """Uvicorn that tells when it is ready, and ends as we want it to."""

    def __init__(
        self, config: uvicorn.Config, place: Place, on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._place = place
        self._on_ready = on_ready
        self._parent = os.getppid()
        self.ended_by: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._place.uds is not None:
            self._place.uds.chmod(PRIVATE)
        self._on_ready(self.url)

    @property
    def url(self) -> str:
        """The address it serves at; of a Unix socket, `http+unix:` and its path."""
        if self._place.uds is not None:
            return f"http+unix://{self._place.uds.absolute()}"
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def on_tick(self, counter: int) -> bool:
        if self._place.exit_with_parent and os.getppid() != self._parent:
            log.warning("the parent process has ended, so this one does")
            self.config.timeout_graceful_shutdown = 0
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take SIGINT and SIGTERM, and give them back without raising them again."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {one: signal.signal(one, self.handle_exit) for one in signals}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # the second one does not wait
        self.should_exit = True
        self.ended_by = self.ended_by or sig


def serve(app: Any, place: Place, ready: Mapping[str, Any]) -> int | None:
    """Serve until a signal or the parent ends it; return the signal.

    `ready` is written into the ready file, with `url` and `pid`, once requests are
    served; the file goes away with the server.
    """
    config = uvicorn.Config(
        app,
        host=place.host,
        port=place.port,
        uds=str(place.uds) if place.uds else None,
        # Pure Python and everywhere the same; a token takes far longer than its frame.
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=place.drain_seconds,
        log_config=None,
        log_level=place.log_level,
        access_log=False,
    )

    def tell(url: str) -> None:
        log.info("serving at %s", url)
        if place.ready_file is not None:
            facts = {"url": url, **ready, "pid": os.getpid()}
            write_private(place.ready_file, json.dumps(facts) + "\n")

    server = Server(config, place, tell)
    try:
        server.run()
    finally:
        if place.ready_file is not None:
            place.ready_file.unlink(missing_ok=True)
        if place.uds is not None:
            place.uds.unlink(missing_ok=True)
    return server.ended_by


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, beside its place, then rename it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "w") as f:
        f.write(text)
    draft.replace(path)
