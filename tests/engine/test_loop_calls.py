"""Event loops are woken once for all steps of a pass, not once for each."""

import asyncio
import threading
from typing import Any

from mlx_gptoss.chat.turn_work import NextStep, TimeLimit
from mlx_gptoss.engine.loop_calls import LoopCalls
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from tests.support.counting_loop import CountingLoop
from tests.support.fakes import noisy

READERS, TOKENS = 8, 30
PARAMS = SamplingParams(temperature=0, max_tokens=TOKENS)


def test_calls_keep_their_order_and_wake_each_loop_once() -> None:
    said: list[Any] = []
    calls, loops = LoopCalls(), [CountingLoop(), CountingLoop()]
    for n in range(6):
        calls.add(loops[n % 2], said.append, n)
    calls.deliver()
    calls.deliver()
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
    assert [loop.wakes for loop in loops] == [1, 1]
    assert said == [0, 2, 4, 1, 3, 5]

    for loop in loops:
        loop.close()
    calls.add(loops[0], said.append, 6)
    calls.deliver()  # nobody waits there
    assert 6 not in said


def test_an_error_of_one_call_does_not_keep_the_others() -> None:
    said: list[Any] = []
    calls, loop = LoopCalls(), asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, found: said.append(type(found["exception"])))
    calls.add(loop, lambda: 1 / 0)
    calls.add(loop, said.append, "after")
    calls.deliver()
    for _ in range(2):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert said == [ZeroDivisionError, "after"]


def test_readers_of_a_batch_are_woken_once_a_pass() -> None:
    with Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime:
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            counts = runner.run(read_together(runtime))
            loop = runner.get_loop()
        passes = sum(runtime.batch_statistics.batch_sizes.values())
    assert counts == [TOKENS] * READERS
    assert isinstance(loop, CountingLoop)
    assert loop.wakes <= passes + READERS + 1  # each end is told at once


def test_readers_of_whole_answers_are_woken_for_many_steps_at_once() -> None:
    with (
        Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime,
        asyncio.Runner(loop_factory=CountingLoop) as runner,
    ):
        counts = runner.run(read_together(runtime, 16))
        loop = runner.get_loop()
    assert counts == [TOKENS] * READERS
    assert isinstance(loop, CountingLoop)
    assert loop.wakes <= 2 * READERS + 1  # once on the way, and at the end


async def read_together(runtime: Runtime, steps: int = 1) -> list[int]:
    """Have several streams begin in one pass; return how many steps each had."""
    go_on = threading.Event()
    runtime._thread.post(go_on.wait)

    async def read(n: int) -> int:
        stream, count = runtime.generate([3, 1, 4, n], PARAMS), 0
        while await NextStep(stream, steps).run_async(TimeLimit(None)) is not None:
            count += 1
        return count

    tasks = [asyncio.create_task(read(n)) for n in range(READERS)]
    await asyncio.sleep(0)  # all are submitted
    go_on.set()
    return await asyncio.gather(*tasks)
