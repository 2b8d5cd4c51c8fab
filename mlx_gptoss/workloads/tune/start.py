"""An adapter that was trained before, to be trained on."""

from pathlib import Path

from mlx_gptoss.checkpoint.adapters import StoredAdapter, open_adapter
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.targets import target_paths


def open_start(
    folder: Path, config: ModelConfig, options: TuneOptions
) -> StoredAdapter:
    """Open an adapter of the model with `config` that has what is to be trained.

    Raises ConfigError for other targets or ranks than those of `options`, and
    CheckpointError for one that is damaged or of another model.
    """
    stored = open_adapter(folder, config)
    ranks = {sum(x.rank for x in pairs) for pairs in stored.pairs.values()}
    if len(ranks) > 1:
        raise ConfigError(
            f"`{folder}` has ranks {min(ranks)} to {max(ranks)}: only an adapter of "
            "one rank can be trained on"
        )
    if ranks != {options.rank}:
        raise ConfigError(
            f"`{folder}` has rank {min(ranks)}, and {options.rank} is to be trained: "
            f"use `--rank {min(ranks)}`"
        )
    wanted = set(target_paths(config, options))
    if odd := sorted(wanted ^ set(stored.paths)):
        what = "does not update" if odd[0] in wanted else "also updates"
        raise ConfigError(
            f"`{folder}` {what} `{odd[0]}`: use the `--target` and `--layers` that it "
            "was trained with"
        )
    return stored
