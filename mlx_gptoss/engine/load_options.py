"""The options for loading a model: one value, checked when it is made.

It is passed whole from the command line, the server and `load` to the planner. Knows no
model: options that depend on one are checked where its config is read.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.engine.adapter_source import AdapterSource, parse_adapters
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import parse_bytes
from mlx_gptoss.memory.plan import AUTO, MODES
from mlx_gptoss.memory.wired import check_wired
from mlx_gptoss.model.device import choose_dtype


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded. Every field is also a keyword argument of `load`.

    dtype: `float32`, `bfloat16` or `float16`, whose residual stream is scaled to fit;
        None is bfloat16 on a GPU, float32 on a CPU.
    memory: most bytes the model may use, or text such as "16GB"; None: what the
        machine has.
    experts: `resident` (all in memory), `hybrid` or `streamed` (read from disk on
        demand), or `auto`, the first of them that fits.
    context: most tokens of prompt and answer, at most (and by default) what the model
        supports.
    offline: download nothing.
    strict: make unknown keys in `config.json` errors.
    harmony: require Harmony's tokens, without which a model cannot chat.
    cache: limits of the prompt cache in memory and on disk, as `CacheOptions` of
        `mlx_gptoss.engine.prompt_cache`.
    batch: limits of `Runtime.submit`, as `BatchOptions` of
        `mlx_gptoss.engine.scheduler`.
    wired: memory a GPU keeps resident: `auto` (the size of the model), `off`, or a
        size.
    trace: a file of `mlx-gptoss trace record`; experts are placed by its hit rates.
    adapters: the adapters (LoRA) to load with the model, `[NAME=]FOLDER|HUB_ID[:SCALE]`
        each. One without a name is active from the start, see `Runtime.use_adapter`.

    Raises ConfigError for a value that no model allows, and MemoryBudgetError for a
    `memory` that is no size.
    """

    dtype: str | None = None
    memory: str | int | None = None
    experts: str = AUTO
    context: int | None = None
    offline: bool = False
    strict: bool = False
    harmony: bool = False
    cache: CacheOptions | None = None
    batch: BatchOptions | None = None
    wired: str = AUTO
    trace: str | Path | None = None
    adapters: Sequence[str | Path] = ()

    def __post_init__(self) -> None:
        if self.experts not in MODES:
            known = ", ".join(MODES)
            raise ConfigError(
                f"experts `{self.experts}` is unknown: use one of {known}"
            )
        choose_dtype(self.dtype)
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.context is not None and self.context < 1:
            raise ConfigError(
                f"a context of {self.context} tokens holds no prompt: use a larger "
                "one, or leave it out"
            )
        check_wired(self.wired)
        given = self.adapters
        one = isinstance(given, str | Path)
        texts = tuple(os.fspath(x) for x in ([given] if one else given))
        object.__setattr__(self, "adapters", texts)
        _ = self.adapter_sources  # checks them

    @property
    def adapter_sources(self) -> tuple[AdapterSource, ...]:
        """The adapters to load, parsed."""
        return parse_adapters([os.fspath(one) for one in self.adapters])

    @property
    def compute_dtype(self) -> mx.Dtype:
        """The dtype of the arithmetic: the one chosen, or the device's default."""
        return choose_dtype(self.dtype)

    def check_context(self, config: ModelConfig) -> None:
        """Raise ConfigError for a context longer than a model supports."""
        longest = config.max_position_embeddings
        if self.context is not None and self.context > longest:
            raise ConfigError(
                f"a context of {self.context:,} tokens is more than the {longest:,} "
                "that this model supports: use a smaller one, or leave it out"
            )
