"""Answers on an event loop: a consumer that does not read stalls only its own."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt, merge_answers
from mlx_gptoss.api.reply_parser import ReplyParser
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.raw_text import TextParser
from mlx_gptoss.engine.runtime import RUN_AHEAD, Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from tests.support.counting_loop import CountingLoop
from tests.support.fakes import FakeModel, byte_tokenizer

LONG = SamplingParams(seed=1, max_tokens=3 * RUN_AHEAD)
SHORT = SamplingParams(seed=2, max_tokens=5)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    model = FakeModel(lambda ids: [float(token == ord("a")) for token in range(256)])
    options = CacheOptions(idle=False)
    with Runtime(model, tokenizer=byte_tokenizer(), cache=options) as runtime:
        yield runtime


async def started(runtime: Runtime, params: SamplingParams) -> AnswerStream:
    parser = ReplyParser(TextParser(runtime.tokenizer))
    answer = AnswerStream(runtime, PreparedPrompt([3, 1, 4], params, parser))
    await answer.start()
    return answer


async def stalled(runtime: Runtime, count: int) -> None:
    while len(runtime._scheduler._lifecycle.stalled) < count:
        await asyncio.sleep(0.001)


async def consumed(answer: AnswerStream) -> int:
    return sum([1 async for _ in answer]) - 1  # the last is the end


def test_a_slow_consumer_stalls_its_answer_only(runtime: Runtime) -> None:
    async def work() -> tuple[int, int, int]:
        slow = await started(runtime, LONG)
        await stalled(runtime, 1)
        ahead = slow._steps.qsize()
        other = await consumed(await started(runtime, SHORT))
        return ahead, other, await consumed(slow)

    assert asyncio.run(work()) == (RUN_AHEAD, 5, 3 * RUN_AHEAD)


def test_merged_answers_are_read_as_they_are_consumed(runtime: Runtime) -> None:
    async def work() -> list[int]:
        answers = [await started(runtime, LONG) for _ in range(2)]
        counts = [0, 0]
        async for index, token in merge_answers(answers):
            if not sum(counts):
                await stalled(runtime, 2)  # nobody has read them ahead
            counts[index] += token is not None
        return counts

    assert asyncio.run(work()) == [3 * RUN_AHEAD + 1] * 2


def test_answers_of_one_batch_wake_the_loop_once_a_pass(runtime: Runtime) -> None:
    params = SamplingParams(seed=1, max_tokens=30)

    async def work(loop: CountingLoop) -> list[int]:
        go_on = threading.Event()
        runtime._thread.post(go_on.wait)
        answers = [await started(runtime, params) for _ in range(8)]
        loop.wakes = 0
        go_on.set()
        return await asyncio.gather(*map(consumed, answers))

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        assert runner.run(work(loop)) == [30] * 8
        wakes = loop.wakes
    passes = sum(runtime.batch_statistics.batch_sizes.values())
    assert wakes <= passes + 2 * 8  # how the prompts were read, and the ends
