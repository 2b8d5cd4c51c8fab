"""Decode steps of several sequences at once, against each alone, in float32."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import load_planned, plan_checkpoint
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.plan import RESIDENT, STREAMED, with_slots
from mlx_gptoss.model.device import forced_gpu_paths
from mlx_gptoss.model.rope import make_rotation, yarn_periods
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors, write_checkpoint

# Within the window, at its edges, far past it; of several capacities, and growing.
LENGTHS = (1, 3, 8, 380, 9, 10, 250)
STEPS = 10  # enough that every sequence wraps around its ring
TOLERANCE = 5e-4  # as in test_model: sums in another order


def stepped(model: Any, *, together: bool) -> np.ndarray:
    """Prefill prompts of LENGTHS, decode STEPS tokens of each: logits (STEPS, B, V)."""
    draw = np.random.default_rng(4)
    pool = model.make_pool()
    caches = [pool.make_cache() if together else model.make_cache() for _ in LENGTHS]
    for length, cache in zip(LENGTHS, caches, strict=True):
        prompt = draw.integers(0, 90, (1, length))
        mx.eval(model.hidden(mx.array(prompt), cache, last=True))
    found = []
    for tokens in draw.integers(0, 90, (STEPS, len(LENGTHS))):
        if together:
            hidden = model.hidden(mx.array(tokens)[None], caches)
        else:
            pairs = zip(tokens.tolist(), caches, strict=True)
            hidden = mx.concatenate(
                [model.hidden(mx.array([[token]]), cache) for token, cache in pairs],
                axis=1,
            )
        found.append(np.array(model.logits(hidden)[0]))
    return np.stack(found)


@pytest.mark.parametrize(
    "overrides",
    [
        {"sliding_window": 9},
        {"sliding_window": 9, "num_attention_heads": 8, "num_key_value_heads": 1},
        {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    ],
    ids=["window 9", "one key head", "all layers full"],
)
def test_sequences_together_have_the_logits_they_have_alone(
    overrides: dict[str, Any],
) -> None:
    config = hf_config(**overrides)
    model = build(config, random_tensors(config, seed=2))

    alone, together = (stepped(model, together=x) for x in (False, True))

    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    assert np.abs(alone).max() > 1  # they are worth comparing


def test_packed_rows_of_any_length_have_the_logits_they_have_alone() -> None:
    model = build(
        hf_config(sliding_window=9), random_tensors(hf_config(sliding_window=9), seed=2)
    )
    draw = np.random.default_rng(5)
    starts, lengths = (0, 30, 7, 0, 12, 11), (5, 1, 40, 1, 1, 9)
    pools = model.make_pool(), model.make_pool()  # rows need not share one
    together = [pools[row % 2].make_cache() for row in range(len(starts))]
    alone = [model.make_cache() for _ in starts]
    for row, start in enumerate(starts):
        prompt = mx.array(draw.integers(0, 90, (1, start)))
        for cache in (together[row], alone[row]) if start else ():
            mx.eval(model.hidden(prompt, cache, last=True))
    parts = [draw.integers(0, 90, length) for length in lengths]

    packed = mx.array(np.concatenate(parts)[None])
    hidden = model.hidden(packed, together, lengths=lengths, last=True)

    assert hidden.shape[1] == len(starts)
    for row, (part, cache) in enumerate(zip(parts, alone, strict=True)):
        own = model.logits(model.hidden(mx.array(part[None]), cache, last=True))[0, 0]
        found = model.logits(hidden)[0, row]
        np.testing.assert_allclose(np.array(found), np.array(own), atol=TOLERANCE)
        assert together[row].offset == cache.offset == starts[row] + lengths[row]


def test_streamed_experts_serve_sequences_together(tmp_path: Path) -> None:
    """With the fewest slots: a batch uses more experts than there are slots."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, sliding_window=9))
    whole, base = (
        plan_checkpoint(
            checkpoint, LoadOptions(dtype="float32", context=64, experts=mode)
        )
        for mode in (RESIDENT, STREAMED)
    )
    config = checkpoint.config
    slots = dict.fromkeys(range(config.num_hidden_layers), config.num_experts_per_tok)
    plans = [whole, with_slots(base, config, slots, STREAMED)]
    found = []
    for plan in plans:
        model, storage = load_planned(checkpoint, plan, dtype=mx.float32)
        found.append(stepped(model, together=True))
        if storage is not None:
            storage.close()

    resident, streamed = found
    np.testing.assert_array_equal(streamed, resident)


def test_rows_are_rotated_by_their_own_positions() -> None:
    config = ModelConfig.from_dict(hf_config())
    periods = yarn_periods(config)
    x = mx.array(np.random.default_rng(0).normal(size=(3, 2, 1, config.head_dim)))
    x = x.astype(mx.float32)
    offsets = [0, 7, 100_000]

    together = np.array(make_rotation(periods, offsets, 1)(x))

    alone = [
        make_rotation(periods, at, 1)(x[n : n + 1]) for n, at in enumerate(offsets)
    ]
    np.testing.assert_array_equal(
        together, np.concatenate([np.array(y) for y in alone])
    )


@pytest.mark.parametrize("gpu", [False, True])
def test_rows_that_share_their_first_tokens_have_the_logits_they_have_alone(
    gpu: bool,
) -> None:
    config = hf_config(sliding_window=9)
    model = build(config, random_tensors(config, seed=2))
    draw = np.random.default_rng(7)
    prompt = draw.integers(0, 90, 300)
    pool = model.make_pool()
    first = pool.make_cache()
    with forced_gpu_paths() if gpu else nullcontext():
        mx.eval(model.hidden(mx.array(prompt[None]), first, last=True))
        snapshot, before = first.snapshot(), pool.nbytes
        rows = [first, *(pool.make_cache() for _ in range(5)), pool.make_cache()]
        for row in rows[1:-1]:
            assert row.share(first, 300) == 300
            row.rebuild(300, [], snapshot)
        assert pool.nbytes < 2 * before  # the prompt is there once
        said = draw.integers(0, 90, (len(rows), 8))
        own = [[*prompt, *ids] if n < 6 else [*ids] for n, ids in enumerate(said)]
        rows[2].free()  # a row that leaves takes nothing from the others
        left = [n for n in range(len(rows)) if n != 2]
        hidden = [
            model.hidden(
                mx.array(said[left, :1].reshape(1, -1)), [rows[n] for n in left]
            )
        ]
        parts = [said[n, 1:4] for n in left]  # longer chunks after a shared beginning
        chunk = mx.array(np.concatenate(parts)[None])
        hidden.append(
            model.hidden(
                chunk, [rows[n] for n in left], lengths=[3] * len(left), last=True
            )
        )
        for step in range(4, 7):
            ids = mx.array(said[left, step].reshape(1, -1))
            hidden.append(model.hidden(ids, [rows[n] for n in left]))
        found = [np.array(model.logits(h)[0]) for h in hidden]
        lone = np.array(model.logits(model.hidden(mx.array(said[[5], 7:]), rows[5]))[0])
        expected = [np.array(model(mx.array(np.array([own[n]])))[0]) for n in left]

    start = [len(ids) - 8 for ids in own]
    for at, position in enumerate((0, 3, 4, 5, 6)):
        for row, n in enumerate(left):
            np.testing.assert_allclose(
                found[at][row], expected[row][start[n] + position], atol=TOLERANCE
            )
    np.testing.assert_allclose(lone[0], expected[left.index(5)][-1], atol=TOLERANCE)


def test_a_row_that_goes_back_into_what_it_shares_goes_on_alone() -> None:
    config = hf_config(layer_types=["full_attention"] * 2, num_hidden_layers=2)
    model = build(config, random_tensors(config, seed=2))
    ids = np.random.default_rng(8).integers(0, 90, 310)
    pool = model.make_pool()
    one, other = pool.make_cache(), pool.make_cache()
    mx.eval(model.hidden(mx.array(ids[None, :300]), one, last=True))
    other.share(one, 290)
    for cache, length in ((other, 280), (one, 285)):
        cache.trim(cache.offset - length)
        part = mx.array(ids[None, length:])
        found = model.logits(model.hidden(part, cache, last=True))
        np.testing.assert_allclose(
            np.array(found[0, 0]),
            np.array(model(mx.array(ids[None]))[0, -1]),
            atol=5e-4,
        )
    segment = other.copy_segment(270, 310)
    np.testing.assert_allclose(
        np.array(segment.layers[0][0]),
        np.array(one.copy_segment(270, 310).layers[0][0]),
        atol=TOLERANCE,
    )
    for cache in (one, other):
        cache.free()
    assert pool.nbytes == 0
