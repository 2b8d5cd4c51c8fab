"""A relay before a server that can swallow what it carries, as a dead network does.

with black_hole(port, b"GET /web/events") as relay:
    relay.port
    relay.swallow()     # streams stay open and nothing comes; the rest is closed
    relay.refuse()      # all are closed, and nothing new is let in
    relay.let_in()
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 65536


@dataclass
class Carried:
    """A connection of a client, and that to the server behind it."""

    client: socket.socket
    server: socket.socket
    request: bytes = b""  # how the last one began
    dead: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def carry_requests(self) -> None:
        with suppress(OSError):
            while piece := self.client.recv(PIECE):
                self.request = piece
                if not self.dead.is_set():
                    self.server.sendall(piece)
            self.server.shutdown(socket.SHUT_WR)

    def carry_answers(self) -> None:
        with suppress(OSError):
            while piece := self.server.recv(PIECE):
                if not self.dead.is_set():
                    self.client.sendall(piece)
            if not self.dead.is_set():
                self.client.shutdown(socket.SHUT_WR)


class BlackHole:
    """A relay to a port of this machine; `stream` is how requests of streams begin."""

    def __init__(self, target: int, stream: bytes) -> None:
        self._target, self._stream = target, stream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._refusing = threading.Event()
        self._carried: list[Carried] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        """Carry nothing more on the streams there are, and close the rest."""
        for one in self._carried:
            if one.request.startswith(self._stream):
                one.dead.set()
            else:
                one.close()

    def refuse(self) -> None:
        """Close the connections there are, and each new one at once."""
        self._refusing.set()
        for one in self._carried:
            one.close()
        self._carried.clear()

    def let_in(self) -> None:
        """Carry new connections again."""
        self._refusing.clear()

    def close(self) -> None:
        self.refuse()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            made = Carried(client, server)
            self._carried.append(made)
            for work in (made.carry_requests, made.carry_answers):
                threading.Thread(target=work, daemon=True).start()


@contextmanager
def black_hole(target: int, stream: bytes) -> Iterator[BlackHole]:
    """Open a relay."""
    relay = BlackHole(target, stream)
    try:
        yield relay
    finally:
        relay.close()
