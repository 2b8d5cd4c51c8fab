"""Prompts to prefill while the scheduler has nothing else to do."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from mlx_gptoss.engine.interfaces import TokenIds
from mlx_gptoss.engine.prompt_cache import BackgroundPrefill
from mlx_gptoss.model.adapters import Adapter

MAX_IDLE_TASKS = 8  # that wait; older ones are cancelled

log = logging.getLogger(__name__)


class IdlePrompt(NamedTuple):
    """A prompt to prefill, and the adapter that reads it."""

    ids: TokenIds
    adapter: Adapter | None = None


class IdleWork:
    """Prefills the newest prompt first, a small step at a time. For the engine thread.

    `start(prompt)` returns the work of prefilling a prompt.
    """

    def __init__(self, start: Callable[[IdlePrompt], BackgroundPrefill]) -> None:
        self._start = start
        self._tasks: list[tuple[Future[None], IdlePrompt]] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, future: "Future[None]", prompt: IdlePrompt) -> None:
        """Complete `future` once a prompt is prefilled; cancel it if that fails.

        The oldest task is cancelled if too many wait.
        """
        self._tasks.append((future, prompt))
        while len(self._tasks) > MAX_IDLE_TASKS:
            self._tasks.pop(0)[0].cancel()

    def step(self) -> None:
        """Run a step of the newest task."""
        future, prompt = task = self._tasks[-1]
        try:
            more = not future.cancelled() and self._start(prompt).step()
        except Exception:  # no caller waits for it, and the engine must go on
            log.exception("prefilling a prompt in idle time failed")
            future.cancel()
            more = False
        if more:
            return
        if task in self._tasks:
            self._tasks.remove(task)
        if not future.cancelled():
            future.set_result(None)

    def cancel(self) -> None:
        """Cancel all tasks."""
        while self._tasks:
            self._tasks.pop()[0].cancel()
