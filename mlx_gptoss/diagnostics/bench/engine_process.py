"""Start an engine in its own process and send it requests.

`engine_main.py` is the program at the other end of the pipes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.diagnostics.bench.engine_main import Ready
from mlx_gptoss.diagnostics.bench.request_process import RequestProcess
from mlx_gptoss.engine.load_options import LoadOptions

PROGRAM = "mlx_gptoss.diagnostics.bench.engine_main"


class EngineProcess(RequestProcess):
    """One engine on one folder, as a context manager that ends the process."""

    def __init__(
        self,
        engine: str,
        folder: Path,
        options: LoadOptions,
        *,
        lend_blas: bool = True,
    ) -> None:
        given = asdict(replace(options, cache=None, batch=None))  # engines have neither
        arguments = [engine, str(folder), json.dumps(given, default=str)]
        super().__init__(engine, PROGRAM, arguments, lend_blas=lend_blas)
        self.ready = Ready(**self.first_reply)

    def run(self, prompt: list[int], tokens: int) -> Mapping[str, float]:
        return self.request(ask="run", prompt=prompt, tokens=tokens)

    def primitives(self, prompt: list[int]) -> Mapping[str, int]:
        """Count the primitives of a single stream's step."""
        return self.request(ask="primitives", prompt=prompt)

    def batch_primitives(self, prompts: list[list[int]]) -> Mapping[str, int]:
        """Count the primitives of a step of a batch."""
        return self.request(ask="batch", prompts=prompts)

    def totals(self) -> Mapping[str, Any]:
        return self.request(ask="totals")
