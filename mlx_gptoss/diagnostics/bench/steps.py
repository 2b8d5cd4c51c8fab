"""Time one decode step of one row and of a batch, in milliseconds.

Both run in this process on one runtime, in alternating rounds, as requests of the
server's scheduler. Sampling is at temperature 1; `guided` adds the guide that every
chat answer has, in the middle of a message. Seeds are chosen in a run that is not timed
so that no answer ends before its last step. The figures are for comparing two versions
of this package: run the command in alternating processes.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from mlx_gptoss.diagnostics.bench.constrain import FreeText
from mlx_gptoss.diagnostics.bench.lockstep import (
    LockstepRows,
    MakeGuide,
    no_guide,
    require_steps,
)
from mlx_gptoss.diagnostics.bench.operations import random_prompts
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.adapter_source import only_adapter
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import GptOssError

DEFAULT_DEPTH, DEFAULT_TOKENS, DEFAULT_ROUNDS = 64, 32, 3
LEAST_TOKENS = 4  # the first and the last are not timed
REHEARSALS = 50


@dataclass(frozen=True)
class StepTime:
    """Median milliseconds of a step of `rows` rows, and the fastest round's."""

    rows: int
    milliseconds: float
    fastest: float


@dataclass(frozen=True)
class StepsBench:
    """A step of one row, then one of the batch."""

    model: str
    machine: str
    load_average: float
    depth: int
    tokens: int
    rounds: int
    guided: bool
    steps: tuple[StepTime, ...]

    def as_json(self) -> dict[str, Any]:
        named = {f"ms_per_step_{step.rows}": step.milliseconds for step in self.steps}
        return asdict(self) | named


def bench_steps(
    model: Path,
    options: LoadOptions,
    *,
    batch: int = 1,
    depth: int = DEFAULT_DEPTH,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    guided: bool = False,
    progress: ReportProgress = ignore_progress,
) -> StepsBench:
    """Time steps of one row and of `batch` rows behind `depth` tokens each.

    Raises GptOssError for numbers too small to measure anything, and if the rows do not
    fit the memory together.
    """
    if tokens < LEAST_TOKENS or min(rounds, batch, depth) < 1:
        raise GptOssError(
            f"{batch} rows with {depth} tokens, {tokens} tokens and {rounds} rounds "
            f"measure nothing: decode at least {LEAST_TOKENS} tokens in a round"
        )
    load_average = os.getloadavg()[0]
    with load(
        model,
        options=options,
        cache=CacheOptions(idle=False),
        batch=BatchOptions(max_running=batch, max_waiting=batch),
    ) as runtime:
        runtime.use_adapter(only_adapter(options.adapter_sources))
        progress(f"prefilling {batch} prompts of {depth} tokens")
        timed = [
            TimedRows(runtime, rows, depth, tokens, guided=guided)
            for rows in sorted({1, batch})
        ]
        found: list[list[float]] = [[] for _ in timed]
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            pairs = list(zip(timed, found, strict=True))
            for rows, times in pairs if turn % 2 == 0 else reversed(pairs):
                times.append(rows.time_step())
    return StepsBench(
        str(model),
        describe_machine(),
        load_average,
        depth,
        tokens,
        rounds,
        guided,
        tuple(
            StepTime(rows.count, 1e3 * median(times), 1e3 * min(times))
            for rows, times in zip(timed, found, strict=True)
        ),
    )


class TimedRows:
    """A number of rows with the seeds of answers that do not end early."""

    def __init__(
        self, runtime: Runtime, rows: int, depth: int, tokens: int, *, guided: bool
    ) -> None:
        self.count = rows
        prompts = random_prompts(rows, depth, runtime.config.vocab_size)
        self._guide: MakeGuide = no_guide
        if guided:
            text = FreeText(runtime)
            header = text.header[-depth:]
            prompts = [prompt[: depth - len(header)] + header for prompt in prompts]
            self._guide = text.guide
        self._tokens = tokens
        self._rows = LockstepRows(runtime, prompts)
        self._seeds = self._rehearse()

    def time_step(self) -> float:
        """Return the mean seconds of a step of one round."""
        times, lengths = self._run(self._seeds)
        require_steps(times[1:], self.count)
        if set(lengths) != {self._tokens}:
            raise GptOssError("an answer ended early that did not before: run it again")
        return (times[-1] - times[0]) / (len(times) - 1)

    def _rehearse(self) -> list[int]:
        """Find seeds whose answers have all their tokens."""
        fresh = count()
        seeds = [next(fresh) for _ in range(self.count)]
        for _ in range(REHEARSALS):
            _, lengths = self._run(seeds)
            if set(lengths) == {self._tokens}:
                return seeds
            seeds = [
                seed if length == self._tokens else next(fresh)
                for seed, length in zip(seeds, lengths, strict=True)
            ]
        raise GptOssError(
            f"answers end before {self._tokens} tokens with every seed: decode fewer"
        )

    def _run(self, seeds: Sequence[int]) -> tuple[list[float], list[int]]:
        sampling = SamplingParams(max_tokens=self._tokens, temperature=1)
        params = [replace(sampling, seed=seed) for seed in seeds]
        return self._rows.run(params, time.perf_counter, guide=self._guide)
