"""Options of training: checked when they are made, and kept as JSON."""

import json

import pytest

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.targets import target_paths
from tests.support.checkpoints import hf_config

CONFIG = ModelConfig.from_dict(hf_config(num_hidden_layers=3))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": ("embedding",)}, "target `embedding` is unknown: use some of"),
        ({"target": ()}, "use some of attention"),
        ({"rank": 0}, "rank is 0: use more than 0"),
        ({"steps": -1}, "steps is -1: use more than 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"clip": -1.0}, "clip is -1.0: use 0 or more"),
        ({"decode": "maybe"}, "decode `maybe` is unknown"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TuneOptions(**wrong)  # pyright: ignore[reportArgumentType]


def test_they_survive_json() -> None:
    options = TuneOptions(target=("experts", "lm_head"), alpha=5.0, layers=2)
    assert TuneOptions.from_json(json.loads(json.dumps(options.as_json()))) == options


def test_the_scale_is_alpha_by_rank_and_two_without_alpha() -> None:
    assert TuneOptions(rank=4).scale == 2
    assert TuneOptions(rank=4, alpha=4).scale == 1


def test_all_is_attention_router_and_experts() -> None:
    found = target_paths(CONFIG, TuneOptions(target=("all",), layers=1))
    assert found == (
        *(f"model.layers.2.self_attn.{x}_proj" for x in "qkvo"),
        "model.layers.2.mlp.router",
        "model.layers.2.mlp.experts.gate_up_proj",
        "model.layers.2.mlp.experts.down_proj",
    )


def test_the_head_is_trained_when_it_is_named() -> None:
    found = target_paths(CONFIG, TuneOptions(target=("lm_head",)))
    assert found == ("lm_head",)


def test_upper_layers_are_trained() -> None:
    found = target_paths(CONFIG, TuneOptions(layers=2))
    assert {path.split(".")[2] for path in found} == {"1", "2"}


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="has 3 layers, and 4 are to be trained"):
        target_paths(CONFIG, TuneOptions(layers=4))
