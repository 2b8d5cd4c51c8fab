"""Losses, gradient norms and AdamW's steps are PyTorch's."""

import importlib.util
import json
from typing import Any

import numpy as np
import pytest

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.workloads.tune.documents import TrainingDocument
from mlx_gptoss.workloads.tune.trainer import Trainer
from tests.support.build_model import build
from tests.support.layout_writers import dense_experts
from tests.support.low_rank import start_from
from tests.support.torch_training import (
    CLIP,
    CONFIG,
    DECAY,
    GOLDEN,
    RATE,
    STEPS,
    TENSORS,
    UPDATES,
    documents,
    shown,
    train_in_torch,
)
from tests.support.tuning import packed


def train_here(*, dense: bool) -> dict[str, Any]:
    """Return what `train_in_torch` does, from packed documents."""
    model = build(CONFIG, dense_experts(TENSORS) if dense else TENSORS)
    parsed = ModelConfig.from_dict(CONFIG)
    ranks = {path: a.shape[-1] for path, (a, _) in UPDATES.items()}
    updates = TrainableUpdates(parsed, ranks)
    start_from(updates, UPDATES)
    batch = packed(*(TrainingDocument(*one) for one in documents()))
    with updates.attached(model):
        trainer = Trainer(model, updates, weight_decay=DECAY, clip=CLIP)
        results = [trainer.step([batch], RATE) for _ in range(STEPS)]
    return {
        "losses": [each.loss for each in results],
        "gradient_norms": [each.gradient_norm for each in results],
        "after": {
            path: {"a": shown(np.array(update.a)), "b": shown(np.array(update.b))}
            for path, update in updates.low_rank().items()
        },
    }


def assert_agree(found: dict[str, Any], judge: dict[str, Any]) -> None:
    """Compare in float32's precision; the values are about 0.1."""
    np.testing.assert_allclose(found["losses"], judge["losses"], rtol=1e-5)
    np.testing.assert_allclose(
        found["gradient_norms"], judge["gradient_norms"], rtol=1e-5
    )
    assert found["after"].keys() == judge["after"].keys()
    for path, pair in judge["after"].items():
        for kind, values in pair.items():
            np.testing.assert_allclose(
                found["after"][path][kind], values, atol=1e-5, err_msg=f"{path} {kind}"
            )


@pytest.mark.parametrize("dense", [False, True], ids=["packed", "dense"])
def test_three_steps_are_those_of_pytorch(dense: bool) -> None:
    assert_agree(train_here(dense=dense), json.loads(GOLDEN.read_text()))


@pytest.mark.soak
def test_pytorch_still_does_what_the_golden_file_says() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: see tests/support/torch_training.py")
    judge = train_in_torch()
    assert_agree(train_here(dense=True), judge)
    assert_agree(judge, json.loads(GOLDEN.read_text()))
