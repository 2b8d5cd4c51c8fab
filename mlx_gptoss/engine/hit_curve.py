"""The hit curve of a recorded run: hit rate of expert slots by their number."""

from pathlib import Path

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import HitCurve
from mlx_gptoss.model.experts.replay import hit_curve, layers_by_hit_rate
from mlx_gptoss.model.experts.trace import open_trace

CURVE_POINTS = 16  # the curve is interpolated between them


def load_hit_curve(path: str | Path | None, config: ModelConfig) -> HitCurve:
    """Replay a trace of `trace record` with different numbers of expert slots.

    Without a path, return the usual curve.

    Raises CheckpointError if the file is not a trace, and ConfigError if it was
    recorded with a model of another shape.
    """
    if path is None:
        return HitCurve()
    trace = open_trace(Path(path))
    E, k = config.num_local_experts, config.num_experts_per_tok
    here = (config.num_hidden_layers, E, k)
    recorded = (trace.layers, trace.experts, trace.routing.shape[2])
    if recorded != here:
        raise ConfigError(
            f"`{path}` was recorded with {_describe_shape(*recorded)}, this model has "
            f"{_describe_shape(*here)}: record its own with `mlx-gptoss trace record`"
        )
    slots = sorted({k, *range(k, E + 1, max(1, E // CURVE_POINTS))})
    worst = layers_by_hit_rate(trace, max(k, E // 2))
    return HitCurve.recorded(hit_curve(trace, slots), f"recorded in {path}", worst)


def _describe_shape(layers: int, experts: int, chosen: int) -> str:
    return f"{layers} layers of {experts} experts, {chosen} a token"
