"""The server process: listening sockets, signals, draining, the parent process.

    listening = listen(options)                   # before a model is loaded
    serve(app, listening, options, ready={"token": ..., "model": ...}, drain=drain)

SIGTERM, SIGINT and SIGHUP (unless ignored, as under nohup) stop new requests and give
running ones `drain_seconds` to finish. The rest are aborted with an error of their API,
and memory is freed. A second signal skips the wait. With `on_hangup`, SIGHUP calls that
instead, unless it means that the terminal was closed. Knows nothing of models.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
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
ERROR_DELIVERY_SECONDS = 1.0  # for clients to receive the error
POLL_SECONDS = 0.05
GROUP_AND_OTHERS = 0o177  # umask: permissions for the owner only
TERMINAL = "/dev/tty"

OnHangup = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a server listens, its timeouts, and its ready file.

    `read_seconds` is the time a client has to begin its first request, `write_seconds`
    the time to read what was sent.
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
    """Uvicorn with a ready callback and our own shutdown."""

    def __init__(
        self,
        config: uvicorn.Config,
        options: ServeOptions,
        on_ready: Callable[[], None],
        drain: Drain,
        on_hangup: OnHangup | None = None,
    ) -> None:
        super().__init__(config)
        self._on_hangup = on_hangup
        self._hung_up = False  # a SIGHUP that `on_tick` has not seen yet
        self._hangup_task: asyncio.Task[None] | None = None
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._has_terminal = has_terminal()
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
        except StorageError as error:  # the parent waits for this file
            self.startup_error = error
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Check for the parent, ten times a second."""
        if self._options.exit_with_parent and os.getppid() != self._parent:
            log.warning("the parent process has ended: shutting down")
            self._drain_seconds = 0
            self.should_exit = True
        if self._hung_up and self._on_hangup is not None:
            self._hung_up = False
            self._hangup_task = asyncio.ensure_future(self._on_hangup())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle termination signals; unlike uvicorn, do not raise them again after."""
        signals = [signal.SIGINT, signal.SIGTERM]
        if not self._ignores_hangup or self._on_hangup is not None:
            signals.append(signal.SIGHUP)
        # Foundation's Process starts a child with its signals blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        handlers = {signal.SIGHUP: self.handle_hangup}
        before = {
            one: signal.signal(one, handlers.get(one, self.handle_exit))
            for one in signals
        }
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # a second signal skips the drain
            self._drain_seconds = 0
        self.should_exit = True
        self.exit_signal = self.exit_signal or sig

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Shut down if the terminal was closed; otherwise call `on_hangup`."""
        closed = self._has_terminal and not has_terminal()
        if self._on_hangup is not None and (self._ignores_hangup or not closed):
            self._hung_up = True
        else:
            self.handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.start()
        cutting = asyncio.create_task(self._abort_after_drain())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)

    async def _abort_after_drain(self) -> None:
        """Abort requests when the drain time is over: with an error, then by force."""
        clock = asyncio.get_running_loop().time
        started, state = clock(), self.server_state
        while clock() - started < self._drain_seconds:
            await asyncio.sleep(POLL_SECONDS)
        if count := self._drain.abort():
            log.warning("requests aborted at the end of the drain time: %d", count)
        await self._wait_for_requests(ERROR_DELIVERY_SECONDS)
        for connection in list(state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.response_started:
                connection.transport.abort()  # its client does not read
        for task in list(state.tasks):
            task.cancel()  # the guard answers those with no response yet
        await self._wait_for_requests(ERROR_DELIVERY_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _wait_for_requests(self, seconds: float) -> None:
        """Wait for running requests, at most `seconds`."""
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=seconds)


def serve(
    app: Any,
    listening: socket.socket,
    options: ServeOptions,
    ready: Mapping[str, Any],
    drain: Drain,
    on_hangup: OnHangup | None = None,
    on_ready: Callable[[str], None] | None = None,
    sockets: Mapping[str, Any] | None = None,
) -> int | None:
    """Serve until a signal or the end of the parent; return the signal.

    `ready` is written to the ready file, with `url` and `pid`, once the server is up;
    the file is removed at the end. `drain` is the app's own; `on_hangup` is called in
    its event loop, `on_ready` with its URL. `sockets` are uvicorn's options for
    WebSockets; without, there are none. Raises StorageError if the ready file cannot
    be written.
    """
    config = uvicorn.Config(
        app,
        # Pure Python, the same everywhere; a token takes far longer than its frame.
        http=connection_with_timeouts(options.read_seconds, options.write_seconds),
        loop="asyncio",
        **(sockets or {"ws": "none"}),
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
    )

    def report_ready() -> None:
        url = listening_url(listening)
        log.info("serving at %s", url)
        if options.ready_file is not None:
            facts = {"url": url, **ready, "pid": os.getpid()}
            files.write(options.ready_file, json.dumps(facts) + "\n")
        if on_ready is not None:
            on_ready(url)

    server = ServerProcess(config, options, report_ready, drain, on_hangup)
    try:
        server.run([listening])
    finally:
        for path in (options.ready_file, options.uds):
            if path is not None:
                path.unlink(missing_ok=True)
    if server.startup_error is not None:
        raise server.startup_error
    return server.exit_signal


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def listen(options: ServeOptions) -> socket.socket:
    """Bind the address; clients cannot connect until it is served.

    Raises GptOssError if the address or the ready file cannot be used.
    """
    if options.ready_file is not None:
        files.require_writable(options.ready_file)
    if options.uds is not None:
        return _listen_at_path(options.uds)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )[0]
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise GptOssError(
            f"cannot listen at {options.host}:{options.port} ({error.strerror}): "
            "choose another address with `--host` and `--port`"
        ) from error
    return listening


def listening_url(listening: socket.socket) -> str:
    """Return the URL of a socket; for a Unix socket, `http+unix://` and its path."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"http+unix://{os.path.abspath(name)}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen_at_path(path: Path) -> socket.socket:
    _remove_stale_socket(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(GROUP_AND_OTHERS)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise GptOssError(
            f"cannot listen at `{path}` ({error.strerror or error}): give another "
            "`--uds`"
        ) from error
    finally:
        os.umask(mask)
    return listening


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket file that no process listens on."""
    if not path.exists():
        return
    if not path.is_socket():
        raise GptOssError(
            f"`{path}` is not a socket: remove it, or give another `--uds`"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise GptOssError(f"`{path}` is in use by another server: give another `--uds`")
