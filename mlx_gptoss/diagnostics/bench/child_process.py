"""Wait for child processes to start, stop them, and say why one died."""

import subprocess
import time
from collections.abc import Callable
from typing import IO, Any

from mlx_gptoss.errors import GptOssError

STARTUP_TIMEOUT_S, SHUTDOWN_TIMEOUT_S, POLL_INTERVAL_S = 600.0, 10.0, 0.1

Process = subprocess.Popen[str] | subprocess.Popen[bytes]


class EngineFailure(GptOssError):
    """An engine could not load the folder, or died while it was measured."""


def wait_until_ready(
    name: str, process: Process, output: IO[str], poll: Callable[[], Any]
) -> Any:
    """Poll until there is a result and return it.

    `output` is where the process writes. Raises EngineFailure if it ends, or is not
    ready in time.
    """
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineFailure(f"{name} did not start: {last_line(output)}")
        if (result := poll()) is not None:
            return result
        time.sleep(POLL_INTERVAL_S)
    raise EngineFailure(f"{name} did not start in {STARTUP_TIMEOUT_S:.0f} s")


def last_line(output: IO[str]) -> str:
    """Return the last line that a process wrote to a file."""
    output.seek(0)
    lines = output.read().strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def stop(process: Process) -> None:
    """Wait for a process that was told to end; kill it after a timeout."""
    try:
        process.wait(SHUTDOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
