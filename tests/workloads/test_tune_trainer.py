"""One optimizer step: loss, gradient, accumulation, clipping, AdamW."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.workloads.tune.batches import PackedTokens
from mlx_gptoss.workloads.tune.decoded import decode_model
from mlx_gptoss.workloads.tune.loss import batch_loss, learned_tokens
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.trainer import Trainer
from tests.support.tuning import document, packed, tiny_model, updates_of

EVERYTHING = TuneOptions(target=("all", "lm_head"), rank=2)
DOCUMENTS = [document(12, 1), document(5, 2), document(20, 3)]
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-6}  # float32 sums in another order


def gradient(
    model: GptOss, batches: list[PackedTokens], **more: Any
) -> tuple[float, dict[str, np.ndarray]]:
    updates = updates_of(model, EVERYTHING, **more)
    with updates.attached(model):
        loss, found = Trainer(model, updates).gradient(batches)
        return as_numpy(loss, found)


def as_numpy(loss: mx.array, found: Any) -> tuple[float, dict[str, np.ndarray]]:
    return float(loss.item()), {  # pyright: ignore
        name: np.array(x) for name, x in tree_flatten(found)
    }


def assert_same(
    one: tuple[float, dict[str, np.ndarray]], two: tuple[float, dict[str, np.ndarray]]
) -> None:
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert one[1].keys() == two[1].keys()
    for name, values in one[1].items():
        np.testing.assert_allclose(values, two[1][name], **CLOSE, err_msg=name)


def test_the_loss_is_the_mean_over_learned_tokens() -> None:
    model = tiny_model()
    batch = packed(*DOCUMENTS)
    expected = []
    for one in DOCUMENTS:
        logits = np.array(model(mx.array(one.ids[:-1])[None])[0], np.float64)
        scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for place in np.flatnonzero(one.learned):
            expected.append(-scores[place - 1, one.ids[place]])
    assert learned_tokens(batch) == len(expected)
    loss = batch_loss(model, batch).item() / len(expected)
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_packed_documents_have_the_gradient_of_documents_alone() -> None:
    model = tiny_model()
    alone = [packed(one) for one in DOCUMENTS]
    assert_same(gradient(model, [packed(*DOCUMENTS)]), gradient(model, alone))


def test_checkpointing_changes_no_gradient() -> None:
    model = tiny_model()
    batch = [packed(*DOCUMENTS)]
    assert_same(gradient(model, batch, checkpointed=True), gradient(model, batch))


def test_decoded_weights_change_no_gradient() -> None:
    batch = packed(*DOCUMENTS)
    model = tiny_model()
    expected = gradient(model, [batch])
    decode_model(model)
    assert_same(gradient(model, [batch]), expected)
    assert_same(gradient(model, [batch], checkpointed=True), expected)


def test_logits_in_parts_change_no_gradient() -> None:
    model = tiny_model()
    batch = packed(*DOCUMENTS)
    updates = updates_of(model, EVERYTHING)
    found = []
    with updates.attached(model):
        for limit in (1000, 4):
            trainer = Trainer(model, updates, logits_at_once=limit)
            found.append(as_numpy(*trainer.gradient([batch])))
    assert_same(*found)


def test_every_trained_array_has_a_gradient() -> None:
    _, found = gradient(tiny_model(), [packed(*DOCUMENTS)])
    assert [name for name, x in found.items() if not np.abs(x).max() > 0] == []


def test_a_step_is_adamw_in_float64_with_a_clipped_gradient() -> None:
    """Decoupled decay and bias correction, as in arXiv 1711.05101."""
    model = tiny_model()
    updates = updates_of(model, EVERYTHING)
    rate, decay, clip = 1e-2, 0.1, 0.05
    with updates.attached(model):
        trainer = Trainer(model, updates, weight_decay=decay, clip=clip)
        moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for step in (1, 2):
            before = {n: np.array(x, np.float64) for n, x in trainer.trained.items()}
            _, found = trainer.gradient([packed(*DOCUMENTS)])
            own = {n: np.array(x, np.float64) for n, x in tree_flatten(found)}
            norm = np.sqrt(sum((x**2).sum() for x in own.values()))
            result = trainer.step([packed(*DOCUMENTS)], rate)
            assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
            assert norm > clip
            for name, x in own.items():
                g = x * clip / (norm + 1e-6)
                m, v = moments.get(name, (np.zeros_like(g), np.zeros_like(g)))
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                moments[name] = m, v
                change = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
                expected = before[name] * (1 - rate * decay) - rate * change
                np.testing.assert_allclose(
                    np.array(trainer.trained[name]), expected, rtol=2e-3, atol=2e-5
                )


def test_steps_on_one_batch_lower_its_loss() -> None:
    model = tiny_model()
    updates = updates_of(model, EVERYTHING)
    batch = [packed(*DOCUMENTS)]
    with updates.attached(model):
        trainer = Trainer(model, updates, clip=1.0)
        losses = [trainer.step(batch, 0.02).loss for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    model = tiny_model()
    updates = updates_of(model, EVERYTHING)
    with updates.attached(model):
        trainer = Trainer(model, updates)
        model.model.norm.weight = mx.full(model.model.norm.weight.shape, mx.nan)
        before = {name: np.array(x) for name, x in trainer.trained.items()}
        result = trainer.step([packed(*DOCUMENTS)], 0.1)
        assert not result.finite
        assert all(np.array_equal(x, before[n]) for n, x in trainer.trained.items())


def test_evaluating_gives_the_loss_of_a_step() -> None:
    model = tiny_model()
    updates = updates_of(model, EVERYTHING)
    with updates.attached(model):
        trainer = Trainer(model, updates)
        found = trainer.evaluate([packed(one) for one in DOCUMENTS])
        assert found == pytest.approx(trainer.step([packed(*DOCUMENTS)], 0.1).loss)
        assert model.training


def test_nothing_is_dropped_where_nothing_is_learned() -> None:
    model = tiny_model()
    batches = [packed(*DOCUMENTS)]
    losses = []
    for dropout in (0.0, 0.5):
        options = replace(EVERYTHING, dropout=dropout)
        updates = updates_of(model, options)
        with updates.attached(model):
            trainer = Trainer(model, updates)
            losses.append((trainer.evaluate(batches), trainer.step(batches, 0.0).loss))
    (plain, plain_step), (evaluated, dropped_step) = losses
    assert evaluated == plain == pytest.approx(plain_step)
    assert abs(dropped_step - plain_step) > 1e-3


def test_every_step_and_batch_drops_other_values() -> None:
    model = tiny_model()
    updates = updates_of(model, replace(EVERYTHING, dropout=0.5))
    batch = packed(*DOCUMENTS)
    with updates.attached(model):
        trainer = Trainer(model, updates)
        first, second = (trainer.step([batch], 0.0).loss for _ in range(2))
        both = trainer.step([batch, batch], 0.0).loss
    assert len({first, second, both}) == 3
