"""Time a token classifier on texts of random tokens, beside peers on the same weights.

Each side runs in a process of its own, in float32, in turns: one round of all texts for
each. The share of equal labels says whether a peer computes the same.
"""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.redact_main import OURS
from mlx_gptoss.diagnostics.bench.request_process import RequestProcess
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress

PROGRAM = "mlx_gptoss.diagnostics.bench.redact_main"


@dataclass(frozen=True, kw_only=True)
class RedactWork:
    """The texts of a round: `texts` of `tokens` each, `rounds` times."""

    texts: int = 8
    tokens: int = 1024
    rounds: int = 3


@dataclass(frozen=True)
class RedactColumn:
    """One side: its tokens a second, and the share of labels that are ours."""

    name: str
    tokens_per_second: float = 0.0
    same_labels: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class RedactBench:
    """Columns: ours, then the peers'. A ratio above 1 says that ours is faster."""

    model: str
    machine: str
    work: RedactWork
    columns: tuple[RedactColumn, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """Our tokens a second by those of each peer that ran."""
        ours, *peers = self.columns
        return {
            peer.name: ours.tokens_per_second / peer.tokens_per_second
            for peer in peers
            if not peer.failure and not ours.failure
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "machine": self.machine,
            "work": asdict(self.work),
            "columns": [asdict(one) for one in self.columns],
            "ratios": self.ratios,
        }


def bench_redact(
    folder: Path,
    work: RedactWork,
    *,
    against: Sequence[str] = (),
    progress: ReportProgress = ignore_progress,
) -> RedactBench:
    """Measure a classifier; a peer that fails has a column that says why."""
    config = open_checkpoint(folder, classifier=True).config
    draw = random.Random(0)
    texts = [
        [draw.randrange(config.vocab_size) for _ in range(work.tokens)]
        for _ in range(work.texts)
    ]
    sides = [OURS, *against]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    labels: dict[str, list[list[int]]] = {}
    names, failures = {side: side for side in sides}, dict[str, str]()
    with ExitStack() as stack:
        processes: dict[str, RequestProcess] = {}
        for side in sides:
            try:
                made = RequestProcess(side, PROGRAM, [side, str(folder)])
                processes[side] = stack.enter_context(made)
                names[side] = made.first_reply["package"]
                labels[side] = made.request(texts=texts)["labels"]  # and warm
            except EngineFailure as error:
                processes.pop(side, None)
                failures[side] = str(error)
        for number in range(work.rounds):
            for side, process in processes.items():
                progress(f"round {number + 1} of {work.rounds}: {names[side]}")
                seconds[side].append(process.request(texts=texts)["seconds"])
    return RedactBench(
        str(folder),
        describe_machine(),
        work,
        tuple(
            _column(names[side], work, seconds[side], failures.get(side))
            if side in failures
            else _column(
                names[side],
                work,
                seconds[side],
                same=_share(labels[OURS], labels[side]) if OURS in labels else None,
            )
            for side in sides
        ),
    )


def _column(
    name: str,
    work: RedactWork,
    seconds: Sequence[float],
    failure: str | None = None,
    same: float | None = None,
) -> RedactColumn:
    if failure is not None:
        return RedactColumn(name, failure=failure)
    return RedactColumn(name, work.texts * work.tokens / median(seconds), same)


def _share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    pairs = [
        (a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)
