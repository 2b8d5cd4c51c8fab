"""The process of a server: where it listens, signals, draining, its parent.

    listening = listen(place)                     # before a model is loaded
    serve(app, listening, place, ready={"token": ..., "model": ...})

SIGTERM, SIGINT and SIGHUP (unless that is ignored, as under nohup) let running answers
end for `drain_seconds`. Those that have not are cut: each ends with the error of its
API, and the memory is given back. A second signal does not wait. Knows nothing of
models.
"""

import asyncio
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

from mlx_gptoss import files
from mlx_gptoss.errors import GptOssError, StorageError
from mlx_gptoss.server.connection import connection_with_timeouts
from mlx_gptoss.server.drain import Drain

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
ERROR_DELIVERY_SECONDS = 1.0  # for clients to take the error that ends their answer
POLL_SECONDS = 0.05
GROUP_AND_OTHERS = 0o177  # the bits of a mode that nobody else gets


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a server listens, for how long it waits, and who is told.

    `read_seconds` is how long a client may take to begin a request, `write_seconds`
    to take what it was sent.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    ready_file: Path | None = None
    drain_seconds: float = 30.0
    exit_with_parent: bool = False
    read_seconds: float = 30.0
    write_seconds: float = 30.0


class ServerProcess(uvicorn.Server):
    """Uvicorn that tells when it is ready, and ends as we want it to."""

    def __init__(
        self,
        config: uvicorn.Config,
        options: ServeOptions,
        on_ready: Callable[[], None],
        drain: Drain,
    ) -> None:
        super().__init__(config)
        self._options = options
        self._drain = drain
        self._drain_seconds = options.drain_seconds
        self._on_ready = on_ready
        self._parent = os.getppid()
        self.exit_signal: int | None = None
        self.startup_error: StorageError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            self._on_ready()
        except StorageError as error:  # whoever started it waits for the file
            self.startup_error = error
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look for the parent, ten times a second."""
        if self._options.exit_with_parent and os.getppid() != self._parent:
            log.warning("the parent process has ended, so this one does")
            self._drain_seconds = 0
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take SIGINT and SIGTERM, and give them back without raising them again."""
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        # Foundation's Process starts a child with its signals blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        before = {one: signal.signal(one, self.handle_exit) for one in signals}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # the second one does not wait
            self._drain_seconds = 0
        self.should_exit = True
        self.exit_signal = self.exit_signal or sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.start()
        cutting = asyncio.create_task(self._abort_after_drain())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)

    async def _abort_after_drain(self) -> None:
        """End what still runs when the time is over: by its error, then by force."""
        clock = asyncio.get_running_loop().time
        started, state = clock(), self.server_state
        while clock() - started < self._drain_seconds:
            await asyncio.sleep(POLL_SECONDS)
        if count := self._drain.abort():
            log.warning("answers cut for want of time: %d", count)
        await self._wait_for_requests(ERROR_DELIVERY_SECONDS)
        for connection in list(state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.response_started:
                connection.transport.abort()  # its client does not read
        for task in list(state.tasks):
            task.cancel()  # the guard tells those that wait for an answer
        await self._wait_for_requests(ERROR_DELIVERY_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _wait_for_requests(self, seconds: float) -> None:
        """Wait for the requests under way, but no longer than so."""
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=seconds)


def serve(
    app: Any,
    listening: socket.socket,
    options: ServeOptions,
    ready: Mapping[str, Any],
    drain: Drain,
) -> int | None:
    """Serve until a signal or the parent ends it; return the signal.

    `ready` is written into the ready file, with `url` and `pid`, once requests are
    served; the file goes away with the server. `drain` is the app's own. Raises
    StorageError if it cannot be written.
    """
    config = uvicorn.Config(
        app,
        # Pure Python and everywhere the same; a token takes far longer than its frame.
        http=connection_with_timeouts(options.read_seconds, options.write_seconds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
    )

    def tell() -> None:
        url = listening_url(listening)
        log.info("serving at %s", url)
        if options.ready_file is not None:
            facts = {"url": url, **ready, "pid": os.getpid()}
            files.write(options.ready_file, json.dumps(facts) + "\n")

    server = ServerProcess(config, options, tell, drain)
    try:
        server.run([listening])
    finally:
        for path in (options.ready_file, options.uds):
            if path is not None:
                path.unlink(missing_ok=True)
    if server.startup_error is not None:
        raise server.startup_error
    return server.exit_signal


def listen(options: ServeOptions) -> socket.socket:
    """Take the address; nobody can connect before it is served.

    Raises GptOssError if it cannot be had, or if the ready file cannot be written.
    """
    if options.ready_file is not None:
        files.require(options.ready_file)
    if options.uds is not None:
        return _listen_at_path(options.uds)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )[0]
        found = socket.socket(family, kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise GptOssError(
            f"cannot listen on {options.host}:{options.port} ({error.strerror}): "
            "choose another address with `--host` and `--port`"
        ) from error
    return found


def listening_url(listening: socket.socket) -> str:
    """The address it serves at; of a Unix socket, `http+unix://` and its path."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"http+unix://{os.path.abspath(name)}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen_at_path(path: Path) -> socket.socket:
    _remove_stale_socket(path)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(GROUP_AND_OTHERS)
    try:
        found.bind(str(path))
    except OSError as error:
        found.close()
        raise GptOssError(
            f"cannot listen on `{path}` ({error.strerror or error}): give another "
            "`--uds`"
        ) from error
    finally:
        os.umask(mask)
    return found


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket that nobody listens at any more."""
    if not path.exists():
        return
    if not path.is_socket():
        raise GptOssError(f"`{path}` is no socket: remove it, or give another `--uds`")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise GptOssError(f"`{path}` is in use by another server: give another `--uds`")
