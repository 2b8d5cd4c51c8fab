"""Training steps of an adapter, beside `mlx_lm.lora` on the same rows.

Every engine has a process of its own, with the same dtype, BLAS, rank and targets, and
makes a step on the same random tokens in turn. Ours is measured as `tune` would run it,
and with weights that stay packed; mlx-lm compiled, as shipped, and with MLX's compiler
switched off, which is as fast on a CPU. Steps are timed warm: on a CPU the first ones
start a C++ compiler. Where the models do not fit together, each engine is started again
in every round.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, OURS, dtype_name
from mlx_gptoss.diagnostics.bench.request_process import RequestProcess
from mlx_gptoss.diagnostics.bench.training_main import TrainingReady
from mlx_gptoss.diagnostics.bench.tune_results import (
    PACKED,
    TrainingBench,
    TrainingColumn,
    TrainingWork,
)
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import device_budget
from mlx_gptoss.memory.plan import RESIDENT

PROGRAM = "mlx_gptoss.diagnostics.bench.training_main"
UNCOMPILED = {"MLX_DISABLE_COMPILE": "1"}
WARM_UP_STEPS = 2  # mlx-lm compiles in both
DEFAULT_STEPS, DEFAULT_ROUNDS = 2, 5
SHARE_OF_MEMORY = 0.7  # that engines kept loaded between rounds may take together


@dataclass(eq=False)
class _Subject:
    """One engine under one condition, and the steps that it made."""

    column: TrainingColumn
    start: Callable[[], RequestProcess]
    process: RequestProcess | None = None
    seconds: list[float] = field(default_factory=list)

    def load(self) -> RequestProcess:
        """Start the process and make the steps that are not timed."""
        process = self.start()
        ready = TrainingReady(**process.first_reply)
        for name, value in asdict(ready).items():
            setattr(self.column, name, value)
        for seed in range(WARM_UP_STEPS):
            loss = process.request(ask="step", seed=seed)["loss"]
            if seed == 0:
                self.column.first_loss = loss
        return process

    def run_round(self, seeds: Iterable[int]) -> None:
        """Make a step on each seed's tokens."""
        if self.process is not None:
            self._run(self.process, seeds)
        else:
            with self.load() as process:
                self._run(process, seeds)

    def _run(self, process: RequestProcess, seeds: Iterable[int]) -> None:
        column = self.column
        for seed in seeds:
            step = process.request(ask="step", seed=seed)
            self.seconds.append(step["seconds"])
            column.last_loss = step["loss"]
        totals = process.request(ask="totals")
        column.peak_memory = max(column.peak_memory, totals["peak_memory"])
        column.peak_rss = max(column.peak_rss, totals["peak_rss"])

    def finish(self, tokens: int) -> TrainingColumn:
        """Return the column, with medians over all steps."""
        if self.seconds:
            self.column.step_s = median(self.seconds)
            self.column.fastest_s = min(self.seconds)
            self.column.steps = len(self.seconds)
            self.column.tokens_per_second = tokens / self.column.step_s
        return self.column


def bench_tune(
    model: Path,
    options: LoadOptions,
    work: TrainingWork,
    *,
    against: str | None = None,
    steps: int = DEFAULT_STEPS,
    rounds: int = DEFAULT_ROUNDS,
    progress: ReportProgress = ignore_progress,
) -> TrainingBench:
    """Time training on the model in a folder, and `against` "mlx-lm" on the same.

    Each round makes `steps` steps of `work` with every engine.
    Raises EngineFailure if ours cannot be measured; a failure of the peer is recorded
    in its column.
    """
    checkpoint = open_checkpoint(model, strict=options.strict)
    _check(work, against=against, steps=steps, rounds=rounds)
    options = replace(
        options,
        dtype=dtype_name(options.compute_dtype),
        experts=RESIDENT,
        cache=None,
        batch=None,
    )
    load_average = os.getloadavg()[0]
    subjects = _subjects(checkpoint.folder, options, work, against)
    with ExitStack() as stack:
        running = _started(subjects, stack, progress)
        for turn in range(rounds):
            seeds = range(turn * steps, (turn + 1) * steps)
            for subject in running:
                progress(f"round {turn + 1} of {rounds}: {subject.column.name}")
                subject.run_round(WARM_UP_STEPS + seed for seed in seeds)
    return TrainingBench(
        model=str(model),
        machine=describe_machine(),
        load_average=load_average,
        rounds=rounds,
        work=work,
        columns=tuple(
            subject.finish(work.rows * work.tokens)
            for subject in subjects
            if subject in running or subject.column.failure
        ),
        peer=against,
    )


def _check(work: TrainingWork, *, against: str | None, steps: int, rounds: int) -> None:
    if against not in (None, MLX_LM):
        raise GptOssError(f"cannot compare with `{against}`: only `{MLX_LM}` is known")
    if min(work.rows, work.rank, steps, rounds) < 1 or work.tokens < 2:
        raise GptOssError(
            f"{rounds} rounds of {steps} steps on {work.rows} rows of {work.tokens} "
            "tokens train nothing: use at least one of each, and two tokens"
        )
    if not 0 <= work.prompt <= work.tokens:
        raise GptOssError(
            f"a prompt of {work.prompt} tokens leaves nothing to learn of a row: it "
            f"has {work.tokens + 1}"
        )


def _subjects(
    folder: Path, options: LoadOptions, work: TrainingWork, against: str | None
) -> list[_Subject]:
    given = [
        str(folder),
        json.dumps(asdict(options), default=str),
        json.dumps(asdict(work)),
    ]

    def subject(
        name: str, engine: str, decode: str, variables: dict[str, str] | None = None
    ) -> _Subject:
        def start() -> RequestProcess:
            arguments = [engine, *given, decode]
            return RequestProcess(name, PROGRAM, arguments, variables=variables)

        return _Subject(TrainingColumn(name), start)

    found = [
        subject(OURS, OURS, "auto"),
        subject(f"{OURS}, packed", OURS, "off"),
    ]
    if against is not None:
        found += [
            subject(against, against, "off"),
            subject(f"{against}, uncompiled", against, "off", UNCOMPILED),
        ]
    return found


def _started(
    subjects: list[_Subject], stack: ExitStack, progress: ReportProgress
) -> list[_Subject]:
    """Start each engine; omit a peer that fails, and ours if it would be repeated.

    Those that do not fit beside the others are closed again.
    """
    room = int(device_budget().total * SHARE_OF_MEMORY)
    running: list[_Subject] = []
    for subject in subjects:
        progress(f"loading {subject.column.name}")
        try:
            process = stack.enter_context(subject.load())
        except EngineFailure as error:
            if not running:
                raise
            subject.column.failure = str(error)
            continue
        same = running and running[0].column.weights == PACKED
        if same and subject.column.name.startswith(OURS):
            process.close()
            continue
        running.append(subject)
        room -= process.request(ask="totals")["peak_rss"]
        if room > 0:
            subject.process = process
        else:
            process.close()
    return running
