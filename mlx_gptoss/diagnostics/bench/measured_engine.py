"""One engine under one condition: its process, its runs, its column of results."""

import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mlx_gptoss.diagnostics.bench.decode_results import Column, DecodePoint
from mlx_gptoss.diagnostics.bench.engine_process import EngineProcess
from mlx_gptoss.engine.load_options import LoadOptions

WARM_UP_DEPTH, WARM_UP_TOKENS = 8, 2  # of a run that is not timed
SEED = 7


@dataclass(frozen=True)
class Condition:
    """How an engine is run, and with what options (see `engines`)."""

    name: str
    engine: str
    options: LoadOptions
    depths: tuple[int, ...]
    rounds: int
    lend_blas: bool = True


class MeasuredEngine:
    """Measures one engine, round by round."""

    def __init__(self, condition: Condition, folder: Path, vocab_size: int) -> None:
        self.condition = condition
        self.column = Column(condition.name)
        self._folder = folder
        self._vocab_size = vocab_size
        self._process: EngineProcess | None = None
        self._loads: list[float] = []
        self._runs: dict[int, list[Mapping[str, float]]] = defaultdict(list)

    def start(self, stack: ExitStack, *, keep: bool) -> None:
        """Load once; with `keep`, the process stays loaded until `stack` closes."""
        process = stack.enter_context(self._load())
        prompt = random_prompt(WARM_UP_DEPTH, self._vocab_size)
        self.column.primitives = process.primitives(prompt)
        if keep:
            self._process = process
        else:
            process.close()

    def same_measurement_as(self, other: "MeasuredEngine") -> bool:
        """Return whether both measure the same package, dtype, BLAS and adapters."""
        mine, theirs = self.column, other.column
        if self.condition.options.adapters != other.condition.options.adapters:
            return False
        return (mine.package, mine.dtype, mine.blas) == (
            theirs.package,
            theirs.dtype,
            theirs.blas,
        )

    def run_round(self, tokens: int) -> None:
        """Run once at each depth."""
        if self._process is not None:
            self._run(self._process, tokens)
        else:
            with self._load() as process:
                self._run(process, tokens)

    def result(self) -> Column:
        """Return the column, with medians over the rounds."""
        self.column.load_s = median(self._loads or [0.0])
        self.column.points = [
            DecodePoint(
                depth,
                prefill=depth / median(run["first_token_s"] for run in runs),
                decode=median((run["tokens"] - 1) / run["decode_s"] for run in runs),
                first_token_s=median(run["first_token_s"] for run in runs),
                rounds=len(runs),
            )
            for depth, runs in self._runs.items()
        ]
        return self.column

    def _load(self) -> EngineProcess:
        condition, column = self.condition, self.column
        process = EngineProcess(
            condition.engine,
            self._folder,
            condition.options,
            lend_blas=condition.lend_blas,
        )
        ready = process.ready
        column.package, column.dtype = ready.package, ready.dtype
        column.blas, column.experts = ready.blas, ready.experts
        self._loads.append(ready.load_s)
        process.run(random_prompt(WARM_UP_DEPTH, self._vocab_size), WARM_UP_TOKENS)
        return process

    def _run(self, process: EngineProcess, tokens: int) -> None:
        for depth in self.condition.depths:
            prompt = random_prompt(depth, self._vocab_size)
            self._runs[depth].append(process.run(prompt, tokens))
        totals, column = process.totals(), self.column
        column.peak_memory = max(column.peak_memory, totals["peak_memory"])
        column.peak_rss = max(column.peak_rss, totals["peak_rss"])
        column.hit_rate = totals["hit_rate"]


def random_prompt(depth: int, vocab_size: int) -> list[int]:
    """Return `depth` random token ids, the same for every engine."""
    rng = random.Random(SEED)
    return [rng.randrange(vocab_size) for _ in range(depth)]
