"""Our own server on a folder, in its own process, as a program would start it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from mlx_gptoss.diagnostics.bench.engine_process import (
    SHUTDOWN_TIMEOUT_S,
    EngineFailure,
)
from mlx_gptoss.diagnostics.bench.streams import ServerAddress

NAME = "mlx_gptoss"
STARTING_S, LOOK_S = 600.0, 0.1


class OurServer:
    """`mlx-gptoss serve`. Use it in a `with`: the process ends with it."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="mlx-gptoss-bench-")
        ready = Path(self._home.name) / "ready.json"
        self._errors = (Path(self._home.name) / "errors").open("w+")
        command = ["-m", "mlx_gptoss", "serve", "--model", str(folder)]
        options = ["--port", "0", "--ready-file", str(ready), "--dtype", dtype]
        self._process = subprocess.Popen(
            [sys.executable, *command, *options, "--exit-with-parent", "--no-store"],
            stdout=self._errors,
            stderr=self._errors,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )
        try:
            facts = json.loads(self._wait(ready))
        except BaseException:
            self.close()
            raise
        port = urlsplit(facts["url"]).port
        assert port is not None
        self.address = ServerAddress(NAME, port, facts["token"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process; kill it if it does not listen."""
        self._process.terminate()
        try:
            self._process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        self._home.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, ready: Path) -> str:
        deadline = time.monotonic() + STARTING_S
        while time.monotonic() < deadline:
            if ready.exists():  # it appears whole
                return ready.read_text(encoding="utf-8")
            if self._process.poll() is not None:
                self._errors.seek(0)
                lines = self._errors.read().strip().splitlines() or ["without a word"]
                raise EngineFailure(f"{NAME} did not start: {lines[-1]}")
            time.sleep(LOOK_S)
        raise EngineFailure(f"{NAME} did not start in {STARTING_S:.0f} s")
