"""The pipes of a kernel: a request in, its output and one reply out.

Never blocks on the kernel, which may stop reading, write endlessly, or forge replies.
Knows nothing of the content.
"""

import json
import os
import selectors
import subprocess
from collections.abc import Callable
from time import monotonic
from typing import IO, Any

POLL_SECONDS = 0.05  # between checks of the clock and the limits
CHUNK = 1 << 16
MAX_REPLY_BYTES = 1000  # the kernel's replies are shorter
BROKEN_CONNECTION = "the process broke its connection"


class KernelGone(Exception):
    """The kernel has ended, or must be ended; the message says why."""


class KernelConnection:
    """The pipes of one kernel process. Raises KernelGone once it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], replies: int) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._requests, self._stdout = process.stdin, process.stdout
        self._replies: IO[bytes] = os.fdopen(replies, "rb", buffering=0)
        os.set_blocking(self._requests.fileno(), False)
        self._unsent = b""
        self._line = b""  # of a reply that has begun: the time may end within it

    def queue(self, request: dict[str, Any]) -> None:
        """Send this during the next `wait_for_reply`."""
        self._unsent = (json.dumps(request) + "\n").encode()

    def wait_for_reply(
        self, add: Callable[[bytes], None], keep_waiting: Callable[[], bool], end: float
    ) -> dict[str, Any] | None:
        """Pass output to `add` until a reply arrives, and return it.

        Returns None at the time `end`, or once `keep_waiting` returns False; it is
        called every POLL_SECONDS and may raise.
        """
        checked_at = 0.0
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdout, selectors.EVENT_READ)
            ready.register(self._replies, selectors.EVENT_READ)
            if self._unsent:
                ready.register(self._requests, selectors.EVENT_WRITE)
            while not self._line.endswith(b"\n"):
                if (now := monotonic()) >= checked_at + POLL_SECONDS:
                    checked_at = now
                    if now >= end or not keep_waiting():
                        return None
                for key, _ in ready.select(POLL_SECONDS):
                    if key.fileobj is self._requests:
                        if not self._send():
                            ready.unregister(self._requests)
                    elif key.fileobj is self._replies:
                        self._line += self._reply_byte(add)
                        if len(self._line) > MAX_REPLY_BYTES:
                            raise KernelGone(BROKEN_CONNECTION)
                    elif data := os.read(self._stdout.fileno(), CHUNK):
                        add(data)
                    else:
                        ready.unregister(self._stdout)
        line, self._line = self._line, b""
        return _parse_reply(line)

    def drain(self, add: Callable[[bytes], None]) -> None:
        """Read the rest of the output of a process that is stopped or has ended."""
        os.set_blocking(self._stdout.fileno(), False)
        try:
            while data := os.read(self._stdout.fileno(), CHUNK):
                add(data)
        except BlockingIOError:
            return
        finally:
            os.set_blocking(self._stdout.fileno(), True)

    def close(self) -> None:
        for pipe in (self._requests, self._stdout, self._replies):
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # the unsent rest has no reader

    def _send(self) -> bool:
        """Send a piece of the request; return whether more is left."""
        try:
            sent = os.write(self._requests.fileno(), self._unsent[:CHUNK])
        except BrokenPipeError as error:
            raise KernelGone("the process had ended") from error
        self._unsent = self._unsent[sent:]
        return bool(self._unsent)

    def _reply_byte(self, add: Callable[[bytes], None]) -> bytes:
        byte = self._replies.read(1)
        if not byte:
            self.drain(add)
            raise KernelGone("the process ended")
        return byte


def _parse_reply(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KernelGone(BROKEN_CONNECTION) from error
    if not isinstance(reply, dict):
        raise KernelGone(BROKEN_CONNECTION)
    return reply
