"""Ask a runtime for several answers at once, and collect what comes.

asked = Asked(runtime, ids, params)
steps = asked.answer()      # waits for the end; raises the error it ended with
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams

PATIENCE = 60  # seconds, for work that takes none


class Asked:
    """One request: its steps, its end, and how often it ended."""

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
        self.late: list[Step] = []  # what came after the end: nothing should
        self.ended = threading.Event()
        self._on_step = on_step
        self.ticket = runtime.submit(
            ids, params, on_step=self._step, on_end=self._end, **options
        )

    def _step(self, step: Step) -> None:
        (self.late if self.ends else self.steps).append(step)
        if self._on_step is not None:
            self._on_step(step)

    def _end(self, stats: Statistics | None, error: BaseException | None) -> None:
        self.ends.append((stats, error))
        self.ended.set()

    def answer(self, patience: float = PATIENCE) -> list[Step]:
        """Wait for the end, which must come once; raise the error it came with."""
        assert self.ended.wait(patience), "the answer did not end"
        [(_, error)] = self.ends
        assert self.late == []
        if error is not None:
            raise error
        return self.steps

    @property
    def tokens(self) -> list[int]:
        return [step.token for step in self.answer()]

    @property
    def stats(self) -> Statistics:
        self.answer()
        [(stats, _)] = self.ends
        assert stats is not None
        return stats
