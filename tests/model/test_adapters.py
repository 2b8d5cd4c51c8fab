"""Logits with an adapter, against the oracle's of weights that have it added."""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.diagnostics.bench.primitives import VIEWS, count_primitives
from mlx_gptoss.errors import CheckpointError, PromptError
from mlx_gptoss.format.config import ModelConfig, Quantization
from mlx_gptoss.format.layout import PACKED, SPLIT, Structure
from mlx_gptoss.model.adapters import AdapterStack, LowRank
from mlx_gptoss.model.adapters.adapter import (
    target_shapes,
    updates_digest,
)
from mlx_gptoss.model.adapters.arrange import TOP, arrange_updates
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import low_rank, oracle
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
    as_adapter,
    merged,
    random_updates,
)
from tests.support.oracle_cases import TOLERANCE

CONFIG = hf_config()
TENSORS = random_tensors(CONFIG, seed=3)
IDS = np.random.default_rng(4).integers(0, CONFIG["vocab_size"], 45).tolist()
MODEL = build(CONFIG, TENSORS)
PARSED = ModelConfig.from_dict(CONFIG)
CHOICES = {
    "attention": ATTENTION,
    "q and v": ("self_attn.q_proj", "self_attn.v_proj"),
    "router": ROUTER,
    "experts": EXPERTS,
    "down only": EXPERTS[1:],
    "lm_head": LM_HEAD,
    "everything": EVERYTHING,
}
WAYS = {"whole": [45], "in chunks": [7, 1, 1, 20, 16], "token by token": [1] * 45}


def loaded(model: GptOss, *several: Updates) -> list[int]:
    """Load adapters into a model; return their slots."""
    adapters = [as_adapter(f"{n}", updates) for n, updates in enumerate(several)]
    stack = AdapterStack(model.config, adapters)
    model.set_adapters(stack)
    return [stack.slot(adapter.name) for adapter in adapters]


def fed(model: GptOss, ids: list[int], sizes: list[int], slot: int) -> np.ndarray:
    """Run ids through a cache in chunks: all rows (L, V)."""
    rows, start, cache = [], 0, model.make_cache()
    for size in sizes:
        part = mx.array([ids[start : start + size]])
        rows.append(model(part, cache, adapters=[slot])[0])
        mx.eval(rows[-1])
        start += size
    return np.array(mx.concatenate(rows))


@pytest.mark.parametrize("chosen", CHOICES)
def test_logits_are_those_of_the_weights_with_the_product_added(chosen: str) -> None:
    updates = random_updates(CONFIG, 1, CHOICES[chosen])
    (slot,) = loaded(MODEL, updates)
    found = np.array(MODEL(mx.array([IDS]), adapters=[slot])[0])
    expected = oracle.logits(merged(TENSORS, updates), CONFIG, IDS)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(expected - oracle.logits(TENSORS, CONFIG, IDS)).max() > 0.05


def test_every_way_of_feeding_gives_them() -> None:
    updates = random_updates(CONFIG, 2)
    (slot,) = loaded(MODEL, updates)
    expected = oracle.logits(merged(TENSORS, updates), CONFIG, IDS)
    for way, sizes in WAYS.items():
        error = np.abs(fed(MODEL, IDS, sizes, slot) - expected).max()
        assert error < TOLERANCE, way


def test_an_adapter_of_some_layers_changes_those_only() -> None:
    updates = random_updates(CONFIG, 2, layers=[1])
    (slot,) = loaded(MODEL, updates)
    expected = oracle.logits(merged(TENSORS, updates), CONFIG, IDS)
    assert np.abs(fed(MODEL, IDS, WAYS["in chunks"], slot) - expected).max() < TOLERANCE


def test_several_loaded_adapters_do_not_mix() -> None:
    """Of different ranks, in different modules and layers, one active at a time."""
    several = [
        random_updates(CONFIG, 5, ATTENTION, rank=3),
        random_updates(CONFIG, 6, EVERYTHING, rank=7),
        random_updates(CONFIG, 7, (*EXPERTS, *LM_HEAD), rank=1, layers=[0, 2]),
    ]
    slots = loaded(MODEL, *several)
    ids = IDS[:15]
    for updates, slot in zip([{}, *several], [0, *slots], strict=True):
        expected = oracle.logits(merged(TENSORS, updates), CONFIG, ids)
        found = fed(MODEL, ids, [12, 1, 1, 1], slot)
        assert np.abs(found - expected).max() < TOLERANCE


@pytest.mark.parametrize("layout", WRITERS)
def test_any_layout_takes_an_adapter(layout: str, tmp_path: Path) -> None:
    """With q, k and v as one matrix or three, gate and up as one or two."""
    config = hf_config(num_hidden_layers=2, num_local_experts=4)
    tensors = random_tensors(config, seed=8)
    seen = WRITERS[layout](tmp_path, config, tensors)
    model = load_model(open_checkpoint(tmp_path), dtype=mx.float32)
    updates = random_updates(config, 9)
    (slot,) = loaded(model, updates)
    expected = oracle.logits(merged(seen, updates), config, IDS[:12])
    assert np.abs(fed(model, IDS[:12], [9, 1, 1, 1], slot) - expected).max() < TOLERANCE


def test_without_an_active_adapter_the_graph_is_unchanged() -> None:
    model = build(CONFIG, TENSORS)
    tokens, prompt = mx.array([[7]]), mx.array([IDS])

    def graphs(**adapters: Any) -> list[Any]:
        pool = model.make_pool()
        caches = [pool.make_cache() for _ in range(3)]
        for cache in caches:
            mx.eval(model.hidden(prompt, cache, last=True, **adapters))
        together = mx.array([[5, 6, 7]])
        return [
            count_primitives(model.logits(hidden))
            for hidden in (
                model.hidden(prompt, **adapters),
                model.hidden(tokens, caches[0], **adapters),
                model.hidden(together, caches, **adapters),
            )
        ]

    expected = graphs()
    loaded(model, random_updates(CONFIG, 1))
    assert graphs() == expected
    assert graphs(adapters=[0]) == expected
    model.set_adapters(None)
    assert graphs() == expected


def test_an_adapter_of_attention_costs_two_products_a_matrix() -> None:
    model = build(CONFIG, TENSORS)

    def operations(adapters: list[int]) -> dict[str, int]:
        cache = model.make_cache()
        mx.eval(model.hidden(mx.array([IDS]), cache, last=True))
        return dict(count_primitives(model(mx.array([[5]]), cache, adapters=adapters)))

    (slot,) = loaded(model, random_updates(CONFIG, 1, ATTENTION))
    plain, found = operations([0]), operations([slot])
    more = {name: found[name] - plain.get(name, 0) for name in found}
    matrices = 2 * CONFIG["num_hidden_layers"]  # q, k and v are one
    added = {name: n for name, n in more.items() if n and name not in VIEWS}
    assert added == {"Matmul": matrices, "AddMM": matrices}


def test_a_stack_is_held_once() -> None:
    """The matrices of each adapter are views of the stack."""
    model = build(CONFIG, TENSORS)
    adapters = [as_adapter(f"{n}", random_updates(CONFIG, n)) for n in range(2)]
    stack = AdapterStack(PARSED, adapters)
    mx.eval([update.a for one in adapters for update in one.updates.values()])
    before = mx.get_active_memory()
    model.set_adapters(stack)
    held = mx.get_active_memory() - before
    assert held < 1.02 * stack.nbytes(model.structure) + 100_000
    for slot in (1, 2):
        mx.eval(model(mx.array([[1]]), adapters=[slot]))
    mx.clear_cache()
    assert mx.get_active_memory() - before < held + 10_000


def test_one_adapter_is_not_copied() -> None:
    adapter = as_adapter("one", random_updates(CONFIG, 1, (*EXPERTS, *LM_HEAD)))
    mx.eval([[update.a, update.b] for update in adapter.updates.values()])
    before = mx.get_active_memory()
    MODEL.set_adapters(AdapterStack(PARSED, [adapter]))
    assert mx.get_active_memory() - before < 1000


def test_an_adapter_of_another_model_is_refused() -> None:
    other = hf_config(hidden_size=160)
    adapter = as_adapter("mine", random_updates(other, 1, ATTENTION))
    with pytest.raises(CheckpointError, match=r"`mine`.*another base model"):
        AdapterStack(PARSED, [adapter])
    deeper = hf_config(num_hidden_layers=4)
    adapter = as_adapter("mine", random_updates(deeper, 1, ROUTER))
    with pytest.raises(CheckpointError, match=r"`model.layers.3.mlp.router` is no mat"):
        AdapterStack(PARSED, [adapter])


def test_slots_are_found_by_name() -> None:
    adapters = [as_adapter(name, random_updates(CONFIG, 1, ROUTER)) for name in "ab"]
    stack = AdapterStack(PARSED, adapters)
    assert [stack.slot(name) for name in (None, "a", "b")] == [0, 1, 2]
    with pytest.raises(
        PromptError, match=re.escape("`c` is not loaded; loaded: `a`, `b`")
    ):
        stack.slot("c")
    with pytest.raises(CheckpointError, match="two adapters are called `a`"):
        AdapterStack(PARSED, [adapters[0], adapters[0]])


def test_a_digest_is_that_of_the_numbers_and_the_base() -> None:
    updates = low_rank.as_low_rank(random_updates(CONFIG, 1, LM_HEAD))
    digest = updates_digest(updates, "base")
    (a, b) = updates["lm_head"].a, updates["lm_head"].b
    assert digest == updates_digest({"lm_head": LowRank(a + 0, b + 0)}, "base")
    assert digest != updates_digest({"lm_head": LowRank(a, b + 1e-6)}, "base")
    assert digest != updates_digest(updates, "another")


@pytest.mark.parametrize("experts", [PACKED, SPLIT])
@pytest.mark.parametrize("fused", [True, False])
def test_updates_are_arranged_for_the_matrices_in_memory(
    fused: bool, experts: str
) -> None:
    affine = (
        {}
        if fused
        else {"model.layers.1.self_attn.k_proj": Quantization(32, 4, "affine")}
    )
    structure = Structure(affine, experts)
    updates = low_rank.as_low_rank(random_updates(CONFIG, 1))
    found = arrange_updates(updates, PARSED, structure)
    assert found.keys() == {TOP, 0, 1, 2}
    layer = found[1]

    def delta(update: LowRank) -> np.ndarray:
        return np.array(update.a @ update.b)

    qkv = [delta(updates[f"model.layers.1.self_attn.{x}_proj"]) for x in "qkv"]
    if fused:
        np.testing.assert_allclose(
            delta(layer["self_attn.qkv_proj"]), np.concatenate(qkv, -1), atol=1e-5
        )
    else:
        for x, expected in zip("qkv", qkv, strict=True):
            assert np.array_equal(delta(layer[f"self_attn.{x}_proj"]), expected)
    gate_up = delta(updates["model.layers.1.mlp.experts.gate_up_proj"])
    if experts == PACKED:
        assert np.array_equal(delta(layer["mlp.experts.gate_up_proj"]), gate_up)
    else:
        for n, half in enumerate(("gate", "up")):
            own = delta(layer[f"mlp.experts.{half}_proj"])
            np.testing.assert_allclose(own, gate_up[..., n::2], atol=1e-5)


def test_targets_are_all_matrices_but_the_embedding() -> None:
    shapes = target_shapes(PARSED)
    assert shapes == {
        prefix + module: low_rank.weight_shape(CONFIG, module)
        for module in EVERYTHING
        for prefix in (
            [""] if module == "lm_head" else [f"model.layers.{n}." for n in range(3)]
        )
    }
