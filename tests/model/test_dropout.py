"""Dropout of adapters: how much is dropped, and that it can be drawn again."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters.dropout import Dropout
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.low_rank import LM_HEAD, random_updates, start_from

X = mx.array(np.random.default_rng(1).normal(size=(200, 50)), mx.float32)
PATH = (7, 3, 0)  # seed, step, batch


def dropped(path: tuple[int, ...], layer: int = 2, module: str = "mlp.router"):
    return np.array(Dropout(0.25, path).of(layer).apply(module, X))


def test_a_share_is_dropped_and_the_others_are_scaled() -> None:
    found = dropped(PATH)
    kept = found != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(found[kept], np.array(X)[kept] / 0.75, rtol=1e-6)


def test_the_same_is_dropped_again_and_other_values_elsewhere() -> None:
    found = dropped(PATH)
    np.testing.assert_array_equal(dropped(PATH), found)
    others = [
        dropped((8, 3, 0)),
        dropped((7, 4, 0)),
        dropped((7, 3, 1)),
        dropped(PATH, layer=3),
        dropped(PATH, layer=-1),
        dropped(PATH, module="self_attn.o_proj"),
    ]
    for other in others:
        assert ((found == 0) & (other == 0)).mean() == pytest.approx(1 / 16, abs=0.02)


@pytest.mark.parametrize(
    ("apart", "together"),
    [
        *((f"self_attn.{x}_proj", "self_attn.qkv_proj") for x in "qkv"),
        *(
            (f"mlp.experts.{x}_proj", "mlp.experts.gate_up_proj")
            for x in ("gate", "up")
        ),
    ],
)
def test_matrices_that_may_be_one_drop_the_same(apart: str, together: str) -> None:
    expected = dropped(PATH, module=together)
    np.testing.assert_array_equal(dropped(PATH, module=apart), expected)


def test_only_what_a_multiplies_is_dropped_and_only_in_training() -> None:
    config = hf_config(num_hidden_layers=2)
    model = build(config, random_tensors(config, seed=3))
    updates = random_updates(config, 1, LM_HEAD, rank=2)
    source = TrainableUpdates(
        ModelConfig.from_dict(config), {"lm_head": 2}, seed=7, dropout=0.25
    )
    start_from(source, updates)
    source.draw_dropout(3, 0)
    hidden = X[:9, :1] * mx.ones((9, config["hidden_size"]))
    a, b = (mx.array(x) for x in updates["lm_head"])
    plain = model.logits(hidden)
    seen = Dropout(0.25, PATH).of(-1).apply("lm_head", hidden)
    with source.attached(model):
        np.testing.assert_allclose(
            model.logits(hidden), plain + seen @ a @ b, atol=1e-5
        )
        source.eval()
        expected = plain + hidden @ a @ b
        np.testing.assert_allclose(model.logits(hidden), expected, atol=1e-5)
