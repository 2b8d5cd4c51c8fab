"""Decode steps of several rows at once, as the server's scheduler runs them.

    with LockstepRows(runtime, prompts) as rows:
        times = rows.run([params, ...], time.perf_counter)

Prompts are submitted first for one token each, so that the prompt cache holds them, and
then all at the same moment: each row prefills its last tokens only, and from there on
all decode together, at equal depth. Knows `Runtime.submit`, nothing of schedulers,
caches or models.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from mlx_gptoss.engine.interfaces import TokenGuide
from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import GptOssError

ONE_TOKEN = SamplingParams(temperature=0, max_tokens=1)

T = TypeVar("T")
MakeGuide = Callable[[], TokenGuide | None]


def no_guide() -> None:
    """Return no guide."""


class LockstepRows:
    """Prompts of equal length on one runtime, prefilled once."""

    def __init__(self, runtime: Runtime, prompts: Sequence[list[int]]) -> None:
        self._runtime = runtime
        self._prompts = prompts
        for prompt in prompts:
            _Run(runtime, [prompt], [ONE_TOKEN], no_guide, lambda: None).finish()

    def run(
        self,
        params: Sequence[SamplingParams],
        observe: Callable[[], T],
        *,
        guide: MakeGuide = no_guide,
    ) -> tuple[list[T], list[int]]:
        """Decode all rows; call `observe` in the engine thread after each step of all.

        Returns what it returned, and the number of tokens of each row. The first and
        the last step of an answer are not observed: with the first the prompt is
        computed, and the last feeds no token. `params` has one entry per row.
        """
        run = _Run(self._runtime, self._prompts, params, guide, observe)
        run.finish()
        return run.observed[1:-1], run.counts


class _Run(Generic[T]):
    """One submission of all rows."""

    def __init__(
        self,
        runtime: Runtime,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        guide: MakeGuide,
        observe: Callable[[], T],
    ) -> None:
        self.observed: list[T] = []
        self.counts = [0] * len(prompts)
        self._observe = observe
        self._running = len(prompts)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        rows = list(zip(prompts, params, strict=True))

        def submit_all() -> None:  # before the scheduler's next iteration
            for row, (prompt, wanted) in enumerate(rows):
                runtime.submit(
                    prompt,
                    wanted,
                    guide=guide(),
                    stop_tokens={},
                    shared=True,  # a repeated prompt leaves one token to prefill
                    on_step=partial(self._on_step, row),
                    on_end=self._on_end,
                )

        runtime.run(submit_all)

    def finish(self) -> None:
        """Wait until all rows have ended. Raises the error of a row."""
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _on_step(self, row: int, _: Step) -> None:
        self.counts[row] += 1
        together = self._running == len(self.counts) and min(self.counts) > 0
        if together and row == len(self.counts) - 1:
            self.observed.append(self._observe())

    def _on_end(self, _: Statistics | None, error: BaseException | None) -> None:
        self._error = self._error or error
        self._running -= 1
        if not self._running:
            self._ended.set()


def require_steps(observed: Sequence[object], rows: int) -> None:
    """Raise GptOssError if the rows decoded no step together."""
    if not observed:
        raise GptOssError(
            f"{rows} rows never decoded together: their keys and values do not fit the "
            "memory; choose fewer rows or a smaller depth"
        )
