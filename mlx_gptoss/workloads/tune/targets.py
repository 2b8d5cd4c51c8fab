"""The modules of a model that get an update, by their paths."""

from collections.abc import Iterable

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.workloads.tune.options import (
    ATTENTION,
    EXPERTS,
    LM_HEAD,
    ROUTER,
    TuneOptions,
)

MODULES = {
    ATTENTION: tuple(f"self_attn.{x}_proj" for x in "qkvo"),
    ROUTER: ("mlp.router",),
    EXPERTS: ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
}


def target_paths(config: ModelConfig, options: TuneOptions) -> tuple[str, ...]:
    """Return the paths of all modules to train, the lowest layer first.

    Raises ConfigError for more layers than the model has.
    """
    return (*_in_layers(config, options), *_above(options))


def first_layer(config: ModelConfig, options: TuneOptions) -> int:
    """Return the lowest layer that is trained."""
    layers = options.layers or config.num_hidden_layers
    if layers > config.num_hidden_layers:
        raise ConfigError(
            f"the model has {config.num_hidden_layers} layers, and {layers} are to be "
            "trained: use fewer, or leave `--layers` out"
        )
    if not options.targets - {LM_HEAD}:
        return config.num_hidden_layers  # only the head: no layer needs a gradient
    return config.num_hidden_layers - layers


def _in_layers(config: ModelConfig, options: TuneOptions) -> Iterable[str]:
    for layer in range(first_layer(config, options), config.num_hidden_layers):
        for kind, names in MODULES.items():
            if kind in options.targets:
                for name in names:
                    yield f"model.layers.{layer}.{name}"


def _above(options: TuneOptions) -> Iterable[str]:
    if LM_HEAD in options.targets:
        yield LM_HEAD
