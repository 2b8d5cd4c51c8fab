"""Count the operations of one decode step of a batch, ours and mlx-lm's.

Operations are the primitives of MLX's graph that are no views. Ours is the step that
the scheduler runs for requests of the server, mlx-lm's that of its batch generator:
greedy, every row behind a prompt of its own, all of one length. Counts do not depend on
the machine's speed or load. Each engine runs in its own process.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engine_process import EngineProcess
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, OURS, dtype_name
from mlx_gptoss.diagnostics.bench.primitives import Counts, count_operations
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory.plan import RESIDENT

DEFAULT_DEPTH = 64
SHIPPED = f"{MLX_LM} as shipped"
SEED = 7


@dataclass(frozen=True)
class StepCounts:
    """The primitives of one engine's step; `failure` is the reason if there is none."""

    package: str = ""
    dtype: str = ""
    primitives: Counts | None = None
    failure: str | None = None

    @property
    def operations(self) -> int:
        return count_operations(self.primitives or {})

    @property
    def views(self) -> int:
        return sum((self.primitives or {}).values()) - self.operations


@dataclass(frozen=True)
class OperationsBench:
    """Counts by engine, ours first, of a batch of `rows` behind `depth` tokens."""

    model: str
    rows: int
    depth: int
    engines: Mapping[str, StepCounts]

    def as_json(self) -> dict[str, Any]:
        """Return an object per engine, `{"failure": ...}` if it was not counted."""
        return {
            name: {"failure": found.failure}
            if found.failure
            else {
                "operations": found.operations,
                "views": found.views,
                "package": found.package,
                "dtype": found.dtype,
                "rows": self.rows,
                "depth": self.depth,
                "primitives": found.primitives,
            }
            for name, found in self.engines.items()
        }


def bench_operations(
    model: Path,
    options: LoadOptions,
    *,
    batch: int = 1,
    depth: int = DEFAULT_DEPTH,
    progress: ReportProgress = ignore_progress,
) -> OperationsBench:
    """Count a step of `batch` rows with `depth` tokens each, on the model in a folder.

    mlx-lm is counted in the same dtype, and as shipped (the checkpoint's dtype, which
    on a CPU adds conversions) if that differs. Experts are resident. Raises
    EngineFailure if ours cannot be counted; a failure of mlx-lm is in the result.
    """
    checkpoint = open_checkpoint(model, strict=options.strict)
    config, folder = checkpoint.config, checkpoint.folder
    if batch < 1 or not 1 <= depth < config.max_position_embeddings:
        raise GptOssError(
            f"{batch} rows with {depth} tokens cannot be counted: choose at least one "
            f"row, and a depth from 1 to {config.max_position_embeddings - 1}"
        )
    prompts = random_prompts(batch, depth, config.vocab_size)
    options = replace(
        options,
        dtype=dtype_name(options.compute_dtype),
        experts=RESIDENT,
        context=batch * (depth + 1),  # the plan holds the keys and values of all rows
    )
    theirs = replace(options, adapters=())  # mlx-lm is counted without them
    found: dict[str, StepCounts] = {}
    for name, engine, wanted in (
        (OURS, OURS, options),
        (MLX_LM, MLX_LM, theirs),
        (SHIPPED, MLX_LM, replace(theirs, dtype=None)),
    ):
        progress(f"counting a step of {name}")
        try:
            counts = _count(engine, folder, wanted, prompts)
        except EngineFailure as error:
            if engine == OURS:
                raise
            found[name] = StepCounts(failure=str(error))
            break  # as shipped it would fail as well
        if name != SHIPPED or counts.dtype != found[MLX_LM].dtype:
            found[name] = counts
    return OperationsBench(str(model), batch, depth, found)


def random_prompts(rows: int, depth: int, vocab_size: int) -> list[list[int]]:
    """Return prompts of `depth` random token ids that share no prefix."""
    rng = random.Random(SEED)
    return [[rng.randrange(vocab_size) for _ in range(depth)] for _ in range(rows)]


def _count(
    engine: str, folder: Path, options: LoadOptions, prompts: list[list[int]]
) -> StepCounts:
    with EngineProcess(engine, folder, options) as process:
        counts = process.batch_primitives(prompts)
    return StepCounts(process.ready.package, process.ready.dtype, counts)
