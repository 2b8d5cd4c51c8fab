"""Memory of batches: requests are admitted, paused or refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions, KVBudget
from mlx_gptoss.errors import BusyError, ConfigError, MemoryBudgetError
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import write_tokenizer
from tests.support.submit import Submission

STEP = 256  # tokens: a capacity, as are 2 and 3 times as many


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), seed=1)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    with load(folder) as runtime:
        yield runtime


def governor(runtime: Runtime, kv_memory: int | None = None) -> KVBudget:
    return KVBudget(runtime.config, runtime.plan, kv_memory)


def test_the_room_is_what_the_plan_leaves(runtime: Runtime) -> None:
    plan = runtime.plan
    assert plan is not None

    room = governor(runtime).capacity

    rest = plan.weight_bytes + plan.scratch_bytes + plan.headroom_bytes
    assert room == plan.budget.bytes - rest


def test_needs_grow_by_the_capacities_of_slots(runtime: Runtime) -> None:
    found = governor(runtime)

    needs = [found.total_bytes([n]) for n in (1, STEP, STEP + 1, 384, 385, 2 * STEP)]

    assert needs[0] == needs[1] < needs[2] == needs[3] < needs[4] == needs[5]
    assert needs[4] - needs[2] == needs[2] - needs[0]


def test_spare_slots_are_counted(runtime: Runtime) -> None:
    found = governor(runtime)

    needs = [found.cache_bytes([STEP] * n) for n in (4, 5, 6, 7)]

    assert needs[0] < needs[1] == needs[2] < needs[3]


def test_the_longest_sequence_is_the_last_that_fits(runtime: Runtime) -> None:
    room = governor(runtime).total_bytes([3 * STEP])
    found = governor(runtime, room)

    assert found.max_sequence_tokens == 3 * STEP
    assert found.fits([3 * STEP])
    assert not found.fits([3 * STEP + 1])
    found.require_fit(3 * STEP - 1)
    with pytest.raises(MemoryBudgetError, match=r"enough for 767 tokens: shorten it"):
        found.require_fit(3 * STEP)


def test_generate_stays_within_the_memory_for_keys_and_values(
    runtime: Runtime, folder: Path
) -> None:
    room = governor(runtime).total_bytes([STEP])
    with load(folder, batch=BatchOptions(kv_memory=room)) as small:
        ids = [1] * (STEP - 3)
        cache = small.new_cache()
        small.logits(ids, cache)

        for reuse in (False, True):
            steps = list(small.generate(ids, stop_tokens={}, reuse=reuse))
            assert (len(steps), steps[-1].finish_reason) == (3, "length")
        with pytest.raises(MemoryBudgetError, match="enough for 255 tokens"):
            small.generate([1] * STEP)
        with pytest.raises(MemoryBudgetError, match="a prompt of 256 tokens"):
            small.generate([1] * 3, cache=cache)


def test_who_must_wait_for_memory_counts_as_waiting(
    runtime: Runtime, folder: Path
) -> None:
    """There are places left, but no room beside the one that runs."""
    room = governor(runtime).total_bytes([2 * STEP])
    with load(folder, batch=BatchOptions(kv_memory=room, max_waiting=0)) as small:
        endless = Submission(small, [1, 2, 3])
        while not endless.steps:
            endless.ended.wait(0.001)
        with pytest.raises(BusyError, match="as many requests run as fit"):
            Submission(small, [4, 5, 6])
        endless.request.cancel()

        assert (
            len(
                Submission(
                    small, [4, 5, 6], SamplingParams(max_tokens=2, seed=1)
                ).wait()
            )
            == 2
        )


def test_without_a_plan_everything_fits() -> None:
    found = KVBudget(None, None, None)

    assert found.fits([10**9])
    found.require_fit(10**9)


@pytest.mark.parametrize(
    "wrong", [{"max_running": 0}, {"max_waiting": -1}], ids=lambda x: next(iter(x))
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        BatchOptions(**wrong)


def test_a_prompt_that_never_fits_is_refused_with_advice(
    folder: Path, runtime: Runtime
) -> None:
    room = governor(runtime).total_bytes([STEP])
    with load(folder, batch=BatchOptions(kv_memory=room)) as small:
        with pytest.raises(MemoryBudgetError, match="give the model more memory"):
            Submission(small, [1] * STEP)
        last = Submission(small, [1] * (STEP - 2), stop_tokens={})

        assert [s.finish_reason for s in last.wait()] == [None, "length"]


def test_the_newest_pauses_where_all_would_not_fit_and_no_token_changes(
    folder: Path, runtime: Runtime
) -> None:
    """Three that fit as they begin and would not as they end; two fit at any time."""
    prompts = [[(n * 13 + k) % 200 for k in range(STEP - 12)] for n in range(3)]
    params = SamplingParams(temperature=1, seed=3, max_tokens=40)
    alone = [
        [step.token for step in runtime.generate(ids, params, stop_tokens={})]
        for ids in prompts
    ]
    found = governor(runtime)
    # They are let in with a step to grow by: what is left lets the third one in.
    room = found.total_bytes([2 * STEP, 2 * STEP, 2 * STEP])
    options = BatchOptions(kv_memory=room)
    with load(folder, batch=options) as small:
        # From the second round on there is room for two only.
        asked = [
            Submission(
                small, ids, params, stop_tokens={}, on_step=lambda _: shrink(small)
            )
            for ids in prompts
        ]
        tokens = [one.tokens for one in asked]
        statistics = small.batch_statistics

    assert tokens == alone
    assert statistics.paused >= 1
    assert statistics.finished == 3


def shrink(runtime: Runtime) -> None:
    """Take the room of one sequence away, as when others grow."""
    found = governor(runtime)
    runtime._scheduler.kv_budget.capacity = found.total_bytes([2 * STEP, 2 * STEP])


def test_a_paused_answer_goes_on_from_the_prompt_cache(
    folder: Path, runtime: Runtime
) -> None:
    """Whoever pauses while it reads or decodes reads nothing twice that was kept."""
    ids = [k % 200 for k in range(60)]
    params = SamplingParams(temperature=1, seed=1, max_tokens=10, top_logprobs=2)
    alone = list(runtime.generate(ids, params, stop_tokens={}))
    with load(folder) as other:
        engine = other._scheduler

        def pause(_: object) -> None:
            """Between this step and the next, as the governor would."""
            other._thread.post(
                lambda: [
                    engine._lifecycle.preempt(t)
                    for t in list(engine._lifecycle.running)
                ]
            )

        asked = Submission(other, ids, params, stop_tokens={}, on_step=pause)
        steps = asked.wait()
        statistics = other.batch_statistics

    expected = [replace(step, logprob=0.0, top_logprobs=()) for step in alone]
    assert [replace(s, logprob=0.0, top_logprobs=()) for s in steps] == expected
    assert [s.logprob for s in steps] == pytest.approx(
        [s.logprob for s in alone], abs=5e-4
    )
    assert statistics.paused >= 9


def test_what_the_prompt_cache_keeps_makes_room(folder: Path, runtime: Runtime) -> None:
    """Old prompts go before a request would have to wait for memory."""
    room = governor(runtime).total_bytes([3 * STEP, 3 * STEP])
    params = SamplingParams(temperature=0, max_tokens=3)
    with load(folder, batch=BatchOptions(kv_memory=room)) as small:
        for n in range(6):
            Submission(
                small, [(n + k * k) % 200 for k in range(2 * STEP)], params
            ).wait()
            kept = small.cache_statistics.nbytes
            assert kept <= room
        assert small.batch_statistics.paused == 0
