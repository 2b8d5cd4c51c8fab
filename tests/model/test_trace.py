"""Routing recorded from a run and replayed gives the hits of the run itself."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.model.experts.replay import hit_curve, layers_by_hit_rate, replay
from mlx_gptoss.model.experts.trace import (
    NOT_SEEN,
    RoutingTrace,
    open_trace,
    recording,
    save_trace,
)
from tests.support.streaming import resident, run, streamed, write

PROMPT = list(range(5, 30))


def made(rows: list[list[int]], *, prompt: int = 0, experts: int = 8) -> RoutingTrace:
    routing = np.array(rows, np.int16)[:, None]
    calls = [prompt] * (prompt > 0) + [1] * (len(rows) - prompt)
    return RoutingTrace(routing, np.array(calls, np.int32), experts, "made")


def test_a_recorded_run_is_the_run(tmp_path: Path) -> None:
    model = resident(write(tmp_path))
    expected = run(model, PROMPT, 4)
    with recording(model) as recorder:
        assert mx.array_equal(run(model, PROMPT, 4), expected)
    assert type(model.model.layers[0].mlp.experts).__name__ == "Experts"
    trace = recorder.trace("a model")
    assert trace.routing.shape == (len(PROMPT) + 4, 3, 3)
    assert trace.calls.tolist() == [8, 17, 1, 1, 1, 1]
    assert (trace.experts, trace.decoded) == (9, 4)


def test_what_a_layer_did_not_see_is_marked(tmp_path: Path) -> None:
    model = resident(write(tmp_path))
    with recording(model) as recorder:
        mx.eval(model.hidden(mx.array([PROMPT]), model.make_cache(), last=True))
    routing = recorder.trace("x").routing
    assert (routing[:-1, 2] == NOT_SEEN).all()
    assert (routing[-1] >= 0).all() and (routing[:, :2] >= 0).all()


def test_a_replay_has_the_hits_the_run_had(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    with streamed(checkpoint, 5) as found:
        with recording(found.model) as recorder:
            cache = found.model.make_cache()
            for token in PROMPT:
                mx.eval(found.model(mx.array([[token]]), cache))
        total = found.storage.statistics().total
    replayed = replay(recorder.trace("x"), 5)
    assert (replayed.lookups, replayed.hits) == (
        total.experts,
        total.experts - total.misses,
    )


def test_traces_are_kept(tmp_path: Path) -> None:
    trace = made([[1, 2], [3, 2]], prompt=1)
    found = open_trace(save_trace(trace, tmp_path / "trace"))
    assert np.array_equal(found.routing, trace.routing)
    assert (found.calls.tolist(), found.experts, found.model) == ([1, 1], 8, "made")


@pytest.mark.parametrize("content", [b"", b"{}", bytes(100)])
def test_other_files_are_no_traces(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a routing trace"):
        open_trace(path)


def test_a_trace_with_impossible_experts_is_damaged(tmp_path: Path) -> None:
    path = save_trace(made([[1, 9]]), tmp_path / "trace")
    with pytest.raises(CheckpointError, match="is a damaged trace"):
        open_trace(path)


def test_policies_drop_whom_they_should() -> None:
    """Three slots; expert 0 is used most, expert 3 now and then."""
    rows = [[0], [0], [1], [2], [3], [0], [1], [2]]
    hits = {
        policy: replay(made(rows), 3, policy).hits for policy in ("lru", "lfu", "ideal")
    }
    assert hits == {"lru": 1, "lfu": 2, "ideal": 3}


def test_prompts_fill_slots_and_are_not_counted() -> None:
    found = replay(made([[4], [5], [4], [5]], prompt=2), 2)
    assert (found.lookups, found.hits) == (2, 2)


def test_more_slots_never_miss_more() -> None:
    draw = np.random.default_rng(0)
    rows = [draw.permutation(8)[:2].tolist() for _ in range(300)]
    curve = hit_curve(made(rows), range(2, 9))
    rates = list(curve.values())
    assert rates == sorted(rates)
    assert list(curve) == [n / 8 for n in range(2, 9)]
    assert rates[-1] > 0.98  # all but the first touches


def test_ideal_is_never_worse() -> None:
    draw = np.random.default_rng(1)
    trace = made([draw.permutation(8)[:2].tolist() for _ in range(200)])
    for slots in (2, 4, 6):
        assert replay(trace, slots, "ideal").hits >= replay(trace, slots).hits


def test_the_layer_that_misses_most_is_named_first() -> None:
    steady = np.zeros((40, 1), np.int16)
    wild = np.arange(40, dtype=np.int16)[:, None] % 8
    routing = np.stack([steady, wild], axis=1)
    trace = RoutingTrace(routing, np.ones(40, np.int32), 8, "made")
    assert layers_by_hit_rate(trace, 4) == (1, 0)


def test_wrong_questions_are_named() -> None:
    with pytest.raises(CheckpointError, match="policy `random` is unknown"):
        replay(made([[1, 2]]), 4, "random")
    with pytest.raises(CheckpointError, match="1 slots cannot hold the 2 experts"):
        replay(made([[1, 2]]), 1)
