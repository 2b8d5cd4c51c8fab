"""Start `mlx-gptoss serve` on a folder in its own process, as a program would."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Self

from mlx_gptoss.diagnostics.bench.child_process import stop, wait_until_ready
from mlx_gptoss.diagnostics.bench.streams import ServerAddress
from mlx_gptoss.engine.load_options import LoadOptions

NAME = "mlx_gptoss"


def arguments(options: LoadOptions) -> list[str]:
    """Write the options that are no defaults as arguments of a command."""
    words: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            words += [f"--{field.name}", *([] if value is True else [str(value)])]
    return words


class OurServer:
    """`mlx-gptoss serve`, as a context manager that ends the process.

    `more` are arguments of the command.
    """

    def __init__(
        self, folder: Path, options: LoadOptions, more: Sequence[str] = ()
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="mlx-gptoss-bench-")
        ready = Path(self._home.name) / "ready.json"
        self._output = (Path(self._home.name) / "errors").open("w+")
        command = ["-m", "mlx_gptoss", "serve", "--model", str(folder)]
        command += ["--port", "0", "--ready-file", str(ready), *arguments(options)]
        command += more
        self._process = subprocess.Popen(
            [sys.executable, *command, "--exit-with-parent", "--no-store"],
            stdout=self._output,
            stderr=self._output,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )

        def read_ready_file() -> str | None:  # which appears complete
            return ready.read_text(encoding="utf-8") if ready.exists() else None

        try:
            facts = json.loads(
                wait_until_ready(NAME, self._process, self._output, read_ready_file)
            )
        except BaseException:
            self.close()
            raise
        self.address = ServerAddress(NAME, facts["url"], facts["token"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process and delete its files."""
        self._process.terminate()
        stop(self._process)
        self._output.close()
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
