"""`answer_all`: many prompts together, replies as they end, one error one reply."""

import asyncio
import gc
import itertools
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from examples import answer_many
from mlx_gptoss import (
    AsyncChat,
    Chat,
    Reply,
    Runtime,
    SamplingParams,
    answer_all,
    answer_all_async,
    load,
)
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.errors import AnswerFormatError, AnswerTimeout, PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from tests.support.chat_turns import GREEDY, get_weather
from tests.support.counting_loop import CountingLoop
from tests.support.echoing import DONE, LONG, TALK, calling, echoing

OPTIONS: dict[str, Any] = {"params": GREEDY, "date": ""}


def by_prompt(replies: Iterator[Reply]) -> list[Reply]:
    return sorted(replies, key=lambda reply: reply.index)


def busy(runtime: Runtime) -> int:
    runtime.run(lambda: None)  # what the engine thread was doing is done
    return runtime.batch_statistics.running + runtime.batch_statistics.waiting


def test_every_prompt_has_its_reply() -> None:
    prompts = [f"question {n}" for n in range(40)]
    with echoing() as runtime:
        replies = by_prompt(answer_all(runtime, prompts, **OPTIONS))

    assert [reply.answer for reply in replies] == prompts
    assert [reply.prompt for reply in replies] == prompts
    assert {reply.finish_reason for reply in replies} == {"stop"}


def test_replies_come_as_they_end() -> None:
    prompts = [LONG[:90], "one", "two"]
    with echoing(0.0005) as runtime:
        places = [reply.index for reply in answer_all(runtime, prompts, **OPTIONS)]

    assert places == [1, 2, 0]


def test_sixteen_on_the_demo_take_less_than_a_third_of_the_passes() -> None:
    """One by one, each token is a pass of its own."""
    questions = [f"What is {100 + 7 * n} + {900 - 13 * n}?" for n in range(16)]
    params = SamplingParams(temperature=0, max_tokens=16)
    with load("demo", cache=CacheOptions(idle=False)) as runtime:
        replies = list(
            answer_all(runtime, questions, params=params, effort="low", date="")
        )
        passes = sum(runtime.batch_statistics.batch_sizes.values())

    assert all(reply.error is None for reply in replies)
    tokens = sum(reply.stats.completion_tokens for reply in replies)
    assert tokens >= 16 * 12 and passes * 3 < tokens


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_prompts_are_taken_than_are_soon_answered(most: int) -> None:
    taken = itertools.count()
    prompts = (f"prompt {next(taken)}" for _ in itertools.repeat(None))
    with echoing() as runtime:
        replies = answer_all(runtime, prompts, max_parallel=most, **OPTIONS)
        for read in range(20):
            next(replies)
            ahead = next(taken) - read
            taken = itertools.count(read + ahead)
            assert ahead <= 2 * most + 1
        gc.collect()
        chats = [one for one in gc.get_objects() if isinstance(one, AsyncChat)]
        assert len(chats) <= 2 * most + 2  # one is the pattern of all
        replies.close()

        assert busy(runtime) == 0
        assert runtime.batch_statistics.batch_sizes.keys() <= set(range(1, most + 1))


def test_leaving_the_loop_frees_all_rows() -> None:
    with echoing(0.001) as runtime:
        for reply in answer_all(runtime, ["hi", *[TALK] * 8], **OPTIONS):
            assert reply.answer == "hi"
            break
        assert busy(runtime) == 0
        assert not [one for one in threading.enumerate() if one.name == "answers"]


def test_an_error_of_one_is_not_the_error_of_others() -> None:
    prompts: list[Any] = [
        "one",
        "x" * 5000,  # longer than the context
        7,
        [{"role": "assistant", "content": "hi"}],
        [{"role": "user", "content": "two"}],
        [{"role": "poet", "content": "two"}],
        [],
    ]
    with echoing(context=1000) as runtime:
        replies = by_prompt(answer_all(runtime, prompts, **OPTIONS))

    assert [reply.answer for reply in replies if not reply.error] == ["one", "two"]
    told = [str(reply.error) for reply in replies if reply.error]
    assert [reply.finish_reason for reply in replies if reply.error] == ["error"] * 5
    for text, expected in zip(
        told,
        [
            "the context holds 1,000",
            "a prompt is int: give text, a list of messages, or (chat, text)",
            "a conversation has no question at its end",
            "messages[0] has role `poet`",
            "a conversation has no question at its end",
        ],
        strict=True,
    ):
        assert expected in text
    with pytest.raises(PromptError, match="context holds"):
        replies[1].raise_for_error()


def test_conversations_and_chats_are_prompts() -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and now?"},
    ]
    with echoing() as runtime:
        plain, later = Chat(runtime, **OPTIONS), AsyncChat(runtime, **OPTIONS)
        plain.ask("before")
        prompts = [talk, (plain, "one"), (later, "two")]
        replies = by_prompt(answer_all(runtime, prompts, **OPTIONS))

        assert [reply.answer for reply in replies] == ["and now?", "one", "two"]
        assert plain.questions == ["before", "one"]
        read = runtime.tokenizer.decode(runtime.model.feeds[-1])
    assert later.questions == ["two"]
    assert read is not None


def test_instructions_of_a_conversation_are_read() -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    with echoing() as runtime:
        [reply] = answer_all(runtime, [talk], **OPTIONS)
        fed = [token for feed in runtime.model.feeds for token in feed]
        read = runtime.tokenizer.decode(fed)

    assert reply.answer == "hi"
    assert "# Instructions\n\nBe brief." in read


def test_each_prompt_has_its_own_time() -> None:
    with echoing(0.005) as runtime:
        replies = by_prompt(
            answer_all(runtime, ["one", TALK, "two"], timeout=1.5, **OPTIONS)
        )
        assert busy(runtime) == 0

    assert [reply.answer for reply in replies if not reply.error] == ["one", "two"]
    late = replies[1]
    assert isinstance(late.error, AnswerTimeout) and late.finish_reason == "cancelled"
    assert 0 < len(late.answer) < len(LONG)


def test_answers_are_read_in_their_format() -> None:
    with echoing() as runtime:
        replies = by_prompt(
            answer_all(
                runtime,
                ["[1,2]", "[]", "[1,2,3"],
                response_format=list[int],
                params=SamplingParams(temperature=0, max_tokens=13),
                date="",
            )
        )

    assert [reply.parsed for reply in replies] == [[1, 2], [], None]
    assert isinstance(replies[2].error, AnswerFormatError)


def test_a_stop_string_ends_an_answer_where_it_stands() -> None:
    stop = Constraints(stop=(LONG[40:44],))
    with echoing() as runtime:
        [reply] = answer_all(runtime, [TALK], constraints=stop, **OPTIONS)
        alone = Chat(runtime, constraints=stop, **OPTIONS).ask(TALK)

    assert reply.answer == alone.answer == LONG[:40]
    assert reply.stats.completion_tokens == alone.stats.completion_tokens


def test_the_reader_is_not_woken_for_each_token() -> None:
    async def main(runtime: Runtime) -> None:
        texts = [LONG[n : n + 200] for n in range(4)]
        found = [r async for r in answer_all_async(runtime, texts, **OPTIONS)]
        assert sorted(r.answer for r in found) == sorted(texts)

    with echoing() as runtime, asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main(runtime))
        passes = sum(runtime.batch_statistics.batch_sizes.values())
        loop = runner.get_loop()
    assert isinstance(loop, CountingLoop)
    assert passes > 200 and loop.wakes < passes / 2


def test_tools_of_many_prompts_run_at_the_same_time() -> None:
    together = threading.Barrier(4)

    def meet() -> str:
        """Meets the others."""
        together.wait(30)
        return "met"

    with echoing() as runtime:
        replies = list(
            answer_all(runtime, [calling("meet")] * 4, tools=[meet], **OPTIONS)
        )

    assert [reply.answer for reply in replies] == [DONE] * 4
    assert [call.result for reply in replies for call in reply.calls] == ["met"] * 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_parallel": 0}, "`max_parallel` is 0"),
        ({"timeout": -1}, "`timeout` is -1"),
        ({"response_format": 7}, "`response_format` is 7"),
        ({"overflow": "sometimes"}, "overflow `sometimes` is unknown"),
        ({"tools": [get_weather, get_weather]}, "two tools are named"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], problem: str
) -> None:
    with echoing() as runtime:
        with pytest.raises(PromptError, match=problem):
            answer_all(runtime, ["hi"], **options)
        for answer in (answer_all, answer_all_async):
            with pytest.raises(PromptError, match="`prompts` is one text"):
                answer(runtime, "hi")
        with pytest.raises(TypeError, match="efort"):
            answer_all(runtime, ["hi"], efort="low")


def test_an_error_of_the_prompts_ends_all() -> None:
    def prompts() -> Iterator[str]:
        yield TALK
        raise OSError("the disk is gone")

    with echoing(0.001) as runtime:
        with pytest.raises(OSError, match="the disk is gone"):
            list(answer_all(runtime, prompts(), **OPTIONS))
        assert busy(runtime) == 0


def test_a_closed_model_ends_the_iteration() -> None:
    runtime = echoing()
    replies = answer_all(runtime, itertools.repeat("hi"), **OPTIONS)
    next(replies)
    runtime.close()

    with pytest.raises(Exception, match="closed"):
        list(replies)


def test_in_an_event_loop_they_are_iterated_with_async_for() -> None:
    async def prompts() -> AsyncIterator[str]:
        for n in range(10):
            await asyncio.sleep(0)
            yield f"question {n}"

    async def main(runtime: Runtime) -> None:
        found = [r async for r in answer_all_async(runtime, prompts(), **OPTIONS)]
        assert sorted(r.answer for r in found) == [f"question {n}" for n in range(10)]
        texts = ["one", "x" * 5000, "two"]
        found = [r async for r in answer_all_async(runtime, texts, **OPTIONS)]
        assert sorted(r.index for r in found if r.error is None) == [0, 2]

        asking = asyncio.create_task(anext(endless(runtime)))
        while not runtime.batch_statistics.running:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while busy(runtime):
            await asyncio.sleep(0.001)

    def endless(runtime: Runtime) -> Any:
        return answer_all_async(runtime, [TALK] * 99, **OPTIONS)

    with echoing(0.0002, context=1000) as runtime:
        asyncio.run(main(runtime))


def test_the_example_compares_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    answer_many.main("demo", "2", "1")
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ tok/s one by one, \d+ together: [\d.]+ times", first)
    assert re.fullmatch(r"median [\d.]+ times", last)
