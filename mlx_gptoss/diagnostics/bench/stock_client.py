"""Start stock mlx-lm's server in its own process and time its first tokens."""

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

from mlx_gptoss.diagnostics.bench.child_process import (
    EngineFailure,
    stop,
    wait_until_ready,
)
from mlx_gptoss.diagnostics.bench.streams import LOOPBACK, ServerAddress
from mlx_gptoss.diagnostics.http_client import Unreachable
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.render.pieces import message_pieces, pieces_text


@dataclass(frozen=True)
class FirstToken:
    """Seconds to the first token, and the prompt tokens behind it."""

    first_token_s: float
    prompt_tokens: int
    cached_tokens: int


class StockServer:
    """mlx-lm's server on one folder, as a context manager that ends the process."""

    def __init__(self, folder: Path, dtype: str) -> None:
        package = f"mlx-lm {version('mlx-lm')}"
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            port = free.getsockname()[1]
        self.address = ServerAddress.on_loopback(package, port, harmony=True)
        self._client = self.address.client()
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        module = "mlx_gptoss.diagnostics.bench.stock_server"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(port), dtype],
            stdout=self._output,
            stderr=self._output,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )
        try:
            wait_until_ready(package, self._process, self._output, self._poll_health)
        except BaseException:
            self.close()
            raise

    def time_first_token(self, messages: tuple[Message, ...]) -> FirstToken:
        """Generate one token after a conversation. Raises EngineFailure."""
        body = {
            "messages": [
                {"role": _role(message), "content": _content(message)}
                for message in messages
            ],
            "max_tokens": 1,
            "temperature": 0,
        }
        start = time.perf_counter()
        try:
            usage = self._client.post("/v1/chat/completions", body)["usage"]
        except (GptOssError, KeyError) as error:
            raise EngineFailure(f"{self.address.name}: {error}") from error
        seconds = time.perf_counter() - start
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        return FirstToken(seconds, usage["prompt_tokens"], cached)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        stop(self._process)
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _poll_health(self) -> Any | None:
        try:
            return self._client.get("/health")
        except Unreachable:
            return None


def _role(message: Message) -> str:
    """Return mlx-lm's role: our developer message belongs to the system block."""
    return "system" if message.role == "developer" else message.role


def _content(message: Message) -> str:
    """Return the content for the chat template: a user's text, or Harmony."""
    if message.role == "user":
        return str(message.content)
    return pieces_text(message_pieces(message, has_function_tools=True))
