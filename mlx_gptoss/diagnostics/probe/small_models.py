"""Run small random models from prompt to answer, as users run theirs.

They show what no single product shows: the small operations of a layer, and Python's
part of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.diagnostics.bench.engines import OwnEngine
from mlx_gptoss.diagnostics.bench.random_checkpoint import (
    SHAPES,
    CheckpointShape,
    make_config,
    write_config,
)
from mlx_gptoss.diagnostics.probe.stopwatch import Clock, ProbeScale, TimedPiece
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.plan import RESIDENT

FEW_LAYERS, MANY_LAYERS = 2, 12
WIDE_LAYERS = 4
WARM_TOKENS = 2
SHORT_PROMPT = 4


@dataclass
class SmallModel:
    """A random model, and the seconds of its runs.

    They are those to the first token, of a step, and to the first token of a short
    prompt.
    """

    config: ModelConfig
    folder: Path
    first_tokens: TimedPiece = field(default_factory=TimedPiece)
    steps: TimedPiece = field(default_factory=TimedPiece)
    short_prompts: TimedPiece = field(default_factory=TimedPiece)
    engine: OwnEngine | None = None

    def time_once(self, clock: Clock, prompt: int, answer: int) -> None:
        """Run the model once, loading it first if need be."""
        if self.engine is None:
            self.engine = OwnEngine(self.folder, LoadOptions(experts=RESIDENT))
            self._run(clock, prompt, WARM_TOKENS)
        started, first, ended = self._run(clock, prompt, answer)
        self.first_tokens.seconds.append(first - started)
        self.steps.seconds.append((ended - first) / (answer - 1))
        started, first, _ = self._run(clock, SHORT_PROMPT, WARM_TOKENS)
        self.short_prompts.seconds.append(first - started)

    def _run(
        self, clock: Clock, prompt: int, answer: int
    ) -> tuple[float, float, float]:
        """Return the times of the start, the first token and the last."""
        assert self.engine is not None
        ids = [n % self.config.vocab_size for n in range(7, 7 + prompt)]
        mx.synchronize()
        started = clock()
        tokens = self.engine.tokens(ids, answer)
        next(tokens)
        first = clock()
        for _ in tokens:
            pass
        ended = clock()
        mx.synchronize()  # a step in flight must not slow down the next run
        return started, first, ended


def write_small_model(
    folder: Path, name: str, layers: int, shape: CheckpointShape
) -> SmallModel:
    raw = make_config(shape, layers)
    write_config(folder / name, raw)
    return SmallModel(ModelConfig.from_dict(raw), folder / name)


def write_small_models(folder: Path) -> tuple[SmallModel, SmallModel, SmallModel]:
    """Write a narrow model of few layers, the same with many, and a wider one."""
    return (
        write_small_model(folder, "few", FEW_LAYERS, SHAPES[0]),
        write_small_model(folder, "many", MANY_LAYERS, SHAPES[0]),
        write_small_model(folder, "wide", WIDE_LAYERS, SHAPES[1]),
    )


def run_in_turn(models: Sequence[SmallModel], scale: ProbeScale, clock: Clock) -> None:
    """Run every model once in each round."""
    for _ in range(scale.model_rounds):
        for model in models:
            model.time_once(clock, scale.prompt, scale.answer)
