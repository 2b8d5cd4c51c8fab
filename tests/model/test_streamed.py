"""Streamed experts equal resident ones bit for bit, whatever the number of slots."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.errors import ConfigError, MemoryBudgetError
from mlx_gptoss.model.device import on_gpu
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support import checkpoints, layout_writers
from tests.support.streaming import SMALL, resident, run, streamed, write

E, T = SMALL["num_local_experts"], 3
EXPERT_BYTES = 3 * 192 * 96 * 17 // 32  # three matrices at 4.25 bits
PROMPT = np.random.default_rng(4).integers(0, 301, 70).tolist()
SHORT = PROMPT[:7]
AFFINE = "mlx-split-affine"
LAYOUTS = ["hf", "hf-sharded", "original", "mlx-packed", "mlx-split-mxfp4", AFFINE]
exact = pytest.mark.skipif(on_gpu(), reason="kernels of a GPU round differently")


@pytest.fixture(params=["expert by expert", "gathered"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways a CPU prefills; experts this small use the second by default."""
    if request.param == "expert by expert":
        monkeypatch.setattr(
            "mlx_gptoss.model.experts.resident.ONE_BY_ONE_MIN_PRODUCTS", 0
        )


@exact
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("layout", "slots"),
    [*(("hf", n) for n in range(T, E + 1)), *(("mlx-split-mxfp4", n) for n in (3, 6))],
)
def test_every_number_of_slots_gives_the_same_logits(
    layout: str, slots: int, tmp_path: Path
) -> None:
    checkpoint = write(tmp_path, layout)
    expected = run(resident(checkpoint), PROMPT, 5)
    with streamed(checkpoint, slots) as found:
        assert mx.array_equal(run(found.model, PROMPT, 5), expected)
        total = found.storage.statistics().total
    assert total.misses > 0
    assert total.bytes_read == total.misses * EXPERT_BYTES


@exact
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_where_it_lies(layout: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, layout)
    expected = run(resident(checkpoint), SHORT, 6)
    with streamed(checkpoint, 4) as found:
        assert mx.array_equal(run(found.model, SHORT, 6), expected)


@pytest.mark.parametrize(
    ("layout", "runs"), [("hf", 4), ("mlx-split-mxfp4", 6), (AFFINE, 9)]
)
def test_an_expert_is_read_in_one_go_a_run(
    layout: str, runs: int, tmp_path: Path
) -> None:
    records = expert_records(write(tmp_path, layout))[0]
    found = list(records.byte_ranges(4))
    assert len(found) == runs
    for _, stack, at in found:  # the fifth of E pieces of a stack
        assert at == stack.offset + 4 * stack.nbytes


@exact
@pytest.mark.parametrize("streamed_layers", [(), (1,), (0, 2), (0, 1, 2)])
def test_any_layers_may_be_streamed(
    streamed_layers: tuple[int, ...], tmp_path: Path
) -> None:
    checkpoint = write(tmp_path)
    expected = run(resident(checkpoint), PROMPT, 3)
    slots = {layer: 3 + layer for layer in streamed_layers}
    with streamed(checkpoint, slots) as found:
        assert mx.array_equal(run(found.model, PROMPT, 3), expected)
        assert set(found.storage.statistics().layers) == set(streamed_layers)


@exact
def test_slots_that_are_assigned_give_the_same(tmp_path: Path) -> None:
    """The fallback for a device that does not see writes through a view."""
    checkpoint = write(tmp_path)
    expected = run(resident(checkpoint), PROMPT, 5)
    with streamed(checkpoint, 4, in_place=False) as found:
        assert mx.array_equal(run(found.model, PROMPT, 5), expected)


@exact
def test_one_slot_is_enough_where_a_token_takes_one_expert(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, num_experts_per_tok=1)
    expected = run(resident(checkpoint), SHORT, 4)
    with streamed(checkpoint, 1) as found:
        assert mx.array_equal(run(found.model, SHORT, 4), expected)


def test_fewer_slots_than_a_token_needs_are_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    with pytest.raises(MemoryBudgetError, match="has 2 slots for experts, and every"):
        streamed(checkpoint, T - 1)


@exact
@pytest.mark.parametrize(
    ("slots", "dtype", "in_place"),
    [
        (T, mx.float32, True),
        (5, mx.bfloat16, True),
        (5, mx.bfloat16, False),
        (E, mx.float32, False),
    ],
)
def test_affine_experts_are_streamed_too(
    slots: int, dtype: mx.Dtype, in_place: bool, tmp_path: Path
) -> None:
    """Their scales are floats, cast to the compute dtype like resident ones."""
    checkpoint = write(tmp_path, AFFINE)
    expected = run(resident(checkpoint, dtype), PROMPT, 5)
    with streamed(checkpoint, slots, dtype=dtype, in_place=in_place) as found:
        assert mx.array_equal(run(found.model, PROMPT, 5), expected)


def test_dense_experts_are_not_streamed(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "dense")
    with pytest.raises(ConfigError, match="are not quantized, and only"):
        streamed(checkpoint, 4)


@exact
def test_layers_of_other_sizes_and_counts_are_streamed(tmp_path: Path) -> None:
    config = checkpoints.hf_config(**SMALL)
    pruned = {
        name: x[: 9 - 2 * int(name.split(".")[2])] if ".mlp." in name else x
        for name, x in checkpoints.random_tensors(config, seed=11).items()
    }
    layout_writers.write_split_mixed(tmp_path, config, pruned)
    checkpoint = open_checkpoint(tmp_path)
    expected = run(resident(checkpoint), PROMPT, 3)
    with streamed(checkpoint, 6) as found:
        assert mx.array_equal(run(found.model, PROMPT, 3), expected)
        slots = [layer.slots for layer in found.storage.layers.values()]
    assert slots == [6, 6, 5]


@exact
def test_batches_of_tokens_give_what_they_give_when_resident(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    ids = mx.array(np.random.default_rng(1).integers(0, 301, (5, 6)))
    expected = in_batch(resident(checkpoint), ids)
    with streamed(checkpoint, 4) as found:
        logits = in_batch(found.model, ids)
    assert all(map(mx.array_equal, logits, expected))


def in_batch(model: GptOss, ids: mx.array) -> list[mx.array]:
    """Prefill half of sequences of equal length, then feed the rest token by token."""
    pool = model.make_pool()
    caches = [pool.make_cache() for _ in range(ids.shape[0])]
    hidden = [
        model.hidden(ids[:, :3].reshape(1, -1), caches, lengths=[3] * len(caches))
    ]
    hidden += [model.hidden(ids[None, :, n], caches) for n in range(3, ids.shape[1])]
    rows = [model.logits(h) for h in hidden]
    mx.eval(rows)
    return rows


@exact
def test_results_that_wait_are_not_overwritten(tmp_path: Path) -> None:
    """Two graphs built before either is evaluated, with the fewest slots."""
    checkpoint = write(tmp_path)
    tokens = [mx.array([[token]]) for token in range(20, 40)]
    plain = resident(checkpoint)
    expected = [plain(token) for token in tokens]
    with streamed(checkpoint, T) as found:
        logits = [found.model(token) for token in tokens]
        mx.eval(logits, expected)
        assert all(map(mx.array_equal, logits, expected))


@exact
def test_pipelined_decoding_is_exact(tmp_path: Path) -> None:
    """Each step is requested before the previous token is read, as in `generate`."""
    checkpoint = write(tmp_path)

    def decode(model: GptOss) -> list[object]:
        tokens: list[object] = []
        cache, token = model.make_cache(), mx.array([[5]])
        for _ in range(40):
            following = mx.argmax(model(token, cache)[:, -1:], axis=-1)
            mx.async_eval(following)
            tokens.append(token.item())
            token = following
        return tokens

    expected = decode(resident(checkpoint))
    with streamed(checkpoint, T) as found:
        assert decode(found.model) == expected


def test_steady_decoding_allocates_nothing(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    with streamed(checkpoint, 4) as found:
        model = found.model
        cache, token = model.make_cache(), mx.array([[5]])
        active = []
        for _ in range(60):
            token = mx.argmax(model(token, cache)[:, -1:], axis=-1)
            mx.eval(token)
            active.append(mx.get_active_memory())
        assert found.storage.statistics().total.misses > 60
        assert len(set(active[20:])) == 1


def test_pools_are_no_parameters(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    with streamed(checkpoint, 4) as found:
        experts = found.model.model.layers[0].mlp.experts
        assert sorted(experts.parameters()) == ["down_proj", "gate_up_proj"]
        assert list(experts.down_proj.parameters()) == ["bias"]
        assert experts.slots == 4
