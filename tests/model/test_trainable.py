"""Gradients of updates in training, against finite differences of the oracle."""

from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters import AdapterStack
from mlx_gptoss.model.adapters.adapter import updates_digest
from mlx_gptoss.model.adapters.experts import ExpertUpdates
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.model.experts.resident import Experts
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.layout_writers import WRITERS
from tests.support.low_rank import (
    ATTENTION,
    EVERYTHING,
    EXPERTS,
    LM_HEAD,
    ROUTER,
    Updates,
    merged,
    random_updates,
    start_from,
)
from tests.support.streaming import streamed, write

CONFIG = hf_config(num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2)
TENSORS = random_tensors(CONFIG, seed=3)
PARSED = ModelConfig.from_dict(CONFIG)
IDS = np.random.default_rng(4).integers(0, CONFIG["vocab_size"], 14).tolist()
STEP = 1e-6  # of a finite difference, in float64: so small that no route changes
# Relative, of float32 gradients along a random direction; a wrong factor exceeds it.
TOLERANCE = 2e-3


def trainable(updates: Updates, scale: float = 1.0, **options: Any) -> TrainableUpdates:
    """Return updates in training that start from those given."""
    ranks = {path: a.shape[-1] for path, (a, _) in updates.items()}
    found = TrainableUpdates(PARSED, ranks, scale=scale, **options)
    start_from(found, updates, scale)
    return found


def loss_of(model: GptOss, ids: list[int] = IDS) -> mx.array:
    logits = model(mx.array([ids[:-1]]))[0]
    return nn.losses.cross_entropy(logits, mx.array(ids[1:])).mean()


def oracle_loss(tensors: oracle.Tensors, updates: Updates) -> float:
    logits = oracle.logits(merged(tensors, updates), CONFIG, IDS[:-1])
    own = logits[np.arange(len(IDS) - 1), IDS[1:]]
    return float((np.log(np.exp(logits).sum(-1)) - own).mean())


def gradient_of(
    source: TrainableUpdates,
    model: GptOss,
    loss: Callable[[GptOss], mx.array] = loss_of,
) -> dict[str, np.ndarray]:
    """Return the gradient by parameter name."""
    with source.attached(model):
        _, gradient = nn.value_and_grad(source, lambda: loss(model))()
        mx.eval(gradient)
    return {name: np.array(x) for name, x in tree_flatten(gradient)}


def moved(updates: Updates, along: Updates, step: float) -> Updates:
    return {
        path: (a + step * along[path][0], b + step * along[path][1])
        for path, (a, b) in as_float64(updates).items()
    }


def parameter(path: str, which: str) -> str:
    """Return the name of a parameter of `TrainableUpdates`."""
    return f"updates.{path.replace('.', '/')}.{which}"


def as_float64(updates: Updates) -> Updates:
    return {
        path: (a.astype(np.float64), b.astype(np.float64))
        for path, (a, b) in updates.items()
    }


KINDS = {
    "dense attention, MXFP4 experts": "hf",
    "dense experts": "dense",
    "affine attention": "mlx-packed",
    "affine experts, apart": "mlx-split-affine",
    "mixed": "mlx-packed-mixed",
}
TARGETS = {
    "qkv": ATTENTION[:3],
    "o": ATTENTION[3:],
    "router": ROUTER,
    "gate_up": EXPERTS[:1],
    "down": EXPERTS[1:],
    "lm_head": LM_HEAD,
}


@pytest.fixture(scope="module", params=KINDS)
def weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GptOss, oracle.Tensors]:
    folder = tmp_path_factory.mktemp("weights")
    seen = WRITERS[KINDS[request.param]](folder, CONFIG, dict(TENSORS))
    return load_model(open_checkpoint(folder), dtype=mx.float32), seen


@pytest.mark.parametrize("target", TARGETS)
def test_gradients_are_those_of_finite_differences(
    weights: tuple[GptOss, oracle.Tensors], target: str
) -> None:
    model, tensors = weights
    updates = random_updates(CONFIG, 1, TARGETS[target], rank=2)
    gradient = gradient_of(trainable(updates), model)
    draw = np.random.default_rng(2)
    for which in (0, 1):  # A, then B
        along: Updates = {}
        for path, pair in updates.items():
            a, b = (
                draw.normal(size=x.shape) * (n == which) for n, x in enumerate(pair)
            )
            along[path] = a, b
        up, down = (
            oracle_loss(tensors, moved(updates, along, sign * STEP)) for sign in (1, -1)
        )
        expected = (up - down) / (2 * STEP)
        own = {path: gradient[parameter(path, "ab"[which])] for path in along}
        found = sum((own[path] * pair[which]).sum() for path, pair in along.items())
        # The deviation of derivatives along random directions.
        size = sum(np.square(own[path]).sum() for path in along) ** 0.5
        assert size > 1e-4
        assert abs(found - expected) < TOLERANCE * size


def test_the_model_itself_has_gradients_in_both_modes() -> None:
    """Nothing of routing stops them: in evaluation mode as in training."""
    model = build(CONFIG, TENSORS)
    for training in (True, False):
        model.train(training)

        def loss(scale: mx.array) -> mx.array:
            weight = model.model.norm.weight
            model.model.layers[0].input_layernorm.weight = scale
            try:
                return loss_of(model)
            finally:
                model.model.layers[0].input_layernorm.weight = weight

        start = mx.ones((CONFIG["hidden_size"],))
        gradient = np.array(mx.grad(loss)(start))
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1e-4


def gathered(
    experts: Experts,
    x: mx.array,
    expert_indices: mx.array,
    updates: ExpertUpdates | None = None,
) -> mx.array:
    pairs = updates and updates.pairs(expert_indices)
    return experts.apply_gathered(x, expert_indices, pairs)


BLOCKS = {
    "rows": partialmethod(Experts.apply_in_blocks, decode=False),
    "decoded": partialmethod(Experts.apply_in_blocks, decode=True),
}


@pytest.mark.parametrize("way", BLOCKS)
@pytest.mark.parametrize("dense", [False, True], ids=["packed", "dense"])
def test_experts_in_blocks_have_the_same_gradients(
    way: str, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(CONFIG, dense_tensors() if dense else TENSORS)
    updates = random_updates(CONFIG, 1, rank=2)
    monkeypatch.setattr(Experts, "apply_experts", gathered)
    expected = gradient_of(trainable(updates), model)
    monkeypatch.setattr(Experts, "apply_experts", BLOCKS[way])
    found = gradient_of(trainable(updates), model)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("way", [None, *BLOCKS])
def test_layers_computed_again_have_the_same_gradients(
    way: str | None, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(CONFIG, TENSORS)
    if way is not None:
        monkeypatch.setattr(Experts, "apply_experts", BLOCKS[way])
    updates = random_updates(CONFIG, 1, rank=2)
    plain = gradient_of(trainable(updates, dropout=dropout), model)
    again = gradient_of(trainable(updates, checkpointed=True, dropout=dropout), model)
    assert plain.keys() == again.keys()
    for name, expected in plain.items():
        np.testing.assert_allclose(again[name], expected, atol=1e-6, err_msg=name)


def test_a_loss_computed_again_keeps_the_gradient_of_the_head() -> None:
    model = build(CONFIG, TENSORS)
    source = trainable(random_updates(CONFIG, 1, (*LM_HEAD, *ROUTER), rank=2))
    targets = mx.array(IDS[1:])

    def part(hidden: mx.array, targets: mx.array) -> mx.array:
        logits = model.logits(hidden)
        return nn.losses.cross_entropy(logits, targets, reduction="sum")

    def loss(model: GptOss) -> mx.array:
        hidden = model.hidden(mx.array([IDS[:-1]]))[0]
        run = source.recomputed(part)
        halves = run(hidden[:6], targets[:6]) + run(hidden[6:], targets[6:])
        return halves / len(targets)

    expected = gradient_of(source, model)
    found = gradient_of(source, model, loss)
    assert np.abs(expected["updates.lm_head.a"]).max() > 1e-4
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_gradients_of_experts_in_blocks_take_no_memory_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where rows are not sorted, A and B have a gradient of each before the sum."""
    model = build(CONFIG, dense_tensors())
    ids = (IDS * 60)[:600]

    def peak(apply: Any) -> int:
        source = trainable(random_updates(CONFIG, 1, EXPERTS, rank=32))
        monkeypatch.setattr(Experts, "apply_experts", apply)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        gradient_of(source, model, lambda model: loss_of(model, ids))
        return mx.get_peak_memory() - before

    apart, blocks = peak(gathered), peak(Experts.apply_in_blocks)
    assert blocks < 0.7 * apart, (blocks, apart)


def dense_tensors() -> dict[str, np.ndarray]:
    """Return the tensors with dense experts, (E, in, out)."""
    nothing = random_updates(CONFIG, 1, EXPERTS)
    nothing = {path: (a, 0 * b) for path, (a, b) in nothing.items()}
    return {name: x.astype(np.float32) for name, x in merged(TENSORS, nothing).items()}


def test_adamw_steps_as_its_paper_says() -> None:
    """Decoupled weight decay (arXiv 1711.05101), in float64 from the same gradient."""
    rate, decay, betas, eps = 1e-2, 0.1, (0.9, 0.999), 1e-8
    model = build(CONFIG, TENSORS)
    source = trainable(random_updates(CONFIG, 1, rank=2))
    optimizer = optim.AdamW(
        rate, betas=list(betas), eps=eps, weight_decay=decay, bias_correction=True
    )
    state: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    values = {k: np.array(v, np.float64) for k, v in tree_flatten(source.parameters())}
    losses = []
    with source.attached(model):
        compute = nn.value_and_grad(source, lambda: loss_of(model))
        for step in range(1, 4):
            loss, gradient = compute()
            optimizer.update(source, gradient)
            mx.eval(source.parameters(), optimizer.state)
            losses.append(loss.item())
            for name, g in tree_flatten(gradient):
                m, v = state.get(name, (0.0, 0.0))
                g = np.array(g, np.float64)
                m, v = (
                    betas[0] * m + (1 - betas[0]) * g,
                    betas[1] * v + (1 - betas[1]) * g**2,
                )
                state[name] = m, v
                m, v = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
                values[name] = values[name] * (1 - rate * decay) - rate * m / (
                    v**0.5 + eps
                )
    assert losses[2] < losses[0]
    for name, found in tree_flatten(source.parameters()):
        np.testing.assert_allclose(np.array(found), values[name], atol=2e-6)


def test_new_updates_change_nothing_and_are_seeded() -> None:
    ranks = {f"model.layers.0.{module}": 4 for module in EVERYTHING if "." in module}
    first, again, other = (TrainableUpdates(PARSED, ranks, seed=n) for n in (1, 1, 2))
    for path, update in first.low_rank().items():
        a = np.array(update.a)
        assert np.array_equal(a, again.low_rank()[path].a)
        assert not np.array_equal(a, other.low_rank()[path].a)
        assert 0.7 < a.std() * a.shape[-2] ** 0.5 < 1.3
        assert not np.array(update.b).any()
    model = build(CONFIG, TENSORS)
    model.train()
    plain = model(mx.array([IDS]))
    with first.attached(model):
        assert mx.array_equal(model(mx.array([IDS])), plain)
    assert not model.training


@pytest.mark.parametrize("scale", [0.5, 16.0])
def test_an_adapter_made_of_them_computes_what_they_compute(scale: float) -> None:
    model = build(CONFIG, TENSORS)
    source = trainable(random_updates(CONFIG, 1, rank=2), scale)
    with source.attached(model):
        expected = model(mx.array([IDS]))
        plain = model(mx.array([IDS]), adapters=[0])
    adapter = source.to_adapter("mine", base="base")
    assert adapter.digest == updates_digest(adapter.updates, "base")
    model.set_adapters(AdapterStack(PARSED, [adapter]))
    assert mx.array_equal(model(mx.array([IDS]), adapters=[1]), expected)
    assert mx.array_equal(model(mx.array([IDS])), plain)


def test_parameters_survive_being_flattened() -> None:
    """As optimizers and files do: names have no dots that make other trees."""
    source = trainable(random_updates(CONFIG, 1, rank=2))
    before = dict(tree_flatten(source.parameters()))
    flat = tree_flatten(tree_map(lambda x: x + 1, source.parameters()))
    source.update(tree_unflatten(flat))
    after = dict(tree_flatten(source.parameters()))
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert mx.array_equal(mx.array(after[name]), mx.array(value) + 1)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`model\.embed_tokens` is no matrix"):
        TrainableUpdates(PARSED, {"model.embed_tokens": 4})
    checkpoint = write(tmp_path)
    own = TrainableUpdates(checkpoint.config, {"model.layers.0.mlp.router": 2})
    with (
        streamed(checkpoint, 4) as found,
        pytest.raises(MemoryBudgetError, match="layer 0 are streamed"),
        own.attached(found.model),
    ):
        pass
