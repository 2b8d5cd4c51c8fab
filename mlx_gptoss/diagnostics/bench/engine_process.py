"""Start an engine in its own process and send it requests.

`engine_main.py` is the program at the other end of the pipes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure, last_line, stop
from mlx_gptoss.diagnostics.bench.engine_main import Ready
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.model.blas_library import BLAS_VARIABLE


class EngineProcess:
    """One engine on one folder, as a context manager that ends the process."""

    def __init__(
        self,
        engine: str,
        folder: Path,
        options: LoadOptions,
        *,
        lend_blas: bool = True,
    ) -> None:
        self._engine = engine
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        environment = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1")
        if not lend_blas:
            environment[BLAS_VARIABLE] = "off"
        given = asdict(replace(options, cache=None, batch=None))  # engines have neither
        arguments = [engine, str(folder), json.dumps(given, default=str)]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlx_gptoss.diagnostics.bench.engine_main",
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        try:
            self.ready = Ready(**self._read_reply())
        except BaseException:
            self.close()
            raise

    def run(self, prompt: list[int], tokens: int) -> Mapping[str, float]:
        return self._request(ask="run", prompt=prompt, tokens=tokens)

    def primitives(self, prompt: list[int]) -> Mapping[str, int]:
        """Count the primitives of a single stream's step."""
        return self._request(ask="primitives", prompt=prompt)

    def batch_primitives(self, prompts: list[list[int]]) -> Mapping[str, int]:
        """Count the primitives of a step of a batch."""
        return self._request(ask="batch", prompts=prompts)

    def totals(self) -> Mapping[str, Any]:
        return self._request(ask="totals")

    def close(self) -> None:
        """End the process, which stops when its stdin closes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        stop(self._process)
        self._process.stdout.close()
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

    def _request(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died_error() from error
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died_error()
        reply = json.loads(line)
        if "error" in reply:
            raise EngineFailure(f"{self._engine}: {reply['error']}")
        return reply

    def _died_error(self) -> EngineFailure:
        code = self._process.wait()
        reason = last_line(self._errors)
        return EngineFailure(f"{self._engine} ended with code {code}: {reason}")
