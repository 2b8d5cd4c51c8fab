"""A client of the WebSocket of `/v1/responses`.

with talking(server) as socket:
    events = ask(socket, input="Hello!")      # to the last one
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.live import Live

SECONDS = 60
LAST = ("response.completed", "response.incomplete", "response.failed", "error")


@contextmanager
def talking(server: Live, **options: Any) -> Iterator[ClientConnection]:
    address = server.url.replace("http://", "ws://") + "/v1/responses"
    given: dict[str, Any] = {
        "open_timeout": SECONDS,
        "close_timeout": SECONDS,
    } | options
    socket: ClientConnection
    with connect(address, **given) as socket:  # pyright: ignore[reportAssignmentType]
        yield socket


def send(socket: ClientConnection, **fields: Any) -> None:
    socket.send(json.dumps({"type": "response.create", "model": "demo"} | fields))


def read(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return the events up to the last one of a response, or to an error."""
    events = [json.loads(socket.recv(SECONDS))]
    while events[-1]["type"] not in LAST:
        events.append(json.loads(socket.recv(SECONDS)))
    return events


def ask(socket: ClientConnection, **fields: Any) -> list[dict[str, Any]]:
    send(socket, **fields)
    return read(socket)


def code_of(events: list[dict[str, Any]]) -> str | None:
    """Return the code of the error that events end with."""
    return events[-1].get("error", {}).get("code")
