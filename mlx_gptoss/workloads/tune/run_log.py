"""`log.jsonl`: one JSON object per step or evaluation, in order.

    {"step": 12, "loss": 1.93, "learning_rate": 0.0002, "gradient_norm": 0.61, ...}
    {"step": 20, "validation_loss": 1.71, "best": true, ...}

A run that goes on drops the lines that its state does not know.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from mlx_gptoss.files import storage_errors, write

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends lines to the log of a run; `lines` counts those written."""

    def __init__(self, folder: Path, lines: int = 0) -> None:
        """Open the log after its first `lines`; what follows them is dropped."""
        self.path = folder / LOG_FILE
        known = read_lines(folder)[:lines]
        self.lines = len(known)
        write(self.path, "".join(known), private=False)
        with storage_errors(self.path):
            self._file: TextIO = self.path.open("a", encoding="utf-8")

    def add(self, facts: Mapping[str, Any]) -> None:
        """Append one line."""
        with storage_errors(self.path):
            self._file.write(json.dumps(facts, allow_nan=False) + "\n")
            self._file.flush()
        self.lines += 1

    def sync(self) -> None:
        """Bring what was written to the disk."""
        with storage_errors(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_lines(folder: Path) -> list[str]:
    """Return the complete lines of a log, none if there is no log."""
    path = folder / LOG_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the log of a run."""
    return [json.loads(line) for line in read_lines(folder)]
