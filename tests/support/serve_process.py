"""`mlx-gptoss serve` as a process of its own, for the tests that need a real one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 120
END_SECONDS = 60
COMMAND = (sys.executable, "-m", "mlx_gptoss", "serve", "-m", "demo")


@dataclass(frozen=True)
class Served:
    """A server that runs: what its ready file said, and its process."""

    url: str
    token: str
    pid: int
    model: str
    process: "subprocess.Popen[Any]"
    log: Path

    @property
    def v1(self) -> str:
        return self.url + "/v1"


@contextmanager
def serve(
    *arguments: str, command: Sequence[str] = COMMAND, **popen: Any
) -> Iterator[Served]:
    """Start a server of the demo model at a free port, and end it afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = [] if "--uds" in arguments else ["--port", "0"]
        options = [*place, "--ready-file", str(folder / "ready"), *arguments]
        log = folder / "log"
        own = {
            "HOME": name,
            "XDG_CONFIG_HOME": name,
        }  # nothing of the user's is touched
        popen.setdefault("env", {**os.environ, **own})
        with log.open("wb") as errors:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [*command, *options], stderr=errors, **popen
            )
        try:
            ready = wait_for(folder / "ready", process, log)
            yield Served(**ready, process=process, log=log)
        finally:
            process.terminate()
            process.wait(END_SECONDS)


def wait_for(
    ready: Path, process: "subprocess.Popen[Any]", log: Path
) -> dict[str, Any]:
    """Return what a ready file says once it is there."""
    until = time.monotonic() + START_SECONDS
    while not ready.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return json.loads(ready.read_text())


def gone(pid: int, seconds: float = END_SECONDS) -> bool:
    """Whether a process ends within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        state = _state(pid)
        if state in (None, "Z"):
            return True
        time.sleep(0.05)
    return False


def _state(pid: int) -> str | None:
    """The state of a process as `ps` names it, or None for none."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    )
    return listed.stdout.strip()[:1] or None


def run(program: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and keep what it writes."""
    return subprocess.run(program, capture_output=True, text=True, **more)
