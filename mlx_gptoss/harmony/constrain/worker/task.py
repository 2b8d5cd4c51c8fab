"""A task of the worker: its message, its time limit, and the future of its answer."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.harmony.constrain.worker.process import WorkerProcess
from mlx_gptoss.harmony.json_text import Json


class LostError(Exception):
    """A task brought the worker down. The message completes a sentence: "it ..."."""


@dataclass(eq=False)
class Task:
    """A task for the worker.

    `message(process)` builds the message for a process. The process is killed if the
    answer does not arrive within `seconds`, plus the `more_seconds` that the message
    names, plus the time to load the task's `vocabulary`. `slot` is the number of its
    thread while it runs. `runs_alone` is set to find out if it crashes the process.
    """

    message: Callable[[WorkerProcess], Json]
    seconds: float
    vocabulary: int | None = None
    computes_mask: bool = False
    is_slow: bool = False
    runs_alone: bool = False
    future: "Future[Any]" = field(default_factory=Future)
    more_seconds: float = 0.0
    started_at: float = 0.0
    duration: float = 0.0
    memory: int = 0
    slot: int = 0
