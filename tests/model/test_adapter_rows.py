"""Rows of different adapters in one pass, and experts in every storage."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.model.adapters import AdapterStack, LowRank
from mlx_gptoss.model.adapters.experts import PREFIX, ExpertUpdates
from mlx_gptoss.model.adapters.passes import LayerUpdates, activate
from mlx_gptoss.model.adapters.rows import GATHER_MAX_ROWS, RowSlots, add_updates
from mlx_gptoss.model.adapters.stack import stack_slots
from mlx_gptoss.model.device import forced_gpu_paths
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.low_rank import (
    ATTENTION,
    EXPERTS,
    LM_HEAD,
    ROUTER,
    Updates,
    as_adapter,
    merged,
    random_updates,
)
from tests.support.oracle_cases import TOLERANCE
from tests.support.streaming import resident, streamed, write

CONFIG = hf_config(num_local_experts=6)
TENSORS = random_tensors(CONFIG, seed=3)
MODEL = build(CONFIG, TENSORS)
NONE: Updates = {}
SEVERAL = [
    random_updates(CONFIG, 5, (*ATTENTION, *LM_HEAD), rank=3),
    random_updates(CONFIG, 6, rank=6),
    random_updates(CONFIG, 7, (*EXPERTS, *ROUTER), rank=2, layers=[0, 2]),
]


def load_several(model: GptOss, several: Sequence[Updates] = SEVERAL) -> None:
    adapters = [as_adapter(f"{n}", updates) for n, updates in enumerate(several)]
    model.set_adapters(AdapterStack(model.config, adapters))


@cache
def with_adapter(slot: int) -> dict[str, np.ndarray]:
    return merged(TENSORS, [NONE, *SEVERAL][slot])


def expected_rows(ids: np.ndarray, slot: int) -> np.ndarray:
    return oracle.logits(with_adapter(slot), CONFIG, ids.tolist())


@pytest.mark.parametrize("paths", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "slots", [(1, 0, 2, 3, 1), (0, 2, 0, 2, 2), (3, 3, 3, 3, 3)], ids=str
)
def test_rows_decoded_together_have_the_logits_of_their_own_adapter(
    slots: tuple[int, ...], paths: str
) -> None:
    load_several(MODEL)
    lengths = (3, 12, 1, 9, 20)
    draw = np.random.default_rng(1)
    rows = [draw.integers(0, 301, length + 4) for length in lengths]
    pool = MODEL.make_pool()
    caches = [pool.make_cache() for _ in rows]
    with forced_gpu_paths() if paths == "gpu" else nullcontext():
        for row, length, cache, slot in zip(rows, lengths, caches, slots, strict=True):
            prompt = mx.array(row[None, :length])
            mx.eval(MODEL.hidden(prompt, cache, last=True, adapters=[slot]))
        steps = []
        for n in range(4):
            ends = zip(rows, lengths, strict=True)
            tokens = mx.array([int(row[length + n]) for row, length in ends])
            hidden = MODEL.hidden(tokens[None], caches, adapters=slots)
            steps.append(np.array(MODEL.logits(hidden, adapters=slots)[0]))
    found = np.stack(steps, axis=1)  # (R, 4, V)
    for row, slot, own in zip(rows, slots, found, strict=True):
        np.testing.assert_allclose(own, expected_rows(row, slot)[-4:], atol=TOLERANCE)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("paths", ["cpu", "gpu"])
def test_prompts_and_tokens_of_different_adapters_share_a_pass(
    paths: str, last: bool
) -> None:
    """Rows of any length, given in another order than they are computed in."""
    load_several(MODEL)
    slots, starts, lengths = (2, 0, 1, 3, 2), (5, 30, 0, 0, 11), (1, 1, 40, 7, 30)
    assert sum(lengths) > GATHER_MAX_ROWS
    draw = np.random.default_rng(2)
    rows = [draw.integers(0, 301, a + b) for a, b in zip(starts, lengths, strict=True)]
    pools = MODEL.make_pool(), MODEL.make_pool()
    caches = [pools[n % 2].make_cache() for n in range(len(rows))]
    with forced_gpu_paths() if paths == "gpu" else nullcontext():
        for row, start, cache, slot in zip(rows, starts, caches, slots, strict=True):
            if start:
                prompt = mx.array(row[None, :start])
                mx.eval(MODEL.hidden(prompt, cache, last=True, adapters=[slot]))
        packed = np.concatenate(
            [row[start:] for row, start in zip(rows, starts, strict=True)]
        )
        hidden = MODEL.hidden(
            mx.array(packed[None]), caches, lengths=lengths, last=last, adapters=slots
        )
        positions = None if last else lengths
        logits = MODEL.logits(hidden, adapters=slots, lengths=positions)
        found = np.array(logits[0])
    ends = np.cumsum([1] * len(rows) if last else lengths)
    for row, slot, end, length in zip(rows, slots, ends, lengths, strict=True):
        count = 1 if last else length
        expected = expected_rows(row, slot)[-count:]
        np.testing.assert_allclose(found[end - count : end], expected, atol=TOLERANCE)


def test_rows_without_a_cache_have_an_adapter_each() -> None:
    load_several(MODEL)
    ids = np.random.default_rng(3).integers(0, 301, (4, 25))
    slots = [0, 3, 2, 1]
    found = np.array(MODEL(mx.array(ids), adapters=slots))
    for row, slot, own in zip(ids, slots, found, strict=True):
        np.testing.assert_allclose(own, expected_rows(row, slot), atol=TOLERANCE)


def test_a_row_without_an_adapter_is_bit_equal_beside_others() -> None:
    load_several(MODEL)
    ids = mx.array(np.random.default_rng(3).integers(0, 301, (3, 9)))
    plain = MODEL.logits(MODEL.hidden(ids))
    slots = [0, 2, 0]
    found = MODEL.logits(MODEL.hidden(ids, adapters=slots), adapters=slots)
    assert mx.array_equal(found[0], plain[0])
    assert mx.array_equal(found[2], plain[2])
    assert not mx.allclose(found[1], plain[1])


@pytest.mark.parametrize("layout", ["hf", "mlx-split-mxfp4"])
@pytest.mark.parametrize("slots", [(1, 1, 1), (0, 2, 1)], ids=["one", "mixed"])
def test_streamed_experts_are_bit_equal_to_resident_ones(
    layout: str, slots: tuple[int, ...], tmp_path: Path
) -> None:
    checkpoint = write(tmp_path, layout)
    own = hf_config(num_attention_heads=2, num_key_value_heads=1, num_local_experts=9)
    several = [
        random_updates(own, 1, (*EXPERTS, *ATTENTION)),
        random_updates(own, 2, rank=3),
    ]
    ids = mx.array(np.random.default_rng(1).integers(0, 301, (3, 16)))

    def run(model: GptOss) -> list[mx.array]:
        """Prefill so much that groups are needed, then decode, token by token."""
        load_several(model, several)
        pool = model.make_pool()
        caches = [pool.make_cache() for _ in slots]
        prompt = ids[:, :13].reshape(1, -1)
        hidden = [model.hidden(prompt, caches, lengths=[13] * 3, adapters=slots)]
        hidden += [
            model.hidden(ids[None, :, n], caches, adapters=slots) for n in (13, 14, 15)
        ]
        mx.eval(hidden)
        return hidden

    expected = run(resident(checkpoint))
    for count in (3, 5, 9):
        with streamed(checkpoint, count) as found:
            assert all(map(mx.array_equal, run(found.model), expected)), count


def test_experts_multiplied_one_by_one_take_the_updates_of_their_rows() -> None:
    """As in a long prefill on a CPU, whatever the BLAS here."""
    load_several(MODEL)
    draw = np.random.default_rng(5)
    x = mx.array(draw.normal(size=(40, CONFIG["hidden_size"])), mx.float32)
    chosen = mx.array(np.stack([draw.permutation(6)[:3] for _ in range(40)]), mx.uint32)
    experts = MODEL.model.layers[0].mlp.experts
    for slots in ([2] * 4, [0, 3, 2, 2]):
        updates = updates_of(MODEL, slots).experts()
        gathered = experts.apply_gathered(x, chosen, updates.pairs(chosen))
        for found in (
            experts.apply_one_by_one(x, chosen, updates),
            experts.apply_sorted(x, chosen, updates.pairs(chosen)),
            experts.apply_on_two_streams(x, chosen, updates.pairs(chosen)),
        ):
            np.testing.assert_allclose(np.array(found), np.array(gathered), atol=2e-5)
        plain = experts.apply_gathered(x, chosen)
        changed = np.abs(np.array(gathered - plain)).max(axis=(1, 2)) > 1e-3
        assert changed.tolist() == [slot > 0 for slot in slots for _ in range(10)]


def updates_of(model: GptOss, slots: Sequence[int]) -> LayerUpdates:
    """Return the updates of the first layer for 10 tokens of each slot."""
    active = activate(model._updates, slots)
    assert active is not None
    updates = active.for_rows([10] * len(slots)).layer(0)
    assert updates is not None
    return updates


def test_activations_keep_their_dtype() -> None:
    model = build(CONFIG, TENSORS, mx.bfloat16)
    load_several(model)
    ids = mx.array(np.random.default_rng(3).integers(0, 301, (2, 9)))
    slots = [1, 2]
    hidden = model.hidden(ids, adapters=slots)
    assert hidden.dtype == mx.bfloat16
    found = np.array(model.logits(hidden, adapters=slots))
    load_several(MODEL)
    expected = np.array(MODEL(ids, adapters=slots))
    plain = np.array(MODEL(ids))
    error, moved = (np.abs(x - expected).mean() for x in (found, plain))
    assert error < moved / 4  # of rounding, and of the adapters


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_row_gets_the_product_of_its_own_slot(data: st.DataObject) -> None:
    """Any slots of any rows, few or many, of any ranks, some without an update."""
    count = data.draw(st.integers(1, 4), "adapters")
    ranks = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    rows = data.draw(st.integers(1, 2 * GATHER_MAX_ROWS))
    draw = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    experts = data.draw(st.sampled_from([0, 3]))
    used = draw.integers(0, count + 1, rows)
    shape = (experts,) if experts else ()
    parts = [
        LowRank(
            mx.array(draw.normal(size=(*shape, 6, rank)), mx.float32),
            mx.array(draw.normal(size=(*shape, rank, 4)), mx.float32),
        )
        if rank
        else None
        for rank in ranks
    ]
    x, y = draw.normal(size=(rows, 6)), draw.normal(size=(rows, 4))
    given_x, given_y = mx.array(x, mx.float32), mx.array(y, mx.float32)
    update, slots = stack_slots(parts, mx.float32), RowSlots(used)
    if experts:
        chosen = draw.integers(0, experts, (rows, 2))
        pairs = ExpertUpdates({f"{PREFIX}one": update}, slots).pairs(mx.array(chosen))
        both = mx.broadcast_to(given_y[:, None, None], (rows, 2, 1, 4))
        found = pairs.add("one", given_x[:, None, None], both).squeeze(2)
        y = np.repeat(y[:, None], 2, axis=1)
    else:
        chosen = None
        found = add_updates(update, slots, given_x, given_y)
    for row, slot in enumerate(used):
        part = parts[slot - 1] if slot else None
        if part is None:
            continue
        delta = np.array(part.a, np.float64) @ np.array(part.b, np.float64)
        y[row] += x[row] @ (delta if chosen is None else delta[chosen[row]])
    np.testing.assert_allclose(np.array(found), y, atol=1e-4)
