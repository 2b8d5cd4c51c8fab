"""Submit requests to a runtime and collect their steps.

submission = Submission(runtime, ids, params)
steps = submission.wait()      # until the end; raises the error it ended with
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams

PATIENCE = 60  # seconds, for work that is done at once


class Submission:
    """One submitted request: its steps, and how often it ended."""

    def __init__(
        self,
        runtime: Runtime,
        ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        on_step: Callable[[Step], None] | None = None,
        **options: Any,
    ) -> None:
        self.steps: list[Step] = []
        self.ends: list[tuple[Statistics | None, BaseException | None]] = []
        self.late: list[Step] = []  # steps after the end: there must be none
        self.ended = threading.Event()
        self._on_step = on_step
        self.request = runtime.submit(
            ids, params, on_step=self._step, on_end=self._end, **options
        )

    def _step(self, step: Step) -> None:
        (self.late if self.ends else self.steps).append(step)
        if self._on_step is not None:
            self._on_step(step)

    def _end(self, stats: Statistics | None, error: BaseException | None) -> None:
        self.ends.append((stats, error))
        self.ended.set()

    def wait(self, patience: float = PATIENCE) -> list[Step]:
        """Wait for the end, which must come exactly once; raise its error."""
        assert self.ended.wait(patience), "the answer did not end"
        [(_, error)] = self.ends
        assert self.late == []
        if error is not None:
            raise error
        return self.steps

    @property
    def tokens(self) -> list[int]:
        return [step.token for step in self.wait()]

    @property
    def stats(self) -> Statistics:
        self.wait()
        [(stats, _)] = self.ends
        assert stats is not None
        return stats
