"""Asks stock mlx-lm's server, which runs in its own process, for one token a time.

Knows HTTP on the loopback and the form of its answers.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlx_gptoss.diagnostics.bench.engine_process import (
    SHUTDOWN_TIMEOUT_S,
    EngineFailure,
)
from mlx_gptoss.diagnostics.bench.stock_server import HOST
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.render.prompt import message_pieces, pieces_text

STARTING_S, ANSWERING_S, ASK_AGAIN_S = 600.0, 3600.0, 0.2


@dataclass(frozen=True)
class FirstToken:
    """Seconds until the first token was here, and what was read for it."""

    first_token_s: float
    prompt_tokens: int
    cached_tokens: int


class StockServer:
    """The server on one folder. Use it in a `with`: the process ends with it."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.package = f"mlx-lm {version('mlx-lm')}"
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        module = "mlx_gptoss.diagnostics.bench.stock_server"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(self.port), dtype],
            stdout=self._errors,
            stderr=self._errors,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def ask(self, messages: tuple[Message, ...]) -> FirstToken:
        """Have one token said after a conversation."""
        body = {
            "messages": [
                {"role": _role(message), "content": _content(message)}
                for message in messages
            ],
            "max_tokens": 1,
            "temperature": 0,
        }
        start = time.perf_counter()
        answer = self._request("POST", "/v1/chat/completions", json.dumps(body))
        seconds = time.perf_counter() - start
        if "usage" not in answer:
            raise EngineFailure(f"{self.package}: {answer}")
        usage = answer["usage"]
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        return FirstToken(seconds, usage["prompt_tokens"], cached)

    def close(self) -> None:
        """End the process; kill it if it does not listen."""
        self._process.terminate()
        try:
            self._process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTING_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._errors.seek(0)
                lines = self._errors.read().strip().splitlines() or ["without a word"]
                raise EngineFailure(f"{self.package} did not start: {lines[-1]}")
            try:
                self._request("GET", "/health")
                return
            except OSError:
                time.sleep(ASK_AGAIN_S)
        raise EngineFailure(f"{self.package} did not start in {STARTING_S:.0f} s")

    def _request(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWERING_S)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _role(message: Message) -> str:
    """Their word for a role: the developer's block belongs to the system's."""
    return "system" if message.role == "developer" else message.role


def _content(message: Message) -> str:
    """What their template wants: a user's words, or a message in Harmony."""
    if message.role == "user":
        return str(message.content)
    return pieces_text(message_pieces(message, has_function_tools=True))
