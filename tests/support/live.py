"""A server on a real socket of this process, whose inside tests can look at."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.socket_connection import socket_options

LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Live:
    """A running server."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop

    @property
    def quiet(self) -> bool:
        """Whether nothing is left of any request."""
        kept, models = self.service.responses, self.service.models
        return not kept.running and not models.active_leases

    def wait_until_quiet(self) -> None:
        until = time.monotonic() + LONGEST_SECONDS
        while not self.quiet:
            assert time.monotonic() < until, "a request has left something behind"
            time.sleep(0.005)

    def tasks(self) -> int:
        """How many tasks the event loop has."""
        counted = asyncio.run_coroutine_threadsafe(count_tasks(), self.loop)
        return counted.result(LONGEST_SECONDS)


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


@contextmanager
def live(
    runtime: Runtime,
    settings: ServerSettings,
    around: Callable[[Any], Any] = lambda app: app,
    *,
    name: str = "demo",
    policies: ServedPolicies | None = None,
) -> Iterator[Live]:
    """Serve `runtime` at a free port of loopback; at the end it is closed, too.

    What `around` makes of the app hears all that is sent.
    """
    app = create_app(Models.of(runtime, name), settings, policies=policies)
    config = uvicorn.Config(
        around(app),
        port=0,
        log_config=None,
        log_level="error",
        lifespan="on",
        **socket_options(settings.limits, app.state.service.body_budget, 30),
    )
    server = uvicorn.Server(config)
    loops: list[Any] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        until = time.monotonic() + LONGEST_SECONDS
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Live(f"http://127.0.0.1:{port}", app.state.service, loops[0])
    finally:
        server.should_exit = True
        thread.join()
