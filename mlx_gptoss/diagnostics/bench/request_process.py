"""A program in its own process that replies to requests: JSON lines over its pipes.

Its first line says that it is ready. What goes wrong is `{"error": ...}`, or its end.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure, last_line, stop
from mlx_gptoss.model.blas_library import BLAS_VARIABLE


class RequestProcess:
    """One program, as a context manager that ends the process.

    `first_reply` is its first line. Raises EngineFailure if there is none.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        lend_blas: bool = True,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Run `python -m module arguments`.

        `name` is used in errors; `variables` are added to its environment; without
        `lend_blas` it has MLX's own BLAS.
        """
        self._name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        environment = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1")
        environment.update(variables or {})
        if not lend_blas:
            environment[BLAS_VARIABLE] = "off"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        try:
            self.first_reply = self._read_reply()
        except BaseException:
            self.close()
            raise

    def request(self, **request: Any) -> dict[str, Any]:
        """Send one request and return the reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died_error() from error
        return self._read_reply()

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

    def _read_reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died_error()
        reply = json.loads(line)
        if "error" in reply:
            raise EngineFailure(f"{self._name}: {reply['error']}")
        return reply

    def _died_error(self) -> EngineFailure:
        code = self._process.wait()
        reason = last_line(self._errors)
        return EngineFailure(f"{self._name} ended with code {code}: {reason}")
